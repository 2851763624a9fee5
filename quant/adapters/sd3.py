"""Stable Diffusion 3: picture and text tokens in joint attention (arXiv 2403.03206)."""

from __future__ import annotations

from .base import ADALN_KEPT, EMBED_KEPT, HEAD_KEPT, Adapter, RolePattern
from .producers import Attended, Modulated

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


class SD3(Adapter):
    """`SD3Transformer2DModel`."""

    family = "sd3"
    transformer_class = "SD3Transformer2DModel"
    conditioned_on = "prompt"
    block_lists = ("transformer_blocks",)
    roles = JOINT_ROLES
    outside = OUTSIDE
    produced = JOINT_PRODUCED
    unshared = (
        "its attention joins picture and text tokens, so the branches attend to different texts"
    )
