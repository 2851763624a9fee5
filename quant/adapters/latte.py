"""Latte: video from alternating spatial and temporal blocks (arXiv 2401.03048)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..schema import Sample, Sampler
from .base import Encoded, RolePattern, pictures
from .pixart import PixArt
from .prompted import Prompted, Rows, Texts
from .residuals import cross_attended, single_modulation

_TEMPORAL = {
    "self_q": "temporal_q",
    "self_k": "temporal_k",
    "self_v": "temporal_v",
    "self_out": "temporal_out",
}


FRAMES_AT_ONCE = 14  # through the VAE: LattePipeline's own


class Latte(Prompted):
    """`LatteTransformer3DModel`, with `LattePipeline`: PixArt's blocks, every other one over frames.

    The pipeline cuts the text to the tokens of one prompt, for both branches, if it is called with one,
    and sets those behind to zero if it is called with several. Here they are masked, which is the former
    whatever the batch.
    """

    family = "latte"
    transformer_class = "LatteTransformer3DModel"
    draws = "video"
    defaults = {"guidance": 7.5, "steps": 50}
    block_lists = ("transformer_blocks", "temporal_transformer_blocks")
    roles = PixArt.roles
    outside = PixArt.outside
    produced = PixArt.produced
    residuals = PixArt.residuals

    def modulation(self, block: nn.Module, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """Six rows that all blocks share, and the block's own table."""
        return single_modulation(block, x, call)

    def between(self, block: nn.Module, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """Cross-attention to the text, in spatial blocks."""
        return cross_attended(block, x, call)

    def role_in(self, block_list: str, rule: RolePattern) -> RolePattern:
        """Self-attention of the temporal blocks mixes frames."""
        if block_list == "temporal_transformer_blocks" and rule.role in _TEMPORAL:
            return RolePattern(
                rule.pattern, _TEMPORAL[rule.role], rule.shares_input_with, rule.kept
            )
        return rule

    def latent_shape(self, pipe: Any, sampler: Sampler) -> tuple[int, ...]:
        """One latent picture for each frame."""
        config = pipe.transformer.config
        frames = config.video_length if sampler.frames is None else sampler.frames
        if frames not in (1, config.video_length):
            raise BadInput(
                f"frames {frames}: this model draws clips of {config.video_length} frames (or 1)"
            )
        return (config.in_channels, frames, *self.latent_size(pipe, sampler))

    def encode(self, pipe: Any, prompt: str) -> Rows:
        """Through T5: features [1, t, c], and the mask of real tokens [1, t]."""
        device = pipe.text_encoder.device
        features, _ = pipe.encode_prompt(prompt, False, device=device, mask_feature=False)
        cut, _ = pipe.encode_prompt(prompt, False, device=device)
        mask = torch.arange(features.shape[1], device=device)[None] < cut.shape[1]
        return {"features": features, "mask": mask}

    def conditions(
        self, pipe: Any, samples: Sequence[Sample], sampler: Sampler, encoded: Encoded
    ) -> Texts:
        """Negative prompts have the prompts' tokens."""
        texts = super().conditions(pipe, samples, sampler, encoded)
        if texts.uncond is None:
            return texts
        return Texts(texts.cond, {**texts.uncond, "mask": texts.cond["mask"]})

    def evaluate(
        self, transformer: nn.Module, x: Tensor, timestep: Tensor, rows: Rows, guidance: float
    ) -> Tensor:
        """Text by cross-attention, once for each frame."""
        hidden = torch.where(rows["mask"], 0.0, -10000.0).to(x.dtype)[:, None]  # [n, 1, t]
        return transformer(
            x,
            timestep=timestep,
            encoder_hidden_states=rows["features"],
            encoder_attention_mask=hidden.repeat_interleave(x.shape[2], dim=0),
        ).sample

    def decode(self, pipe: Any, latents: Tensor) -> Tensor:
        """Clip by clip, some frames at once: a VAE with temporal layers joins those."""
        told = "num_frames" in inspect.signature(pipe.vae.forward).parameters
        found = []
        for clip in latents.transpose(1, 2):  # [f, c, h, w]
            parts = clip.split(FRAMES_AT_ONCE)
            found.append(torch.cat([pictures(pipe.vae, p, **_count(len(p), told)) for p in parts]))
        return torch.stack(found)


def _count(frames: int, told: bool) -> dict[str, int]:
    return {"num_frames": frames} if told else {}
