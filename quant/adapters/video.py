"""What families that draw clips from a text share: how many frames, and the way out of the latents."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..errors import BadInput


def check_from_text(config: Any) -> None:
    """Stop at a transformer that reads a picture beside the noise."""
    if config.in_channels > config.out_channels or config.get("image_dim"):
        raise BadInput(
            "this transformer draws a clip from a picture, which is not supported; take a "
            "text-to-video model. Its sites and sizes are: dqviz layers, dqviz size"
        )


def latent_frames(frames: int, pipe: Any, each: int = 1) -> int:
    """Of a clip: the causal VAEs make k n + 1 frames of n + 1 latent ones; `each` counts n in steps."""
    step = pipe.vae_scale_factor_temporal * each
    if frames % step != 1 % step:
        near = (max(round((frames - 1) / step), 0)) * step + 1
        raise BadInput(f"frames {frames}: this model makes {step} n + 1 frames; e.g. {near}")
    return (frames - 1) // pipe.vae_scale_factor_temporal + 1


def clips(vae: Any, latents: Tensor) -> Tensor:
    """Scaled latents [n, c, f, h, w] through a video VAE: [n, f, h, w, 3], float32 in [0, 1], on the CPU."""
    found = vae.decode(latents).sample  # [n, 3, f, h, w]
    return (found.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).cpu()
