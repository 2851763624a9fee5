"""Latte: video from alternating spatial and temporal blocks (arXiv 2401.03048)."""

from __future__ import annotations

from .base import Adapter, RolePattern
from .pixart import PixArt

_TEMPORAL = {
    "self_q": "temporal_q",
    "self_k": "temporal_k",
    "self_v": "temporal_v",
    "self_out": "temporal_out",
}


class Latte(Adapter):
    """`LatteTransformer3DModel`: PixArt's blocks, with self-attention over frames in every other one."""

    family = "latte"
    transformer_class = "LatteTransformer3DModel"
    conditioned_on = "prompt"
    block_lists = ("transformer_blocks", "temporal_transformer_blocks")
    roles = PixArt.roles
    outside = PixArt.outside
    produced = PixArt.produced

    def role_in(self, block_list: str, rule: RolePattern) -> RolePattern:
        """Self-attention of the temporal blocks mixes frames."""
        if block_list == "temporal_transformer_blocks" and rule.role in _TEMPORAL:
            return RolePattern(
                rule.pattern, _TEMPORAL[rule.role], rule.shares_input_with, rule.kept
            )
        return rule
