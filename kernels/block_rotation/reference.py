"""Rotation within blocks, a permutation, rotation within blocks again, then row codes: the definition, in float32.

Shapes: x [m, k]; s [k]; B1, B2 [b, b], b divides k; order [k], a permutation.

    y = (x / s) (I (x) B1)                  each run of b channels times B1
    z_j = y_order(j)                        channel j of z is channel order[j] of y
    codes of z (I (x) B2)                   as `kernels.quantize_rows`

(TR-DQ's change of basis; greedy block rotations and the zigzag between them as in DuQuant, arXiv 2406.01721.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..quantize_rows import RowCodes, quantize_rows


def values(
    x: Tensor, channel_scale: Tensor | None, first: Tensor, order: Tensor, second: Tensor
) -> Tensor:
    """What the codes stand for, [m, k]: float64 if x is, else float32."""
    x = x if x.dtype == torch.float64 else x.to(torch.float32)
    x = x if channel_scale is None else x / channel_scale.to(x.dtype)
    return _in_blocks(_in_blocks(x, first)[:, order.long()], second)


def quantize(
    x: Tensor,
    channel_scale: Tensor | None,
    first: Tensor,
    order: Tensor,
    second: Tensor,
    bits: int,
    symmetric: bool,
) -> RowCodes:
    """Integer-valued float32 codes [m, k] and their scales."""
    rotated = values(x, channel_scale, first, order, second)
    return quantize_rows(rotated, bits, symmetric, backend="simulate")


def _in_blocks(x: Tensor, rotation: Tensor) -> Tensor:
    return (x.reshape(-1, len(rotation)) @ rotation.to(x.dtype)).reshape(x.shape)
