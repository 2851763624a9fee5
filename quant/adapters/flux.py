"""Flux: joint blocks as in SD3, then single blocks over the joined sequence."""

from __future__ import annotations

from .base import ADALN_KEPT, Adapter, RolePattern
from .producers import Attended, Modulated
from .sd3 import JOINT_PRODUCED, JOINT_ROLES, OUTSIDE


class Flux(Adapter):
    """`FluxTransformer2DModel`; guidance is distilled, so there is one branch."""

    family = "flux"
    transformer_class = "FluxTransformer2DModel"
    conditioned_on = "prompt"
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
