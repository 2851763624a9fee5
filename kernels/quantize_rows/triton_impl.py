"""Row quantization in Triton: a program reads whole rows once and writes their codes.

Codes are int8; see `RowCodes`. Integers are those of the definition, bit for bit: both divide with
correct rounding and round to nearest even.
"""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..ahead import Build
from ..triton_functions import empty_row_codes, loadable, row_codes, row_constants


@triton.jit
def _quantize_rows(
    x_ptr, codes_ptr, scale_ptr, zero_ptr, x_stride, m,
    K: tl.constexpr, TOP: tl.constexpr, SYMMETRIC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x [m, K] -> codes int8 [m, K], scale and zero [m]; ROWS rows per program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < m)[:, None] & (column < K)[None, :]  # [ROWS, BLOCK]
    x = tl.load(x_ptr + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0)
    codes, scale, zero = row_codes(x.to(tl.float32), TOP, SYMMETRIC)
    tl.store(codes_ptr + row[:, None] * K + column[None, :], codes, mask=inside)
    tl.store(scale_ptr + row, scale, mask=row < m)
    if not SYMMETRIC:
        tl.store(zero_ptr + row, zero, mask=row < m)


def quantize_rows(x: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """x float[m, k] -> codes int8 [m, k], scale float32 [m, 1], zero float32 [m, 1] ([0, 1] if symmetric)."""
    m, k = x.shape
    x = loadable(x)
    codes, scale, zero = empty_row_codes(m, k, symmetric, x.device)
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
)
