"""Hadamard rotation inside Triton kernels: a row as a box of three axes, one factor along each.

Imported by `kernels/*/triton_impl.py` only. How a row becomes a box, and which widths do: `kernels/hadamard/box.py`.
"""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from .hadamard import matrix
from .hadamard.box import padded_order, rotation_orders
from .triton_functions import codes_on, row_constants, row_range, stored_zero

# Of the arguments that a kernel with a rotation has more.
ROTATION_TYPES = {
    "signs_ptr": "*fp32",
    "first_ptr": "*bf16",
    "second_ptr": "*bf16",
    "third_ptr": "*bf16",
    "norm": "fp32",
}


@triton.jit
def _rotated_along_last(
    y, matrix, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, UPCAST: tl.constexpr
):
    """y float32 [A, B, C] times matrix bfloat16 [C, C] of whole numbers, to float32 but for 2^-16.

    y goes in as two bfloat16 parts, of which the matrix unit's products with +-1 are exact.
    """
    flat = tl.reshape(y, (A * B, C))
    high = flat.to(tl.bfloat16)
    low = (flat - high.to(tl.float32)).to(tl.bfloat16)
    if UPCAST:  # the interpreter cannot multiply bfloat16
        z = tl.dot(high.to(tl.float32), matrix.to(tl.float32), input_precision="ieee")
        z += tl.dot(low.to(tl.float32), matrix.to(tl.float32), input_precision="ieee")
    else:
        z = tl.dot(low, matrix, tl.dot(high, matrix))
    return tl.reshape(z, (A, B, C))


@triton.jit
def square(ptr, N: tl.constexpr):
    """A matrix [N, N]."""
    return tl.load(ptr + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :])


@triton.jit
def box(
    N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """The channel of every place of a box [A, B, C], and whether it has one."""
    i, j, l = (
        tl.arange(0, A)[:, None, None],
        tl.arange(0, B)[None, :, None],
        tl.arange(0, C)[None, None, :],
    )
    return (i * N2 + j) * N3 + l, (i < N1) & (j < N2) & (l < N3)


@triton.jit
def rotated(
    y, channel, first_ptr, second, third, norm,
    N1: tl.constexpr, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A row y float32 [A, B, C], its signs already changed, along all three axes; 0 where there is no channel."""
    y = _rotated_along_last(y, third, A, B, C, UPCAST)
    y = _rotated_along_last(tl.permute(y, (0, 2, 1)), second, A, C, B, UPCAST)
    if N1 > 1:
        first = square(first_ptr, A)
        y = _rotated_along_last(tl.permute(y, (1, 2, 0)), first, C, B, A, UPCAST)
        y = tl.permute(y, (2, 1, 0))
    else:
        y = tl.permute(y, (0, 2, 1))
    return tl.where(channel, y * norm, 0.0)


@triton.jit
def store_rotated(
    y, column, inside, row, m, codes_ptr, row_scale_ptr, zero_ptr,
    K: tl.constexpr, TOP: tl.constexpr, SYMMETRIC: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Codes, scale and zero of one row y [A, B, C]."""
    row_scale, zero = row_range(tl.reshape(y, (1, A * B * C)), TOP, SYMMETRIC)
    around = tl.reshape(row_scale, (1, 1, 1)), tl.reshape(zero, (1, 1, 1))
    codes = codes_on(y, around[0], around[1], TOP, SYMMETRIC)
    tl.store(codes_ptr + row * K + column, codes, mask=inside)
    one = row + tl.arange(0, 1)
    tl.store(row_scale_ptr + one, row_scale, mask=one < m)
    if not SYMMETRIC:
        tl.store(zero_ptr + one, stored_zero(zero, TOP, SYMMETRIC), mask=one < m)


@lru_cache(maxsize=16)
def matrices(c: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The three Hadamard factors, bfloat16, filled up with zeros to what the matrix unit takes."""

    def filled(order: int) -> Tensor:
        side = padded_order(order)
        h = torch.zeros((side, side), dtype=torch.bfloat16, device=device)
        h[:order, :order] = matrix(order).to(h)
        return h

    first, second, third = rotation_orders(c)
    return filled(first), filled(second), filled(third)


def rotated_constants(c: int, bits: int, symmetric: bool) -> dict[str, Any]:
    """Constants and launch options of a kernel that makes codes of rotated rows of c channels."""
    orders = rotation_orders(c)
    sides = [padded_order(order) for order in orders]
    sides[0] = sides[0] if orders[0] > 1 else 1
    volume = math.prod(sides)
    constants = {
        name: row_constants(c, bits, symmetric)[name] for name in ("K", "TOP", "SYMMETRIC")
    }
    return {
        **constants,
        "ROWS": 8,
        **dict(zip(("N1", "N2", "N3"), orders)),
        **dict(zip("ABC", sides)),
        "UPCAST": bool(knobs.runtime.interpret),
        "num_warps": 4 if volume <= 4096 else 8 if volume <= 8192 else 16,
        "num_stages": 1,  # rows fetched ahead would take 130 KiB of shared memory
    }
