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
from .schema import Bits, Plan, Sampler, SitePlan
from .site_tensors import OF_INPUT, Transform, buffer_shapes
from .storage import is_embedder, kept_dtype, stored_tensors

MIB = 2**20
STEPS = 50  # of a sampler that is not known
SHAPES = Path(__file__).parent / "shapes"

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]


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
    sampler: Sampler  # of the model's card; for a shape, STEPS steps with guidance


def open_target(ref: str) -> Target:
    """A known shape by name, or a model by any name that `load_model` takes."""
    from .models import load_model, resolve

    if ref in known_shapes():
        transformer, adapter = load_shape(ref)
        sampler = Sampler(scheduler="unknown", steps=STEPS, guidance=4.0)
        sites = adapter.sites(transformer)
        return Target(ref, transformer, adapter, sites, torch.float16, None, sampler)
    resolve(ref, extra=known_shapes())
    model = load_model(ref)
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
    from .plans import check_sites, check_widths, uniform_formats
    from .quantization import parse_options, with_own_formats

    chosen = parse_options(method, options or {})
    module = load_method(method)
    transform: Transform = module.stored_transform(chosen)
    sites = target.sites
    if plan is not None:
        check_sites(plan, sites, target.ref)
        formats: Mapping[str, SitePlan] = plan.sites
    elif bits is not None:
        formats = uniform_formats(sites, bits, windows=1, also=methods()[method].also)
    else:
        raise BadInput("give --bits or --plan")
    check_widths(methods()[method], formats)
    formats = with_own_formats(module, sites, formats, chosen)
    if hasattr(module, "stored_formats"):
        widths = {site.name: site.in_features for site in sites}
        steps = target.sampler.steps
        formats = {
            name: module.stored_formats(site, widths[name], chosen, steps)
            for name, site in formats.items()
        }
    transforms: dict[str, Transform] = dict.fromkeys(formats, transform)
    if hasattr(module, "site_transform"):
        transforms = {s.name: module.site_transform(s, chosen) for s in sites if s.name in formats}
    fold: Fold = getattr(chosen, "fold", "none")
    if transform.scale and not transform.per_window and fold != "none":
        producers = target.adapter.producers(target.transformer)
        for name, into in makers(producers, sites, formats, fold).items():
            if not isinstance(into, str):
                transforms[name] = replace(transform, scale=False, folded_into=into)
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
    planned = {site.name: plan.get(site.name) for site in sites}
    quantized = {n: p for n, p in planned.items() if p is not None and p.quantized}
    # With nothing quantized it is the file that the model came from.
    stored = kept_dtype if quantized else lambda _, dtype: dtype
    full: Shapes = {
        name: (tuple(t.shape), stored(t, dtype) if t.is_floating_point() else t.dtype)
        for name, t in transformer.state_dict().items()
        if name not in left_out
    }
    of_site = {
        n: transforms if isinstance(transforms, Transform) else transforms[n] for n in quantized
    }
    divided = {f"{n}.bias" for transform in of_site.values() for n in transform.folded_into}
    full |= {n: (full[n][0], torch.float32) for n in divided if n in full}
    shapes = {n: v for n, v in full.items() if n.rpartition(".")[0] not in quantized}
    inputs = {site.name: site.input_of for site in sites}
    bases: set[tuple[str, Transform]] = set()  # that a site has already
    for name, site in quantized.items():
        transform = of_site[name]
        linear = transformer.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        buffers = buffer_shapes(
            linear.in_features, linear.out_features, linear.bias is not None, site, transform, dtype
        )
        if transform.requantized:
            buffers["weight"] = buffers["weight"][0], kept_dtype(linear.weight, dtype)
        if linear.bias is not None and not transform.learned_bias:
            buffers["bias"] = full[f"{name}.bias"]
        basis = inputs[name], replace(transform, rank=0, requantized=False)
        if basis in bases:
            buffers = {n: value for n, value in buffers.items() if n not in OF_INPUT}
        bases.add(basis)
        shapes |= {f"{name}.{buffer}": value for buffer, value in buffers.items()}
    half = {
        n: (shape, torch.float16 if kind.is_floating_point else kind)
        for n, (shape, kind) in full.items()
    }
    return report(shapes, sites, set(quantized), file_bytes(shapes), file_bytes(half))


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


def tensor_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of one tensor."""
    return torch.Size(shape).numel() * dtype.itemsize


_NAMES = {  # in the order of the format's own dtype list, by which it sorts tensors
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
_RANK = {dtype: rank for rank, dtype in enumerate(_NAMES)}


def header_bytes(shapes: Shapes) -> int:
    """Size of a safetensors header: 8 bytes of length, then JSON padded to a multiple of 8.

    Tensors lie in the order of their dtype (last in the format's list first), then of their names.
    """
    ordered = sorted(shapes.items(), key=lambda item: (-_RANK[item[1][1]], item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in ordered:
        end = offset + tensor_bytes(shape, dtype)
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    return 8 + -(-len(text.encode()) // 8) * 8


_KINDS = {
    "codes": "codes",
    "codebook": "codebooks",
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
