"""A pipeline before it is loaded: what adapters ask of one, and what decoding takes, from configurations alone.

Bytes of decoding, at most: p pixels of what is decoded at once, c_0 and c_1 channels of the last two
levels of the decoder, b bytes of a number. The upsampled tensor has c_1 channels at full size; a block
holds it, its normed copy, and two of c_0:

    b p 2 (c_0 + c_1)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from .adapters.base import Adapter
from .schema import Sampler

_AT_ONCE = 16  # frames that a VAE decodes together, at most


@dataclass(frozen=True)
class Unloaded:
    """A pipeline's folder with an empty transformer: adapters read sizes from it as from the pipeline."""

    transformer: nn.Module
    config: Mapping[str, Any]  # of the VAE; empty without one
    labels: Mapping[str, int] = field(
        default_factory=dict
    )  # classes by name, as pipelines have them

    @property
    def vae(self) -> Any:
        """Its configuration, where there is a VAE."""
        return SimpleNamespace(config=SimpleNamespace(**self.config)) if self.config else None

    @cached_property
    def _channels(self) -> list[int]:
        """Of the decoder's levels, those at full size first."""
        config = self.config
        if "dim_mult" in config:
            return [config["base_dim"] * times for times in config["dim_mult"]]
        return list(
            config.get("decoder_block_out_channels") or config.get("block_out_channels", ())
        )

    @property
    def vae_scale_factor_spatial(self) -> int:
        """Pixels along a side of a latent's element."""
        return self.config.get("scale_factor_spatial") or 2 ** (len(self._channels) - 1)

    vae_scale_factor = vae_scale_factor_spatial

    @property
    def vae_scale_factor_temporal(self) -> int:
        """Frames of a latent one."""
        found = self.config.get("scale_factor_temporal")
        return found or self.config.get("temporal_compression_ratio") or 1

    def decoded_bytes(self, latent: tuple[int, ...], itemsize: int) -> int:
        """What decoding one sample takes at most, of a latent [c, h, w] or [c, f, h, w]."""
        if not self.config:
            return 0
        frames = 1 if len(latent) == 3 else latent[1] * self.vae_scale_factor_temporal
        pixels = latent[-2] * latent[-1] * self.vae_scale_factor_spatial**2
        pixels *= min(frames, _AT_ONCE)
        return itemsize * pixels * 2 * sum(self._channels[:2])

    def published(
        self, adapter: Adapter, latent: tuple[int, ...]
    ) -> tuple[tuple[int, int], int | None]:
        """Size and frames behind the family's published VAE that make latents of this shape."""
        in_time, in_space = adapter.vae_scale
        size = latent[-2] * in_space, latent[-1] * in_space
        return size, None if len(latent) == 3 else (latent[1] - 1) * in_time + 1


def unloaded(folder: Path, transformer: nn.Module) -> Unloaded:
    """The pipeline in a folder, with an empty transformer of its configuration."""
    file = folder / "vae" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return Unloaded(transformer, config, _labels(folder / "model_index.json"))


def _labels(index: Path) -> dict[str, int]:
    """Class ids by name; one with several names, separated by commas, has each of them."""
    described = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    classes = described.get("id2label") or {}
    return {name.strip(): int(i) for i, names in classes.items() for name in names.split(",")}


def latent_shape(pipe: Unloaded, adapter: Adapter, sampler: Sampler) -> tuple[int, ...] | None:
    """Of one sample; None where the folder does not tell. BadInput for what cannot be drawn."""
    if not adapter.known or not pipe.config:
        return None
    return tuple(adapter.latent_shape(pipe, sampler))
