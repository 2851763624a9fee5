"""Storage of a quantized transformer: predicted from shapes alone, equal to the bytes on disk.

Equal tensors count once: diffusers' DiT keeps a copy of its embedders in every block, and sites that
read one tensor share its change of basis.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .adapters import Adapter, Site, adapters
from .cards import load_method, methods
from .errors import BadInput, unknown
from .folding import Fold, makers
from .loading import open_model
from .schema import Bits, Plan, Sampler, SitePlan, Value
from .site_tensors import OF_INPUT, Transform, buffer_shapes
from .sources import Source, check_source
from .storage import is_embedder, kept_dtype, stored_tensors
from .tensor_files import Shapes, header, tensor_bytes

MIB = 2**20
SHAPES = Path(__file__).parent / "shapes"


@dataclass(frozen=True)
class SizeReport:
    """Bytes of a transformer and where they go."""

    total_bytes: int  # the safetensors file, header included
    fp16_bytes: int  # the same transformer with 16-bit weights
    blocks_mib: float  # quantized sites alone, biases included
    bits_per_weight: float  # of quantized sites: all that is stored but the biases, over weights
    parts: dict[str, int]  # bytes by kind
    code_bits: float = 16.0  # of quantized sites: the codes alone, over weights
    codebooks: int = 0  # how many
    block_bits: float = (
        16.0  # codes of all linears of the blocks but embedders, what is kept included
    )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; `size_bytes` is another name for the total."""
        return {**asdict(self), "size_bytes": self.total_bytes}


def known_shapes() -> dict[str, Path]:
    """Configurations of public models, by name: sizes need no weights."""
    return {path.stem: path for path in sorted(SHAPES.glob("*.json"))}


def load_shape(name: str) -> tuple[nn.Module, Adapter]:
    """An empty transformer (meta device) of a known configuration."""
    import diffusers

    if name not in known_shapes():
        raise unknown("shape", name, known_shapes())
    config = json.loads(known_shapes()[name].read_text(encoding="utf-8"))
    cls = config.pop("_class_name")
    with torch.device("meta"):
        transformer = getattr(diffusers, cls)(**config)
    return transformer, adapters()[cls]


@dataclass(frozen=True)
class Target:
    """What a size is asked of: a known shape, or a model before it is quantized."""

    ref: str
    transformer: nn.Module
    adapter: Adapter
    sites: list[Site]
    dtype: torch.dtype  # of the file
    shared: set[str] | None  # tensors stored under another name; None: those of a conversion
    sampler: Sampler  # of the model's card; for a shape, its family's steps and guidance


def open_target(target: str | Source) -> Target:
    """A known shape by name, or a model by any name that `load_model` takes."""
    source = Source(ref=target) if isinstance(target, str) else target
    ref = source.ref
    if ref in known_shapes():
        transformer, adapter = load_shape(ref)
        drawn = {name: adapter.defaults[name] for name in ("steps", "guidance")}
        sampler = Sampler(scheduler="unknown", **drawn)
        sites = adapter.sites(transformer)
        return Target(ref, transformer, adapter, sites, torch.float16, None, sampler)
    check_source(source, extra=known_shapes())
    model = open_model(source)
    shared = set(stored_tensors(model.transformer, model.source_dtype).shared)
    return Target(
        ref,
        model.transformer,
        model.adapter,
        model.sites,
        model.source_dtype,
        shared,
        model.sampler(),
    )


def size_of(
    target: str | Target,
    method: str,
    bits: Bits | None,
    *,
    plan: Plan | None = None,
    options: Mapping[str, Any] | None = None,
) -> SizeReport:
    """Storage of a known shape, or of a model, before quantizing it.

    Give `bits` for the same formats everywhere, or a `plan`. Methods that choose a transform site by
    site are counted with the most that a site may store, methods with static ranges per step with
    the steps of the model's card (of a shape without a card, 50).
    """
    target = open_target(target) if isinstance(target, str) else target
    formats, transforms = stored_forms(target, method, bits, plan, options)
    return predict_size(
        target.transformer,
        target.sites,
        formats,
        transforms,
        dtype=target.dtype,
        shared=target.shared,
    )


