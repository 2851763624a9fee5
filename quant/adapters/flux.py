"""Flux: joint blocks as in SD3, then single blocks over the joined sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..schema import Sampler
from . import flow
from .base import ADALN_KEPT, RolePattern, check_size
from .producers import Attended, Modulated
from .prompted import Prompted, Rows
from .sd3 import JOINT_PRODUCED, JOINT_ROLES, OUTSIDE

SIDE = 128  # of a latent where no size is asked for: FluxPipeline's own


class Flux(Prompted):
    """`FluxTransformer2DModel`, with `FluxPipeline`; guidance is distilled, so there is one branch.

    Latents are pictures [c, h, w] here; the network reads them packed, 2 x 2 to a token.
    """

    family = "flux"
    transformer_class = "FluxTransformer2DModel"
    distilled = True
    defaults = {"guidance": 3.5, "steps": 28}
    block_lists = ("transformer_blocks", "single_transformer_blocks")
    roles = (
        *JOINT_ROLES,
        RolePattern(r"proj_mlp", "single_in", shares_input_with="picture"),
        RolePattern(r"proj_out", "single_out"),
        RolePattern(r"norm\.linear", "adaln", kept=ADALN_KEPT),
    )
    outside = OUTSIDE
    produced = (
        *JOINT_PRODUCED,
        Modulated(r"attn\.to_[qkv]|proj_mlp", "norm.linear", chunks=(3,), shift=0, scale=1),
        Attended(r"proj_out", ("attn.to_v",)),  # attention's channels come first, the MLP's after
    )
    noisiest_timestep = 1.0  # the transformer multiplies by 1000 itself
    unshared = (
        "its guidance is distilled into one branch, and its attention joins picture and text tokens"
    )

    def card_defaults(self, pipe: Any) -> dict[str, Any]:
        """Without an input for guidance it is distilled to few steps as well (schnell)."""
        found = super().card_defaults(pipe)
        few = {} if pipe.transformer.config.guidance_embeds else {"guidance": 0.0, "steps": 4}
        return found | few

    def latent_shape(self, pipe: Any, sampler: Sampler) -> tuple[int, ...]:
        """Before packing."""
        channels, *size = super().latent_shape(pipe, sampler)
        if pipe.transformer.config.out_channels not in (None, channels):
            raise BadInput(
                "this transformer reads a picture beside the noise (Fill, Canny, Depth), which is not "
                "supported; take a text-to-image model. Its sites and sizes are: dqviz layers, dqviz size"
            )
        return (channels // 4, *size)

    def latent_size(self, pipe: Any, sampler: Sampler) -> tuple[int, int]:
        """Height and width before packing."""
        if sampler.size is None:
            return SIDE, SIDE
        check_size(sampler.size, 2 * pipe.vae_scale_factor)
        return sampler.size[0] // pipe.vae_scale_factor, sampler.size[1] // pipe.vae_scale_factor

    def tokens(
        self, config: Any, size: tuple[int, int] | None = None, frames: int | None = None
    ) -> tuple[int, int] | None:
        """Of the picture; the pipeline's own size is in no configuration of the transformer."""
        height, width = size or (SIDE * self.vae_scale[1], SIDE * self.vae_scale[1])
        each = 2 * self.vae_scale[1]
        return (height // each) * (width // each), 1

    def resolved(self, pipe: Any, sampler: Sampler) -> Sampler:
        """With the pipeline's noise levels and the shift of its size."""
        if sampler.scheduler != flow.SCHEDULER:
            return sampler
        height, width = self.latent_size(pipe, sampler)
        levels = flow.levels(1 / sampler.steps, sampler.steps)
        return flow.with_levels(sampler, height * width // 4, levels, 1.15)

    def encode(self, pipe: Any, prompt: str) -> Rows:
        """Tokens from T5, and CLIP's pooled text."""
        features, pooled, _ = pipe.encode_prompt(prompt, device=pipe.text_encoder.device)
        return {"features": features, "pooled": pooled}

    def evaluate(
        self, transformer: nn.Module, x: Tensor, timestep: Tensor, rows: Rows, guidance: float
    ) -> Tensor:
        """Packed, with the place of every picture token; the network counts timesteps from 0 to 1."""
        _, _, height, width = x.shape
        embeds: Any = transformer.config
        out = transformer(
            hidden_states=packed(x),
            timestep=timestep / 1000,
            guidance=torch.full_like(x[:, 0, 0, 0], guidance, dtype=torch.float32)
            if embeds.guidance_embeds
            else None,
            encoder_hidden_states=rows["features"],
            pooled_projections=rows["pooled"],
            txt_ids=torch.zeros(rows["features"].shape[1], 3, device=x.device),
            img_ids=places(height // 2, width // 2).to(x.device),
        ).sample
        return unpacked(out, height, width)


def packed(x: Tensor) -> Tensor:
    """[n, c, h, w] -> tokens [n, h/2 w/2, 4c]."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // 2, 2, w // 2, 2)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)


def unpacked(tokens: Tensor, h: int, w: int) -> Tensor:
    """The inverse."""
    n, _, c = tokens.shape
    x = tokens.reshape(n, h // 2, w // 2, c // 4, 2, 2)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(n, c // 4, h, w)


def places(rows: int, columns: int) -> Tensor:
    """(0, row, column) of every picture token, [rows columns, 3]."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(y), y, x], dim=-1).reshape(-1, 3).float()
