"""A tiny random transformer of every family, with inputs to call it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Family:
    """How to make one, and how to call it at a timestep between 1 (clean) and 1000 (noisiest)."""

    make: Callable[[], nn.Module]
    inputs: Callable[[torch.dtype, float], dict[str, Any]]
    exact: bool = True  # False: diffusers computes parts of it in float32, whatever its dtype

    def model(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
        """Weights that are all alive: adaLN, tables, biases and gates as well."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            transformer = self.make()
            for name, parameter in transformer.named_parameters():
                if parameter.dim() >= 2 and "table" not in name:
                    nn.init.normal_(parameter, std=0.8 / parameter[0].numel() ** 0.5)
                elif "norm_" not in name and not re.search(r"norm\d?\.weight$", name):
                    nn.init.normal_(parameter, std=0.2)
        return transformer.to(dtype).eval()


def output(transformer: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """What one call gives."""
    with torch.no_grad():
        return transformer(**inputs).sample


def noise(dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


BASICS = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}
SINGLE = {"norm_type": "ada_norm_single", "cross_attention_dim": 32, "caption_channels": 24}
JOINT = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "in_channels": 4,
    "patch_size": 2,
    "sample_size": 8,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 20,
    "out_channels": 4,
    "pos_embed_max_size": 8,
}


def _text(dtype: torch.dtype, t: float) -> dict[str, Any]:
    return {
        "encoder_hidden_states": noise(dtype, 2, 5, 24),
        "timestep": torch.full((2,), t, dtype=dtype),
    }


FAMILIES = {
    "dit": Family(
        lambda: diffusers.DiTTransformer2DModel(**BASICS, in_channels=4, sample_size=8),
        lambda d, t: {
            "hidden_states": noise(d, 2, 4, 8, 8),
            "timestep": torch.full((2,), t),
            "class_labels": torch.tensor([1, 1000]),
        },
    ),
    "pixart": Family(
        lambda: diffusers.PixArtTransformer2DModel(
            **BASICS, **SINGLE, sample_size=8, out_channels=4, use_additional_conditions=False
        ),
        lambda d, t: {"hidden_states": noise(d, 2, 4, 8, 8)} | _text(d, t),
    ),
    "latte": Family(
        lambda: diffusers.LatteTransformer3DModel(
            **BASICS, **SINGLE, in_channels=4, out_channels=4, sample_size=8, patch_size=2,
            attention_bias=True, video_length=3, norm_elementwise_affine=False,
        ),
        lambda d, t: {"hidden_states": noise(d, 2, 4, 3, 8, 8)} | _text(d, t),
    ),
    "sd3": Family(
        lambda: diffusers.SD3Transformer2DModel(**JOINT),
        lambda d, t: {"hidden_states": noise(d, 2, 4, 8, 8), "pooled_projections": noise(d, 2, 20)}
        | _text(d, t),
    ),
    "sd3.5": Family(
        lambda: diffusers.SD3Transformer2DModel(
            **JOINT, dual_attention_layers=(0,), qk_norm="rms_norm"
        ),
        lambda d, t: {"hidden_states": noise(d, 2, 4, 8, 8), "pooled_projections": noise(d, 2, 20)}
        | _text(d, t),
    ),
    "flux": Family(
        lambda: diffusers.FluxTransformer2DModel(
            in_channels=4, num_layers=1, num_single_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=20,
            axes_dims_rope=(4, 6, 6), guidance_embeds=False,
        ),
        lambda d, t: {
            "hidden_states": noise(d, 2, 16, 4),
            "pooled_projections": noise(d, 2, 20),
            "img_ids": torch.zeros(16, 3),
            "txt_ids": torch.zeros(5, 3),
        }
        | _text(d, t / 1000),
    ),
    "cogvideox": Family(
        lambda: diffusers.CogVideoXTransformer3DModel(
            **BASICS, in_channels=4, out_channels=4, time_embed_dim=16, text_embed_dim=24,
            sample_width=8, sample_height=8, sample_frames=9, max_text_seq_length=5,
        ),
        lambda d, t: {"hidden_states": noise(d, 2, 3, 4, 8, 8)} | _text(d, t),
    ),
    "wan": Family(
        lambda: diffusers.WanTransformer3DModel(
            **BASICS, in_channels=4, out_channels=4, text_dim=24, freq_dim=16, ffn_dim=64,
            rope_max_seq_len=16,
        ),
        lambda d, t: {"hidden_states": noise(d, 2, 4, 3, 8, 8)} | _text(d, t),
        exact=False,
    ),
    "sana": Family(
        lambda: diffusers.SanaTransformer2DModel(
            **BASICS, in_channels=4, out_channels=4, num_cross_attention_heads=2,
            cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=24, sample_size=8,
        ),
        lambda d, t: {"hidden_states": noise(d, 2, 4, 8, 8)} | _text(d, t),
        exact=False,
    ),
}  # fmt: skip
