"""Channel scale, two block rotations with a permutation between them, and row codes: what TR-DQ does to an input.

Formulas are in `reference.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import Op, callable_module
from ..quantize_rows import RowCodes
from . import custom_op

__all__ = ["OP", "block_rotation", "obstacle"]

OP = Op(__name__, {"simulate": "reference", "triton": "custom_op"})
obstacle = custom_op.obstacle


def block_rotation(
    x: Tensor,
    first: Tensor,
    order: Tensor,
    second: Tensor,
    bits: int = 8,
    symmetric: bool = True,
    *,
    channel_scale: Tensor | None = None,
    backend: str | None = None,
) -> RowCodes:
    """Codes of `bits` (2..8) bits of (x / s) (I (x) B1) P (I (x) B2); x float[m, k].

    first, second: B1, B2 float[b, b]; order: integers [k], each of 0 .. k - 1 once, which is not checked;
    channel_scale s [k].
    Raises ValueError for shapes that do not belong together, RuntimeError if the backend cannot do it.
    """
    if x.dim() != 2 or x.shape[1] == 0 or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; needs a floating-point matrix [m, k] with k > 0"
        )
    k, b = x.shape[1], len(first)
    shapes = {"first": (b, b), "second": (b, b), "order": (k,), "channel_scale": (k,)}
    for (name, shape), t in zip(shapes.items(), (first, second, order, channel_scale)):
        if t is not None and tuple(t.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(t.shape)}; needs {shape}")
    if b == 0 or k % b:
        raise ValueError(f"blocks of {b} do not divide {k} channels")
    if order.dtype not in (torch.int16, torch.int32, torch.int64):
        raise ValueError(f"order is {order.dtype}; needs int16, int32 or int64")
    if not 2 <= bits <= 8:
        raise ValueError(f"bits is {bits}; rows are quantized to 2 to 8 bits")
    version = OP.chosen(backend, obstacle=lambda version: obstacle(k, b, x.device))
    return version.quantize(x, channel_scale, first, order, second, bits, symmetric)


callable_module(__name__)
