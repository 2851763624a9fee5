"""Block rotations and row codes in Triton, in two launches, because a permutation of the row lies between them.

Rows are cut into blocks, each a row of a product with a small matrix. The first launch writes them rotated, in
float32; the second gathers them permuted, rotates again, and has whole rows, whose codes it writes. Of rows that no
program holds with their blocks the second writes the values, and `quantize_rows` their codes.
"""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ahead import Build
from ..quantize_rows.triton_impl import quantize_rows
from ..triton_functions import (
    empty_row_codes,
    float_precision,
    float_product,
    loadable,
    row_codes,
    row_constants,
)

TILE = 4096  # elements of the result, with their padding, that a program holds without spilling


@triton.jit
def _matrix(ptr, at, B: tl.constexpr, P: tl.constexpr):
    """Rows `at` of a matrix [B, B] as columns [P, len(at)], as `float_product` takes them; 0 beyond B."""
    column = tl.arange(0, P)[:, None]
    return tl.load(ptr + at[None, :] * B + column, mask=(column < B) & (at < B)[None, :], other=0.0)


@triton.jit
def _rotate(
    x_ptr, channel_scale_ptr, order_ptr, matrix_ptr, y_ptr, x_stride, blocks,
    N: tl.constexpr, B: tl.constexpr, P: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x [m, N B] -> y float32 [m N, B], permuted by order int32 [N B] or divided by channel_scale [N B], and rotated.

    `blocks` is m N.
    """
    block = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    inside = (block < blocks)[:, None]
    x_rows = x_ptr + (block // N * x_stride)[:, None]
    acc = tl.zeros((BM, P), tl.float32)
    for k0 in tl.static_range(0, P, BK):
        at = k0 + tl.arange(0, BK)
        channel = (block % N * B)[:, None] + at[None, :]
        here = inside & (at < B)[None, :]
        if order_ptr is not None:
            channel = tl.load(order_ptr + channel, mask=here, other=0)
        x = tl.load(x_rows + channel, mask=here, other=0.0).to(tl.float32)
        if channel_scale_ptr is not None:
            x = x / tl.load(channel_scale_ptr + channel, mask=here, other=1.0).to(tl.float32)
        acc = float_product(x, _matrix(matrix_ptr, at, B, P), acc, PRECISION)
    column = tl.arange(0, P)[None, :]
    tl.store(y_ptr + block[:, None] * B + column, acc, mask=inside & (column < B))


@triton.jit
def _permute_rotate_quantize(
    y_ptr, order_ptr, second_ptr, codes_ptr, scale_ptr, zero_ptr, m,
    K: tl.constexpr, TOP: tl.constexpr, SYMMETRIC: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr,
    B: tl.constexpr, P: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y float32 [m, K], order int32 [K]; ROWS rows per program, each of BLOCKS blocks with its padding."""
    run = tl.arange(0, ROWS * BLOCKS)
    row, start = tl.program_id(0).to(tl.int64) * ROWS + run // BLOCKS, run % BLOCKS * B
    inside = ((row < m) & (start < K))[:, None]
    acc = tl.zeros((ROWS * BLOCKS, P), tl.float32)
    for k0 in tl.static_range(0, P, BK):
        at = k0 + tl.arange(0, BK)
        here = inside & (at < B)[None, :]
        channel = tl.load(order_ptr + start[:, None] + at[None, :], mask=here, other=0)
        y = tl.load(y_ptr + (row * K)[:, None] + channel, mask=here, other=0.0)
        acc = float_product(y, _matrix(second_ptr, at, B, P), acc, PRECISION)
    codes, scale, zero = row_codes(tl.reshape(acc, (ROWS, BLOCKS * P)), TOP, SYMMETRIC)
    column = tl.arange(0, P)[None, :]
    to = codes_ptr + (row * K + start)[:, None] + column
    tl.store(to, tl.reshape(codes, (ROWS * BLOCKS, P)), mask=inside & (column < B))
    one = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tl.store(scale_ptr + one, scale, mask=one < m)
    if not SYMMETRIC:
        tl.store(zero_ptr + one, zero, mask=one < m)


def block_rotation(
    x: Tensor,
    channel_scale: Tensor | None,
    first: Tensor,
    order: Tensor,
    second: Tensor,
    bits: int,
    symmetric: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the custom op."""
    m, k = x.shape
    x = loadable(x)
    channel_scale = None if channel_scale is None else loadable(channel_scale)
    first, second = (t.float().contiguous() for t in (first, second))
    order = order.int().contiguous()
    codes, scale, zero = empty_row_codes(m, k, symmetric, x.device)
    if not m:
        return codes, scale, zero
    rotation, rest = _constants(k, len(first), bits, symmetric)
    y = _rotated(x, channel_scale, None, first, rotation)
    if not rest["ROWS"]:
        return quantize_rows(_rotated(y, None, order, second, rotation), bits, symmetric)
    _permute_rotate_quantize[(triton.cdiv(m, rest["ROWS"]),)](
        y, order, second, codes, scale, zero, m, **rest
    )
    return codes, scale, zero


def _rotated(
    x: Tensor,
    channel_scale: Tensor | None,
    order: Tensor | None,
    matrix: Tensor,
    constants: dict[str, Any],
) -> Tensor:
    """x [m, k] as `_rotate` writes it, float32 [m, k]."""
    y = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    blocks = len(x) * constants["N"]
    grid = (triton.cdiv(blocks, constants["BM"]),)
    _rotate[grid](x, channel_scale, order, matrix, y, x.stride(0), blocks, **constants)
    return y


def _constants(k: int, b: int, bits: int, symmetric: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Constants and launch options of both kernels; operands of a matrix unit have 16 rows and columns at least.

    Rows too wide for the second have none in a program of it.
    """
    padded = max(16, b)
    precision = float_precision(torch.float32)
    both = {"B": b, "P": padded, "BK": 16, "PRECISION": precision, "num_warps": 8}
    row_blocks = max(16, triton.next_power_of_2(k // b))
    rows = row_constants(k, bits, symmetric)
    rest = {name: rows[name] for name in ("K", "TOP", "SYMMETRIC")}
    rest |= {"ROWS": TILE // (row_blocks * padded), "BLOCKS": row_blocks}
    return {"N": k // b, "BM": TILE // padded, **both}, rest | both


ROTATED = {"x_ptr": "*bf16", "matrix_ptr": "*fp32", "y_ptr": "*fp32"}
ROTATED |= {"x_stride": "i32:16", "blocks": "i32"}


def _builds(name: str, k: int, b: int, symmetric: bool = True) -> tuple[Build, Build]:
    """Both kernels, for bfloat16."""
    rotation, rest = _constants(k, b, 8, symmetric)
    types = {"y_ptr": "*fp32", "order_ptr": "*i32", "second_ptr": "*fp32", "codes_ptr": "*i8"}
    types |= {"scale_ptr": "*fp32", "zero_ptr": "*fp32", "m": "i32"}
    first = ROTATED | {"channel_scale_ptr": "*fp32"}
    return (
        Build(f"{name}, first", _rotate, first, rotation, "half"),
        Build(f"{name}, second", _permute_rotate_quantize, types, rest, "half"),
    )


def _wide(name: str, k: int, b: int) -> Build:
    """What rotates rows a second time that no program holds."""
    types = ROTATED | {"x_ptr": "*fp32", "order_ptr": "*i32"}
    return Build(f"{name}, second", _rotate, types, _constants(k, b, 8, True)[0], "half")


BUILDS = (
    *_builds("1152 channels in blocks of 128", 1152, 128),
    *_builds("1152 channels in blocks of 32, asymmetric", 1152, 32, symmetric=False),
    _wide("4608 channels in blocks of 128", 4608, 128),
)
