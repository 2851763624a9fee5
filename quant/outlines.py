"""Public models as the pre-flight sees them, from configurations that come along: no weights, no network.

`quant/shapes/*.json` are transformers, `quant/shapes/parts/*.json` the text encoders and VAEs beside them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .effort import TEXT_TOKENS, shapes_of
from .errors import unknown
from .preflight import Outline
from .schema import Sampler
from .sizes import SHAPES, Target, load_shape
from .streaming import resident_bytes
from .unloaded import Unloaded, latent_shape

PARTS = SHAPES / "parts"
VAES = ("vae-4", "vae-16")


def known_parts() -> dict[str, Path]:
    """Configurations of text encoders and VAEs, by name."""
    return {path.stem: path for path in sorted(PARTS.glob("*.json"))}


def _config(name: str) -> dict[str, Any]:
    return json.loads(known_parts()[name].read_text(encoding="utf-8"))


@cache
def part_numbers(name: str) -> int:
    """How many weights a text encoder or a VAE has."""
    import diffusers
    import transformers

    if name not in known_parts():
        raise unknown("part", name, known_parts())
    config = _config(name)
    cls, of_text = config.pop("_class_name"), config.pop("_config_class", None)
    with torch.device("meta"):
        if of_text is None:
            made = getattr(diffusers, cls)(**config)
        else:
            made = getattr(transformers, cls)(getattr(transformers, of_text)(**config))
    return sum(weight.numel() for weight in made.parameters())


def outline_of(
    shape: str,
    parts: Sequence[str] = (),
    *,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    text: int = TEXT_TOKENS,
    dtype: torch.dtype = torch.bfloat16,
) -> Outline:
    """A public model, all of it in one dtype, with its family's steps and guidance.

    Args:
        shape: name of its transformer.
        parts: names of what stands beside it.
        size: height and width in pixels, where the configuration's is another.
        frames: of a clip, likewise.
        text: tokens of a prompt.
        dtype: that it computes in.
    """
    transformer, adapter = load_shape(shape)
    sites = adapter.sites(transformer)
    drawn = {name: adapter.defaults[name] for name in ("steps", "guidance")}
    sampler = Sampler(scheduler="unknown", **drawn, size=size, frames=frames)
    shapes, apart = shapes_of(transformer, sites, size, frames, text)
    numbers = sum(t.numel() for t in transformer.state_dict().values())
    pipe = Unloaded(transformer, next((_config(p) for p in parts if p in VAES), {}))
    latent = latent_shape(pipe, adapter, sampler)
    return Outline(
        target=Target(shape, transformer, adapter, sites, torch.float16, None, sampler),
        weight_bytes=numbers * dtype.itemsize,
        resident_bytes=resident_bytes(transformer, adapter.blocks(transformer), dtype),
        other_bytes=sum(map(part_numbers, parts)) * dtype.itemsize,
        shapes=shapes,
        frames=apart,
        decoded_bytes=0 if latent is None else pipe.decoded_bytes(latent, dtype.itemsize),
    )
