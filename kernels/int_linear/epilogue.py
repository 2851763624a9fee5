"""What comes after a product in Triton, before its one store: bias, GELU, or gate and residual."""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl

from ..triton_functions import gelu_tanh


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
