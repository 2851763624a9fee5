"""Stable Diffusion 3: picture and text tokens in joint attention (arXiv 2403.03206)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import BadInput
from ..schema import Sampler
from . import flow
from .base import ADALN_KEPT, EMBED_KEPT, HEAD_KEPT, RolePattern
from .producers import Attended, Modulated
from .prompted import Prompted, Rows

JOINT_ROLES = (
    RolePattern(r"attn\.to_q", "joint_q", shares_input_with="picture"),
    RolePattern(r"attn\.to_k", "joint_k", shares_input_with="picture"),
    RolePattern(r"attn\.to_v", "joint_v", shares_input_with="picture"),
    RolePattern(r"attn2\.to_q", "joint_q", shares_input_with="picture again"),  # SD 3.5
    RolePattern(r"attn2\.to_k", "joint_k", shares_input_with="picture again"),
    RolePattern(r"attn2\.to_v", "joint_v", shares_input_with="picture again"),
    RolePattern(r"attn\.add_q_proj", "cross_q", shares_input_with="text"),
    RolePattern(r"attn\.add_k_proj", "cross_k", shares_input_with="text"),
    RolePattern(r"attn\.add_v_proj", "cross_v", shares_input_with="text"),
    RolePattern(r"attn2?\.to_out\.0", "joint_out"),
    RolePattern(r"attn\.to_add_out", "cross_out"),
    RolePattern(r"ff\.net\.0\.proj", "fc1"),
    RolePattern(r"ff\.net\.2", "fc2"),
    RolePattern(r"ff_context\.net\.0\.proj", "context_fc1"),
    RolePattern(r"ff_context\.net\.2", "context_fc2"),
    RolePattern(r"norm1(_context)?\.linear", "adaln", kept=ADALN_KEPT),
)
JOINT_PRODUCED = (
    Modulated(r"attn\.to_[qkv]", "norm1.linear", chunks=(6, 9), shift=0, scale=1),
    Modulated(r"attn2\.to_[qkv]", "norm1.linear", chunks=(9,), shift=6, scale=7),
    Modulated(r"attn\.add_[qkv]_proj", "norm1_context.linear", chunks=(6,), shift=0, scale=1),
    # The last block only looks at the text: its norm has two chunks, the scale first.
    Modulated(r"attn\.add_[qkv]_proj", "norm1_context.linear", chunks=(2,), shift=1, scale=0),
    Modulated(r"ff\.net\.0\.proj", "norm1.linear", chunks=(6, 9), shift=3, scale=4),
    Modulated(r"ff_context\.net\.0\.proj", "norm1_context.linear", chunks=(6,), shift=3, scale=4),
    Attended(r"attn\.(to_out\.0|to_add_out)", ("attn.to_v", "attn.add_v_proj")),
    Attended(r"attn2\.to_out\.0", ("attn2.to_v",)),
)
OUTSIDE = (
    RolePattern(r"time_text_embed\..*", "embed", kept=EMBED_KEPT),
    RolePattern(r"context_embedder|x_embedder", "embed", kept=EMBED_KEPT),
    RolePattern(r"norm_out\.linear", "adaln", kept=ADALN_KEPT),
    RolePattern(r"proj_out", "head", kept=HEAD_KEPT),
)


class SD3(Prompted):
    """`SD3Transformer2DModel`, with `StableDiffusion3Pipeline`: SD 3 and 3.5."""

    family = "sd3"
    transformer_class = "SD3Transformer2DModel"
    defaults = {"guidance": 7.0, "steps": 28}
    block_lists = ("transformer_blocks",)
    roles = JOINT_ROLES
    outside = OUTSIDE
    produced = JOINT_PRODUCED
    unshared = (
        "its attention joins picture and text tokens, so the branches attend to different texts"
    )

    def latent_size(self, pipe: Any, sampler: Sampler) -> tuple[int, int]:
        """At most as large as its table of positions."""
        config, size = pipe.transformer.config, super().latent_size(pipe, sampler)
        most = config.pos_embed_max_size * config.patch_size
        if max(size) > most:
            pixels = most * pipe.vae_scale_factor
            asked = "x".join(str(side * pipe.vae_scale_factor) for side in size)
            raise BadInput(f"size {asked}: this model draws {pixels}x{pixels} at most")
        return size

    def resolved(self, pipe: Any, sampler: Sampler) -> Sampler:
        """With the shift of its size, where the scheduler shifts by size."""
        if not sampler.config.get("use_dynamic_shifting") and sampler.sigmas is None:
            return sampler
        height, width = self.latent_size(pipe, sampler)
        each = pipe.transformer.config.patch_size
        levels = flow.levels(1 / sampler.config.get("num_train_timesteps", 1000), sampler.steps)
        return flow.with_levels(sampler, (height // each) * (width // each), levels, 1.16)

    def encode(self, pipe: Any, prompt: str) -> Rows:
        """Through two CLIPs and, where the pipeline has it, T5."""
        device = pipe.text_encoder.device
        features, _, pooled, _ = pipe.encode_prompt(
            prompt, None, None, device=device, do_classifier_free_guidance=False
        )
        return {"features": features, "pooled": pooled}

    def evaluate(
        self, transformer: nn.Module, x: Tensor, timestep: Tensor, rows: Rows, guidance: float
    ) -> Tensor:
        """Text tokens in joint attention."""
        return transformer(
            hidden_states=x,
            timestep=timestep,
            encoder_hidden_states=rows["features"],
            pooled_projections=rows["pooled"],
        ).sample
