"""Loading a model: a folder's pipeline through diffusers, its adapter by class, its card.

There is one path for all: whatever the source, a diffusers pipeline is loaded (with the transformer of
a single file in the place of its own), LoRAs are fused, the transformer's adapter is found by class, and
the card is read from `dqviz.json` beside the pipeline or made from its configuration.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BadCheckpoint, BadInput, EnvironmentFault, unknown
from .lora import read_loras
from .models import CARD_NAME, Model, ModelCard
from .schema import Lora
from .single_file import load_single_file
from .sources import Located, Source, locate
from .weight_files import stored_dtype

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .adapters import Adapter

DTYPES = ("auto", "float32", "float16", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")


def load_model(
    ref: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    base: str | None = None,
    loras: Sequence[str | Lora] = (),
    offline: bool = False,
    scratch: Path | None = None,
) -> Model:
    """Load a model by embedded key, folder, `.safetensors` path or `owner/name[@revision]`.

    Args:
        ref: what the person wrote.
        dtype: `auto` computes in float32 on a CPU and in the stored dtype on a GPU.
        device: `auto` takes CUDA where there is one.
        revision: hub revision, also written `owner/name@revision`.
        base: the pipeline that a single file's transformer belongs to.
        loras: files that are fused into the weights, each with `:scale` or as a `Lora`.
        offline: take what the hub's cache holds, and ask for nothing.
        scratch: an empty folder of the caller's. With it the blocks of the transformer stay on disk
            (`quant.streaming`), and what is made of them goes there.
    """
    source = Source.of(ref, revision=revision, base=base, loras=loras, offline=offline)
    return open_model(source, dtype=dtype, device=device, scratch=scratch)


def check_device(device: str) -> None:
    """Stop at a device that is not known, or not here."""
    import torch

    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFault(
            "device 'cuda' was asked for, but torch sees no GPU here; use --device cpu"
        )


def open_model(
    source: Source | Located,
    *,
    dtype: str = "auto",
    device: str = "auto",
    scratch: Path | None = None,
) -> Model:
    """`load_model` of a source, or of one that was located before."""
    import torch

    from .adapters import adapter_for
    from .adapters.base import check_finite
    from .streaming import open_streamed, rewrite

    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    check_device(device)
    target = torch.device(
        "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    )
    located = locate(source) if isinstance(source, Source) else source
    source = located.source
    source_dtype = stored_dtype(located.files)
    compute = getattr(torch, dtype) if dtype != "auto" else torch.float32
    if dtype == "auto" and target.type != "cpu":
        compute = source_dtype
    given = streamed = None
    if scratch is not None:
        given = streamed = open_streamed(located.config, compute, target, located.weights)
    elif located.weights is not None:
        given = load_single_file(located.weights, located.config, compute)
    pipe = _load_pipeline(located.folder, compute, given)
    fusion = read_loras(source.loras, pipe.transformer, type(pipe))
    if scratch is None:
        fusion.fuse(pipe.transformer)
    else:
        rewrite(pipe.transformer, fusion.changes, fusion.fused, scratch)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module) and part is not streamed:
            part.to(target)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.eval()
    _align(pipe.transformer)
    check_finite(pipe.transformer, source.ref)
    adapter = adapter_for(pipe.transformer)
    card = card_of(located, pipe, adapter)
    return Model(
        ref=source.ref,
        path=located.folder,
        from_hub=located.from_hub,
        pipe=pipe,
        adapter=adapter,
        card=card,
        sites=adapter.sites(pipe.transformer),
        source_dtype=source_dtype,
        device=target,
        dtype=compute,
        revision=located.revision,
        classes={int(k): v for k, v in card.classes.items()},
        scratch=scratch,
        base=source.base,
        weights=located.weights,
        loras=fusion.loras,
        notes=fusion.notes,
    )


def _align(transformer: nn.Module) -> None:
    """Copy tensors that lie in a mapped file at odd places: products of matrices differ by where they start."""
    for parameter in transformer.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % 64:
            parameter.data = parameter.data.clone()


def _load_pipeline(folder: Path, dtype: torch.dtype, transformer: nn.Module | None) -> Any:
    """Through diffusers; its many errors become ours. A transformer that is there is not read."""
    from diffusers import DiffusionPipeline

    given = {} if transformer is None else {"transformer": transformer}
    try:
        return DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, dtype=dtype, use_safetensors=True, **given
        )
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise BadCheckpoint(f"{folder}: diffusers cannot load it: {first}") from None


def card_of(located: Located, pipe: Any, adapter: Adapter) -> ModelCard:
    """What the folder's own card says, over the family's defaults; a fine-tune's name over both.

    `pipe` is the pipeline, or a `quant.unloaded.Unloaded` in its place.
    """
    path, source = located.folder, located.source
    name = Path(source.ref.partition("@")[0]).name or path.resolve().name
    labels = sorted(
        getattr(pipe, "labels", {}).items(), key=lambda entry: (entry[1], len(entry[0]))
    )
    defaults = {
        "key": name.lower(),
        "title": name,
        "family": adapter.family,
        "task": f"{'class' if adapter.conditioned_on == 'class' else 'text'}-to-{adapter.draws}",
        "classes": {str(i): label for label, i in reversed(labels)},
        **adapter.card_defaults(pipe),
    }
    own: object = {}
    if (path / CARD_NAME).is_file():
        try:
            own = json.loads((path / CARD_NAME).read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInput(f"{path / CARD_NAME}: not JSON: {error}") from None
    where = str(path / CARD_NAME)
    if not isinstance(own, dict):
        raise BadInput(f"{where}: a model card is a JSON object")
    said = {**defaults, **own}
    if located.weights is not None:
        said |= {
            "key": located.weights.stem.lower(),
            "title": located.weights.stem,
            "licence": "unknown",
            "training": f"a file of its own, in the pipeline {source.base}",
        }
    if source.loras:
        added = ", ".join(f"{Path(x.file).stem} x{x.scale:g}" for x in source.loras)
        said["title"] = f"{said['title']}, with LoRA {added}"
    return ModelCard.parse(said, where)