def stored_forms(
    target: Target,
    method: str,
    bits: Bits | None,
    plan: Plan | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Mapping[str, SitePlan], dict[str, Transform]]:
    """Formats and transform of every quantized site, as far as they are known without a calibration."""
    from .method_options import parse_options
    from .plans import check_formats, check_sites, uniform_formats

    chosen = parse_options(method, options or {})
    transform: Transform = load_method(method).stored_transform(chosen)
    sites = target.sites
    if plan is not None:
        check_sites(plan, sites, target.ref)
        formats: Mapping[str, SitePlan] = plan.sites
    elif bits is not None:
        formats = uniform_formats(sites, bits, windows=1, also=methods()[method].also)
    else:
        raise BadInput("give --bits or --plan")
    check_formats(methods()[method], formats)
    formats, transforms = unfolded_forms(method, chosen, sites, formats, target.sampler.steps)
    fold: Fold = getattr(chosen, "fold", "none")
    if transform.scale and not transform.per_window and fold != "none":
        producers = target.adapter.producers(target.transformer)
        for name, into in makers(producers, sites, formats, fold).items():
            if not isinstance(into, str):
                transforms[name] = replace(transform, scale=False, folded_into=into)
    return formats, transforms


def unfolded_forms(
    method: str,
    options: Value,
    sites: list[Site],
    formats: Mapping[str, SitePlan],
    steps: int,
) -> tuple[Mapping[str, SitePlan], dict[str, Transform]]:
    """Formats and transforms as a method has them, where no channel scale is folded."""
    from .site_groups import with_own_formats

    module = load_method(method)
    formats = with_own_formats(module, sites, formats, options)
    if hasattr(module, "stored_formats"):
        widths = {site.name: site.in_features for site in sites}
        formats = {
            name: module.stored_formats(site, widths[name], options, steps)
            for name, site in formats.items()
        }
    stored: Transform = module.stored_transform(options)
    transforms = dict.fromkeys(formats, stored)
    if hasattr(module, "site_transform"):
        transforms = {s.name: module.site_transform(s, options) for s in sites if s.name in formats}
    return formats, transforms


def predict_size(
    transformer: nn.Module,
    sites: list[Site],
    plan: Mapping[str, SitePlan],
    transforms: Mapping[str, Transform] | Transform,
    *,
    dtype: torch.dtype = torch.float16,
    shared: set[str] | None = None,
) -> SizeReport:
    """What a checkpoint of `transformer` will take.

    Args:
        transformer: full precision, may be on the meta device.
        sites: of its adapter.
        plan: formats by site; sites that it does not name are kept.
        transforms: input transform of every site, or one for all.
        dtype: of kept weights and biases.
        shared: tensors that equal another and are left out; by default the copies that the family's
            conversion makes.
    """
    left_out = copies(transformer) if shared is None else shared
    quantized = any(site.quantized for site in plan.values())
    full = kept_shapes(transformer, left_out, dtype, quantized=quantized)
    return size_with(full, sites, plan, transforms, dtype)


def kept_shapes(
    transformer: nn.Module, left_out: set[str], dtype: torch.dtype, *, quantized: bool = True
) -> Shapes:
    """What full precision has, as a checkpoint keeps it; with nothing quantized it is the file that the model came from."""
    stored = kept_dtype if quantized else lambda _, dtype: dtype
    return {
        name: (tuple(t.shape), stored(t, dtype) if t.is_floating_point() else t.dtype)
        for name, t in transformer.state_dict().items()
        if name not in left_out
    }


def size_with(
    full: Shapes,
    sites: list[Site],
    plan: Mapping[str, SitePlan],
    transforms: Mapping[str, Transform] | Transform,
    dtype: torch.dtype,
) -> SizeReport:
    """`predict_size` from the shapes of what is kept (`kept_shapes`), without the transformer."""
    quantized = _quantized(sites, plan)
    shapes = planned_shapes(full, sites, plan, transforms, dtype)
    half = {
        n: (shape, torch.float16 if kind.is_floating_point else kind)
        for n, (shape, kind) in full.items()
    }
    return report(shapes, sites, set(quantized), file_bytes(shapes), file_bytes(half))


