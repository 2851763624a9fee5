"""Wan: video by full self-attention over a clip, text by cross-attention (arXiv 2503.20314).

Self-attention runs over all tokens of a clip, in space and time, so no site is temporal alone. One
linear modulates all blocks, and every block has a table of its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..schema import Sampler
from .base import ADALN_KEPT, EMBED_KEPT, HEAD_KEPT, RolePattern, check_size
from .producers import Attended, Modulated
from .prompted import Prompted, Rows
from .video import check_from_text, clips, latent_frames

SIZE, FRAMES, TEXT_TOKENS = (480, 832), 81, 512  # of `WanPipeline`


class Wan(Prompted):
    """`WanTransformer3DModel` and `WanPipeline`: Wan 2.1, and Wan 2.2 with one transformer.

    Where the pipeline tells every token its timestep (Wan 2.2 5B), all of them are the same without
    a picture to start from, so one timestep per clip is the same function.
    """

    family = "wan"
    transformer_class = "WanTransformer3DModel"
    draws = "video"
    vae_scale = 4, 8
    defaults = {"guidance": 5.0, "steps": 50}
    block_lists = ("blocks",)
    roles = (
        RolePattern(r"attn1\.to_q", "self_q", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_k", "self_k", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_v", "self_v", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_out\.0", "self_out"),
        RolePattern(r"attn2\.to_q", "cross_q"),
        RolePattern(r"attn2\.to_k", "cross_k", shares_input_with="text"),
        RolePattern(r"attn2\.to_v", "cross_v", shares_input_with="text"),
        RolePattern(r"attn2\.add_k_proj", "cross_k", shares_input_with="image"),  # image to video
        RolePattern(r"attn2\.add_v_proj", "cross_v", shares_input_with="image"),
        RolePattern(r"attn2\.to_out\.0", "cross_out"),
        RolePattern(r"ffn\.net\.0\.proj", "fc1"),
        RolePattern(r"ffn\.net\.2", "fc2"),
    )
    outside = (
        RolePattern(r"condition_embedder\.time_proj", "adaln", kept=ADALN_KEPT),
        RolePattern(r"condition_embedder\..*", "embed", kept=EMBED_KEPT),
        RolePattern(r"proj_out", "head", kept=HEAD_KEPT),
    )
    # The input of cross-attention's query is normed and not modulated, so nothing makes its channels.
    produced = (
        Modulated(
            r"attn1\.to_[qkv]", "/condition_embedder.time_proj", (6,), 0, 1, "scale_shift_table"
        ),
        Modulated(
            r"ffn\.net\.0\.proj", "/condition_embedder.time_proj", (6,), 3, 4, "scale_shift_table"
        ),
        Attended(r"attn1\.to_out\.0", ("attn1.to_v",)),
        Attended(r"attn2\.to_out\.0", ("attn2.to_v", "attn2.add_v_proj")),
    )
    unshared = "its pipeline calls the transformer once for each branch"

    def resolved(self, pipe: Any, sampler: Sampler) -> Sampler:
        """The same; BadInput for a pipeline with two transformers."""
        check_one_transformer(pipe)
        return sampler

    def latent_shape(self, pipe: Any, sampler: Sampler) -> tuple[int, ...]:
        """[c, f, h, w]."""
        check_one_transformer(pipe)
        config, scale = pipe.transformer.config, pipe.vae_scale_factor_spatial
        check_from_text(config)
        height, width = sampler.size or SIZE
        check_size((height, width), scale * max(config.patch_size[1:]))
        frames = latent_frames(sampler.frames or FRAMES, pipe)
        return config.in_channels, frames, height // scale, width // scale

    def tokens(
        self, config: Any, size: tuple[int, int] | None = None, frames: int | None = None
    ) -> tuple[int, int] | None:
        """Behind Wan 2.1's VAE; they attend all to all."""
        in_time, in_space = self.vae_scale
        latent = ((frames or FRAMES) - 1) // in_time + 1
        sides = (s // in_space // patch for s, patch in zip(size or SIZE, config.patch_size[1:]))
        return latent // config.patch_size[0] * math.prod(sides), 1

    def encode(self, pipe: Any, prompt: str) -> Rows:
        """Through UMT5: features [1, t, c] of t = 512 tokens, those that pad are zero."""
        features, _ = pipe.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            max_sequence_length=TEXT_TOKENS,
            device=pipe.text_encoder.device,
        )
        return {"features": features}

    def evaluate(
        self, transformer: nn.Module, x: Tensor, timestep: Tensor, rows: Rows, guidance: float
    ) -> Tensor:
        """Text by cross-attention."""
        features = rows["features"]
        return transformer(x, timestep=timestep, encoder_hidden_states=features).sample

    def decode(self, pipe: Any, latents: Tensor) -> Tensor:
        """Through the causal VAE, whose channels have a mean and a deviation each."""
        vae = pipe.vae
        mean, std = (
            torch.tensor(own, device=latents.device, dtype=vae.dtype).view(1, -1, 1, 1, 1)
            for own in (vae.config.latents_mean, vae.config.latents_std)
        )
        return clips(vae, latents.to(vae.dtype) * std + mean)


def check_one_transformer(pipe: Any) -> None:
    """Stop at Wan 2.2's pair of transformers: drawn with one alone, a clip would be wrong."""
    if getattr(pipe, "transformer_2", None) is not None:
        raise BadInput(
            "this pipeline has two transformers, one for noisy steps and one for the rest, and only "
            "one can be quantized; take a model with one, e.g. Wan 2.1"
        )
