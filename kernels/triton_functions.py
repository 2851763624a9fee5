"""What the Triton kernels share: rounding, row codes, activations, and the tiles of rows and of products.

Imported by `kernels/*/triton_impl.py` only. Everything here also runs in Triton's interpreter, so nothing
of `libdevice` and no bfloat16 arithmetic: operands are float32 from the load on.
"""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from .ahead import AMD_STAGES
from .dispatch import LARGEST_ROW

SCALE_FLOOR = tl.constexpr(1e-8)  # as in kernels/quantize_rows/reference.py
MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it leaves no bits behind the point


class Tile(NamedTuple):
    """How rows of one width are cut: `rows` rows of `block` columns for a program of `warps` warps."""

    rows: int
    block: int
    warps: int


def row_tile(columns: int) -> Tile:
    """The tile that holds whole rows, of `LARGEST_ROW` columns at most."""
    assert columns <= LARGEST_ROW, "obstacle() comes first"
    block = 1 << (columns - 1).bit_length()
    return Tile(max(1, 2048 // block), block, 4 if block <= 2048 else 8 if block <= 8192 else 16)


def row_constants(columns: int, bits: int, symmetric: bool) -> dict[str, Any]:
    """Constants and launch options of a kernel that makes codes of whole rows."""
    tile = row_tile(columns)
    return {
        "K": columns,
        "TOP": 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1,
        "SYMMETRIC": symmetric,
        "ROWS": tile.rows,
        "BLOCK": tile.block,
        "num_warps": tile.warps,
    }


def empty_row_codes(
    rows: int, columns: int, symmetric: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for codes int8 [rows, columns], scale float32 [rows, 1] and zero, [0, 1] if symmetric."""
    codes = torch.empty((rows, columns), dtype=torch.int8, device=device)
    scale = torch.empty((rows, 1), dtype=torch.float32, device=device)
    zero = torch.empty((0 if symmetric else rows, 1), dtype=torch.float32, device=device)
    return codes, scale, zero


def loadable(x: Tensor) -> Tensor:
    """x with its last axis dense, and in a dtype that the kernels load: float64 becomes float32."""
    x = x.float() if x.dtype == torch.float64 else x
    return x if x.stride(-1) == 1 else x.contiguous()


def float_precision(dtype: torch.dtype) -> str:
    """PRECISION of `float_product` for operands of a dtype.

    Not "ieee" on a GPU: for sm_100, Triton 3.7.1 compiles that to tf32, of 10 bits. bf16x6 is six products of
    bfloat16 parts, as exact as float32. The interpreter, which cannot multiply bfloat16, takes float32 for all.
    """
    if knobs.runtime.interpret:
        return "ieee"
    return "bf16x6" if dtype == torch.float32 else ""


def launch_tiles(
    kernel: Any, arguments: Iterable[Any], m: int, n: int, constants: Mapping[str, Any]
) -> None:
    """One program for each tile of BM x BN of a result [m, n], in the order of `product_tile`."""
    constants = dict(constants)
    if torch.version.hip:
        constants["num_stages"] = min(AMD_STAGES, constants["num_stages"])
    grid = (triton.cdiv(m, constants["BM"]) * triton.cdiv(n, constants["BN"]),)
    kernel[grid](*arguments, **constants)


@triton.jit
def product_tile(m, n, BM: tl.constexpr, BN: tl.constexpr):
    """First row and column of this program's tile, in an order in which neighbours share operands in the cache."""
    program, down, across = tl.program_id(0), tl.cdiv(m, BM), tl.cdiv(n, BN)
    first = program // (8 * across) * 8
    height = tl.minimum(down - first, 8)
    inside = program % (8 * across)
    return (first + inside % height) * BM, inside // height * BN


@triton.jit
def row_pointers(ptr, start, count, stride, SIZE: tl.constexpr):
    """Pointers [SIZE, 1] to rows from `start` on; those beyond the last are the last."""
    row = tl.minimum(tl.arange(0, SIZE), count - 1 - start)
    return ptr + start.to(tl.int64) * stride + (row * stride)[:, None]


@triton.jit
def float_product(a, w, acc, PRECISION: tl.constexpr):
    """acc float32 [r, c] + a [r, k] times w [c, k] transposed: as they are where PRECISION is "", else in float32."""
    if PRECISION == "":
        acc = tl.dot(a, w.T, acc)
    else:
        acc = tl.dot(a.to(tl.float32), w.to(tl.float32).T, acc, input_precision=PRECISION)
    return acc


@triton.jit
def nearest(t):
    """Round to nearest, ties to even; |t| < 2^22."""
    return (t + MAGIC) - MAGIC


@triton.jit
def whole_int8(q):
    """Whole float32 numbers as int8; nan as 0, because its conversion is not defined."""
    return tl.where(q == q, q, 0.0).to(tl.int8)


@triton.jit
def row_codes(y, TOP: tl.constexpr, SYMMETRIC: tl.constexpr):
    """Codes of y float32[r, c], 0 outside the row: int8[r, c], scale and zero float32[r].

    TOP is the largest code. Asymmetric codes 0 .. TOP and their zero come with (TOP + 1) / 2 taken off.
    A row with nan gets the scale nan.
    """
    scale, zero = row_range(y, TOP, SYMMETRIC)
    codes = codes_on(y, scale[:, None], zero[:, None], TOP, SYMMETRIC)
    return codes, scale, stored_zero(zero, TOP, SYMMETRIC)


@triton.jit
def row_range(y, TOP: tl.constexpr, SYMMETRIC: tl.constexpr):
    """Scale and zero float32[r] of y float32[r, c]."""
    faulty = tl.max(tl.where(y == y, 0, 1), axis=1)
    if SYMMETRIC:
        low = tl.zeros_like(faulty).to(tl.float32)
        span = tl.max(tl.abs(y), axis=1)
    else:
        low = tl.minimum(tl.min(y, axis=1), 0.0)
        span = tl.maximum(tl.max(y, axis=1), 0.0) - low
    scale = tl.maximum(tl.div_rn(span, TOP * 1.0), SCALE_FLOOR)
    scale = tl.where(faulty > 0, float("nan"), scale)
    return scale, nearest(tl.div_rn(-low, scale))


@triton.jit
def codes_on(y, scale, zero, TOP: tl.constexpr, SYMMETRIC: tl.constexpr):
    """int8 codes of y on scales and zeros that broadcast to it."""
    q = nearest(tl.div_rn(y, tl.broadcast_to(scale, y.shape)))
    if not SYMMETRIC:
        q = clipped(q + zero, TOP, SYMMETRIC)
    return whole_int8(q)


@triton.jit
def stored_zero(zero, TOP: tl.constexpr, SYMMETRIC: tl.constexpr):
    """The zero that belongs to int8 codes."""
    return zero if SYMMETRIC else zero - (TOP + 1) // 2


@triton.jit
def clipped(q, TOP: tl.constexpr, SYMMETRIC: tl.constexpr):
    """Whole numbers within -TOP .. TOP, or within 0 .. TOP and then (TOP + 1) / 2 less."""
    if SYMMETRIC:
        q = tl.minimum(tl.maximum(q, -TOP * 1.0), TOP * 1.0)
    else:
        q = tl.minimum(tl.maximum(q, 0.0), TOP * 1.0) - (TOP + 1) // 2
    return q


@triton.jit
def gelu_tanh(x):
    """0.5 x (1 + tanh u) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x / (1.0 + tl.exp(-2.0 * u))
