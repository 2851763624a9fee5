"""Row quantization in Triton: a program reads whole rows once and writes their codes.

Codes are int8, or 8-bit floats; see `RowCodes`. They are those of the definition, bit for bit, but that zeros among
floats have no sign: both divide with correct rounding and round to nearest even.
"""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ahead import Build
from ..triton_functions import empty_row_codes, loadable, row_codes, row_constants, row_range
from .reference import E4M3_MAX

E4M3_TOP = tl.constexpr(E4M3_MAX)


@triton.jit
def _nearest_e4m3(t):
    """The e4m3 number nearest to t, ties to even, as float32; |t| <= 448.

    Its steps are 2^-3 of t's power of two, and 2^-9 below 2^-6. Adding 1.5 * 2^23 of them leaves no smaller bits, so that
    the conversion that follows is exact. Triton's interpreter would round its ties up.
    """
    power = tl.maximum(t.to(tl.int32, bitcast=True) & 0x7F800000, 121 << 23)
    magic = (power + (20 << 23) + (1 << 22)).to(tl.float32, bitcast=True)
    return (t + magic) - magic


@triton.jit
def _e4m3_codes(y):
    """Codes of y float32[r, c], 0 outside the row: float8e4nv[r, c], and scale float32[r]."""
    scale, _ = row_range(y, E4M3_TOP, True)
    t = tl.div_rn(y, tl.broadcast_to(scale[:, None], y.shape))
    t = tl.minimum(tl.maximum(t, -E4M3_TOP), E4M3_TOP)
    return _nearest_e4m3(t).to(tl.float8e4nv), scale


@triton.jit
def _quantize_rows(
    x_ptr, codes_ptr, scale_ptr, zero_ptr, x_stride, m,
    K: tl.constexpr, TOP: tl.constexpr, SYMMETRIC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x [m, K] -> codes [m, K], int8 or float8e4nv, scale and zero [m]; ROWS rows per program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < m)[:, None] & (column < K)[None, :]  # [ROWS, BLOCK]
    x = tl.load(x_ptr + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0)
    if codes_ptr.dtype.element_ty == tl.float8e4nv:
        codes, scale = _e4m3_codes(x.to(tl.float32))
    else:
        codes, scale, zero = row_codes(x.to(tl.float32), TOP, SYMMETRIC)
        if not SYMMETRIC:
            tl.store(zero_ptr + row, zero, mask=row < m)
    tl.store(codes_ptr + row[:, None] * K + column[None, :], codes, mask=inside)
    tl.store(scale_ptr + row, scale, mask=row < m)


def quantize_rows(
    x: Tensor, bits: int, symmetric: bool, dtype: torch.dtype = torch.int8
) -> tuple[Tensor, Tensor, Tensor]:
    """As the custom op."""
    m, k = x.shape
    x = loadable(x)
    codes, scale, zero = empty_row_codes(m, k, symmetric, x.device)
    codes = codes.view(dtype)
    if m:
        constants = row_constants(k, bits, symmetric)
        grid = (triton.cdiv(m, constants["ROWS"]),)
        _quantize_rows[grid](x, codes, scale, zero, x.stride(0), m, **constants)
    return codes, scale, zero


TYPES = {
    "x_ptr": "*bf16",
    "codes_ptr": "*i8",
    "scale_ptr": "*fp32",
    "zero_ptr": "*fp32",
    "x_stride": "i32:16",
    "m": "i32",
}
BUILDS = (
    Build("1152 columns, symmetric", _quantize_rows, TYPES, row_constants(1152, 8, True)),
    Build("1152 columns, asymmetric", _quantize_rows, TYPES, row_constants(1152, 8, False)),
    *(
        Build(
            f"1152 columns, symmetric, {stream}",
            _quantize_rows,
            TYPES | {"x_ptr": f"*{stream}"},
            row_constants(1152, 8, True),
        )
        for stream in ("fp16", "fp32")
    ),
    Build(
        "1152 columns, e4m3",
        _quantize_rows,
        TYPES | {"codes_ptr": "*fp8e4nv"},
        row_constants(1152, 8, True),
    ),
)