def planned_shapes(
    full: Shapes,
    sites: list[Site],
    plan: Mapping[str, SitePlan],
    transforms: Mapping[str, Transform] | Transform,
    dtype: torch.dtype,
) -> Shapes:
    """Every tensor of a plan's file."""
    quantized, shapes_of = _quantized(sites, plan), {site.name: site for site in sites}
    of_site = {
        n: transforms if isinstance(transforms, Transform) else transforms[n] for n in quantized
    }
    divided = {f"{n}.bias" for transform in of_site.values() for n in transform.folded_into}
    full = full | {n: (full[n][0], torch.float32) for n in divided if n in full}
    shapes = {n: v for n, v in full.items() if n.rpartition(".")[0] not in quantized}
    bases: set[tuple[str, Transform]] = set()  # that a site has already
    for name, formats in quantized.items():
        transform, site = of_site[name], shapes_of[name]
        bias = f"{name}.bias" in full
        buffers = buffer_shapes(
            site.in_features, site.out_features, bias, formats, transform, dtype
        )
        if transform.requantized:
            buffers["weight"] = buffers["weight"][0], full[f"{name}.weight"][1]
        if bias and not transform.learned_bias:
            buffers["bias"] = full[f"{name}.bias"]
        basis = site.input_of, replace(transform, rank=0, requantized=False)
        if basis in bases:
            buffers = {n: value for n, value in buffers.items() if n not in OF_INPUT}
        bases.add(basis)
        shapes |= {f"{name}.{buffer}": value for buffer, value in buffers.items()}
    return shapes


def _quantized(sites: list[Site], plan: Mapping[str, SitePlan]) -> dict[str, SitePlan]:
    planned = {site.name: plan.get(site.name) for site in sites}
    return {n: p for n, p in planned.items() if p is not None and p.quantized}


def copies(transformer: nn.Module) -> set[str]:
    """Embedder tensors after the first block's: in converted checkpoints they are copies of it."""
    embedders = [name for name in transformer.state_dict() if is_embedder(name)]
    first: dict[str, str] = {}
    for name in embedders:
        first.setdefault(name.partition(".emb.")[2], name)
    return set(embedders) - set(first.values())


def file_bytes(shapes: Shapes) -> int:
    """Size of a safetensors file with these tensors."""
    return header_bytes(shapes) + sum(tensor_bytes(*value) for value in shapes.values())


def header_bytes(shapes: Shapes) -> int:
    """Size of the header of such a file, as our checkpoints have it."""
    return len(header(shapes, {"format": "pt"}))


_KINDS = {
    "codes": "codes",
    "codebook": "codebooks",
    "codebook_scale": "codebooks",
    "weight": "codes",
    "scale": "scales",
    "zero": "zeros",
    "channel_scale": "transforms",
    "shift": "transforms",
    "migration": "transforms",
    "signs": "transforms",
    "rotations": "transforms",
    "order": "transforms",
    "outer": "scales",
    "act_scale": "scales",
    "act_zero": "zeros",
    "down": "branches",
    "up": "branches",
    "bias": "biases",
}


def report(
    shapes: Shapes, sites: list[Site], quantized: set[str], total: int, full: int
) -> SizeReport:
    """Sort the bytes of a file by kind."""
    parts: dict[str, int] = dict.fromkeys(
        ("codes", "codebooks", "scales", "zeros", "transforms", "branches", "biases", "kept"), 0
    )
    for name, value in shapes.items():
        owner, _, last = name.rpartition(".")
        parts[_KINDS[last] if owner in quantized else "kept"] += tensor_bytes(*value)
    inside = sum(size for kind, size in parts.items() if kind != "kept")
    weights = sum(s.in_features * s.out_features for s in sites if s.name in quantized)
    parts["header"] = total - sum(parts.values())
    return SizeReport(
        total_bytes=total,
        fp16_bytes=full,
        blocks_mib=inside / MIB,
        bits_per_weight=8 * (inside - parts["biases"]) / weights if weights else 16.0,
        parts=parts,
        code_bits=8 * parts["codes"] / weights if weights else 16.0,
        codebooks=sum(
            last == "codebook" and owner in quantized
            for owner, _, last in (name.rpartition(".") for name in shapes)
        ),
        block_bits=_block_bits(shapes, sites),
    )


def _block_bits(shapes: Shapes, sites: list[Site]) -> float:
    inside = [s for s in sites if s.block is not None and s.role != "embed"]
    held = [shapes.get(f"{s.name}.codes") or shapes[f"{s.name}.weight"] for s in inside]
    weights = sum(s.in_features * s.out_features for s in inside)
    return 8 * sum(tensor_bytes(*value) for value in held) / weights if weights else 16.0
