"""What every attention does with its heads, however it multiplies them.

Shapes: x [n, t, h d] as a projection gives it; heads [n, h, t, d].
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def split_heads(attn: Any, x: Tensor) -> Tensor:
    """[n, t, h d] -> [n, h, t, d]."""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def output_of(attn: Any, heads: Tensor) -> Tensor:
    """[n, h, t, d] -> [n, t, i]: heads joined, through the output projection and its dropout."""
    return attn.to_out[1](attn.to_out[0](heads.transpose(1, 2).flatten(2)))
