"""Flux: joint blocks as in SD3, then single blocks over the joined sequence."""

from __future__ import annotations

from .base import ADALN_KEPT, Adapter, RolePattern
from .sd3 import JOINT_ROLES, OUTSIDE


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
