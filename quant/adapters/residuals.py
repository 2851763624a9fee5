"""Residual branches of a block, and how its modulation is made: what it takes to run their operations in one pass.

    x <- x + gate f(norm(x) (1 + scale) + shift)        f an attention, or linear, GELU, linear

A family's adapter lists the branches of its blocks by names inside a block. Here are the modulations that
several families have. The blocks are diffusers' `BasicTransformerBlock`, in whose arguments `call` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Residual:
    """One branch: names inside a block, and which row of the block's modulation [b, k, c] does what."""

    norm: str  # a LayerNorm
    layer: str  # an attention or a feed-forward
    shift: int
    scale: int
    gate: int


def zero_modulation(block: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
    """adaLN-zero: six rows of the block's own linear, [b, 6, c]."""
    norm = block.norm1
    emb = norm.emb(call.get("timestep"), call.get("class_labels"), hidden_dtype=x.dtype)
    return norm.linear(norm.silu(emb)).unflatten(1, (6, -1))


def single_modulation(block: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
    """adaLN-single: six rows that all blocks share, and a table of the block's own, [b, 6, c]."""
    return block.scale_shift_table[None] + call["timestep"].reshape(len(x), 6, -1)


def cross_attended(block: Any, x: Tensor, call: Mapping[str, Any]) -> Tensor:
    """x + attention to the text, which stands between the two branches and has no gate."""
    if block.attn2 is None:
        return x
    return x + block.attn2(
        x,
        encoder_hidden_states=call.get("encoder_hidden_states"),
        attention_mask=call.get("encoder_attention_mask"),
    )
