"""What comes after a product in Triton, before its one store: a branch, bias, GELU, or gate and residual."""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl

from ..triton_functions import float_product, gelu_tanh, row_pointers


@triton.jit
def with_branch(
    y, h_ptr, up_ptr, h_stride, up_stride, i0, j0, m, n, r,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """y float32 [BM, BN] + h [m, r] times up [n, r] transposed, BR columns at a time; y where there is no h."""
    if h_ptr is not None:
        at = tl.arange(0, BR)
        h_rows = row_pointers(h_ptr, i0, m, h_stride, BM) + at[None, :]
        up_rows = row_pointers(up_ptr, j0, n, up_stride, BN) + at[None, :]
        for r0 in tl.range(0, r, BR, num_stages=1):
            inside = (at < r - r0)[None, :]
            h = tl.load(h_rows + r0, mask=inside, other=0.0)
            up = tl.load(up_rows + r0, mask=inside, other=0.0)
            if PRECISION == "":
                near = up.to(h.dtype)
                if h.dtype == tl.bfloat16:  # two parts hold what float16 does
                    rest = (up.to(tl.float32) - near.to(tl.float32)).to(h.dtype)
                    y = float_product(h, rest, y, PRECISION)
                y = float_product(h, near, y, PRECISION)
            else:
                y = float_product(h, up, y, PRECISION)
    return y


@triton.jit
def finish(
    y, y_ptr, bias_ptr, gate_ptr, residual_ptr, gate_stride, residual_stride, i0, j, m, n, t,
    GELU: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Bias, GELU or gate and residual, and the store of y float32 [BM, BN], whose first row is i0."""
    i, row = i0 + tl.arange(0, BM), tl.arange(0, BM)[:, None]
    inside = (i < m)[:, None] & (j < n)[None, :]
    if bias_ptr is not None:
        y += tl.load(bias_ptr + j, mask=j < n, other=0.0)[None, :]
    if GELU:
        y = gelu_tanh(y)
    if gate_ptr is not None:
        gate = tl.load(
            gate_ptr + (i // t * gate_stride)[:, None] + j[None, :], mask=inside, other=0.0
        )
        residual_ptr += i0.to(tl.int64) * residual_stride
        stream = tl.load(residual_ptr + row * residual_stride + j[None, :], mask=inside, other=0.0)
        y = stream.to(tl.float32) + gate.to(tl.float32) * y
    y_ptr += i0.to(tl.int64) * n
    tl.store(y_ptr + row * n + j[None, :], y.to(y_ptr.dtype.element_ty), mask=inside)
