"""DiT: class-conditional transformer with adaLN-zero (Peebles & Xie 2022, arXiv 2212.09748).

diffusers keeps one timestep and one class embedder inside every block (`norm1.emb.*`). In converted
checkpoints they are copies of one module, so they are never quantized, and equal copies count once
in sizes and are stored once in our checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..schema import Sample, Sampler
from .base import (
    ADALN_KEPT,
    EMBED_KEPT,
    HEAD_KEPT,
    Adapter,
    Encoded,
    Prediction,
    RolePattern,
    dtype_of,
    halves_agree,
    pictures,
)
from .producers import Attended, Modulated
from .residuals import Residual, zero_modulation

NULL_CLASS = 1000  # the id that DiTPipeline uses for the unconditional branch


class DiT(Adapter):
    """`DiTTransformer2DModel` and `DiTPipeline`."""

    family = "dit"
    transformer_class = "DiTTransformer2DModel"
    block_lists = ("transformer_blocks",)
    conditional_first = True
    roles = (
        RolePattern(r"attn1\.to_q", "self_q", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_k", "self_k", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_v", "self_v", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_out\.0", "self_out"),
        RolePattern(r"ff\.net\.0\.proj", "fc1"),
        RolePattern(r"ff\.net\.2", "fc2"),
        RolePattern(r"norm1\.linear", "adaln", kept=ADALN_KEPT),
        RolePattern(r"norm1\.emb\..*", "embed", kept=EMBED_KEPT),
    )
    outside = (
        RolePattern(r"proj_out_1", "adaln", kept=ADALN_KEPT),
        RolePattern(r"proj_out_2", "head", kept=HEAD_KEPT),
    )
    produced = (
        Modulated(r"attn1\.to_[qkv]", "norm1.linear", chunks=(6,), shift=0, scale=1),
        Modulated(r"ff\.net\.0\.proj", "norm1.linear", chunks=(6,), shift=3, scale=4),
        Attended(r"attn1\.to_out\.0", ("attn1.to_v",)),
    )
    residuals = (Residual("norm1.norm", "attn1", 0, 1, 2), Residual("norm3", "ff", 3, 4, 5))

    def modulation(self, block: nn.Module, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """Six rows of the block's own adaLN linear."""
        return zero_modulation(block, x, call)

    def conditional_half(self, call: Mapping[str, Any]) -> int | None:
        """The half with classes; the other half's are all the null class."""
        labels = call.get("class_labels")
        if labels is None or not halves_agree(call):
            return None
        null = [bool((half == NULL_CLASS).all()) for half in labels.chunk(2)]
        return None if not any(null) else 0 if null[1] else 1

    def latent_size(self, pipe: Any, sampler: Sampler) -> tuple[int, int]:
        """The one size that its position embedding knows."""
        side = pipe.transformer.config.sample_size
        if sampler.size is None:
            return side, side
        pixels = side * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
        if sampler.size != (pixels, pixels):
            raise BadInput(
                f"size {sampler.size[0]}x{sampler.size[1]}: this model draws {pixels}x{pixels} only"
            )
        return side, side

    def conditions(
        self, pipe: Any, samples: Sequence[Sample], sampler: Sampler, encoded: Encoded
    ) -> Tensor:
        """Class ids, [n]."""
        if any(sample.class_id is None for sample in samples):
            raise BadInput(
                "this model draws classes, not prompts; give --classes instead of --prompt"
            )
        device = next(pipe.transformer.parameters()).device
        return torch.tensor([sample.class_id for sample in samples], device=device)

    def predict(
        self,
        transformer: nn.Module,
        latents: Tensor,
        timestep: Tensor,
        conditions: Tensor,
        guidance: float,
    ) -> Prediction:
        """Both branches in one batch, conditional first, as DiTPipeline orders them."""
        channels = latents.shape[1]
        guided = self.branches(guidance) == 2
        x = torch.cat([latents, latents]) if guided else latents  # [2n, c, h, w]
        labels = (
            torch.cat([conditions, torch.full_like(conditions, NULL_CLASS)])
            if guided
            else conditions
        )
        x, timestep = x.to(dtype_of(transformer)), timestep.expand(len(x))
        out = transformer(x, timestep=timestep, class_labels=labels).sample
        out = out[:, :channels].float()  # drops the learned variance, if there is one
        if not guided:
            return Prediction(out, None, out)
        cond, uncond = out.chunk(2)
        return Prediction(cond, uncond, uncond + guidance * (cond - uncond))

    def decode(self, pipe: Any, latents: Tensor) -> Tensor:
        """Through the pipeline's VAE."""
        return pictures(pipe.vae, latents)
