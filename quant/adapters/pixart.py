"""PixArt-alpha and PixArt-Sigma: text by cross-attention, one shared adaLN (arXiv 2310.00426, 2403.04692)."""

from __future__ import annotations

from .base import ADALN_KEPT, EMBED_KEPT, HEAD_KEPT, Adapter, RolePattern
from .producers import Attended, Modulated


class PixArt(Adapter):
    """`PixArtTransformer2DModel`."""

    family = "pixart"
    transformer_class = "PixArtTransformer2DModel"
    conditioned_on = "prompt"
    block_lists = ("transformer_blocks",)
    roles = (
        RolePattern(r"attn1\.to_q", "self_q", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_k", "self_k", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_v", "self_v", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_out\.0", "self_out"),
        RolePattern(r"attn2\.to_q", "cross_q"),
        RolePattern(r"attn2\.to_k", "cross_k", shares_input_with="text"),
        RolePattern(r"attn2\.to_v", "cross_v", shares_input_with="text"),
        RolePattern(r"attn2\.to_out\.0", "cross_out"),
        RolePattern(r"ff\.net\.0\.proj", "fc1"),
        RolePattern(r"ff\.net\.2", "fc2"),
    )
    outside = (
        RolePattern(r"adaln_single\.linear", "adaln", kept=ADALN_KEPT),
        RolePattern(r"adaln_single\.emb\..*", "embed", kept=EMBED_KEPT),
        RolePattern(r"caption_projection\..*", "embed", kept=EMBED_KEPT),
        RolePattern(r"proj_out", "head", kept=HEAD_KEPT),
    )
    # One linear for all blocks, and a table of its own in each. Cross-attention's query reads the
    # residual stream, its key and value the text: nothing makes those channel by channel.
    produced = (
        Modulated(r"attn1\.to_[qkv]", "/adaln_single.linear", (6,), 0, 1, "scale_shift_table"),
        Modulated(r"ff\.net\.0\.proj", "/adaln_single.linear", (6,), 3, 4, "scale_shift_table"),
        Attended(r"attn1\.to_out\.0", ("attn1.to_v",)),
        Attended(r"attn2\.to_out\.0", ("attn2.to_v",)),
    )
