"""Linear layer of 8-bit floats, definition: floating-point arithmetic over what the codes stand for.

Shapes: x [m, k]; a, s its row codes and scales (`kernels.quantize_rows`, 8-bit floats); b [n, k], d [n, 1] the
weight's (`Float8Weight`); y [m, n].

    y_ij = sum_k (a_ik s_i) (b_jk d_j) + bias_j         in float32

Every product of two codes is exact in float32. What comes after is as in `kernels.int_linear`: nothing,
gelu(y) (tanh), or residual + gate_b y for row i of sample b.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..int_linear.reference import finished
from ..int_linear.weight import After
from ..quantize_rows import RowCodes, quantize_rows_fp8
from .weight import Float8Weight


def linear(
    x: Tensor, weight: Float8Weight, bias: Tensor | None, after: After, dtype: torch.dtype
) -> Tensor:
    """x float[m, k] -> y [m, n]."""
    return multiply(quantize_rows_fp8(x, backend="simulate"), weight, bias, after, dtype)


def multiply(
    rows: RowCodes, weight: Float8Weight, bias: Tensor | None, after: After, dtype: torch.dtype
) -> Tensor:
    """rows of any scales [m, k] -> y [m, n]."""
    return finished(F.linear(rows.dequantize(), weight.dequantize(), bias), after, dtype)
