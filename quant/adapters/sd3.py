"""Stable Diffusion 3: picture and text tokens in joint attention (arXiv 2403.03206)."""

from __future__ import annotations

from .base import ADALN_KEPT, EMBED_KEPT, HEAD_KEPT, Adapter, RolePattern

JOINT_ROLES = (
    RolePattern(r"attn2?\.to_q", "joint_q", shares_input_with="picture"),
    RolePattern(r"attn2?\.to_k", "joint_k", shares_input_with="picture"),
    RolePattern(r"attn2?\.to_v", "joint_v", shares_input_with="picture"),
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
OUTSIDE = (
    RolePattern(r"time_text_embed\..*", "embed", kept=EMBED_KEPT),
    RolePattern(r"context_embedder|x_embedder", "embed", kept=EMBED_KEPT),
    RolePattern(r"norm_out\.linear", "adaln", kept=ADALN_KEPT),
    RolePattern(r"proj_out", "head", kept=HEAD_KEPT),
)


class SD3(Adapter):
    """`SD3Transformer2DModel`."""

    family = "sd3"
    transformer_class = "SD3Transformer2DModel"
    conditioned_on = "prompt"
    block_lists = ("transformer_blocks",)
    roles = JOINT_ROLES
    outside = OUTSIDE
