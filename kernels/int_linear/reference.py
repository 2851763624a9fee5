"""Linear layer on one set of stored integers, definition: floating-point arithmetic over the integers.

Shapes: x [m, k]; a, za, s its row codes, zeros, scales (`quantize_rows`); q, z, d the weight's
(`PackedWeight`); y [m, n].

    acc_ij = sum_k (a_ik - za_i) (q_jk - z_j)           integers, exact in float32 below 2^24
    y_ij   = acc_ij s_i d_j + bias_j                     one scale per weight row
    y_ij   = s_i sum_k (a_ik - za_i) w_jk + bias_j       group-wise: w = (q - z) d
    y_ij   = sum_k x_ik w_jk + bias_j                    weight-only: act_bits is None

What comes after: y + h up^T, where there is a branch (`branch.py`); then nothing, gelu(y) (tanh), or residual + gate_b y
for row i of sample b.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quantize_rows import RowCodes, quantize_rows
from .branch import Branch, with_branch
from .weight import After, GatedResidual, PackedWeight, Prepared


def linear(
    x: Tensor,
    weight: Prepared,
    bias: Tensor | None,
    act_bits: int | None,
    act_symmetric: bool,
    after: After,
    dtype: torch.dtype,
    branch: Branch | None = None,
) -> Tensor:
    """x float[m, k] -> y [m, n]."""
    if act_bits is None:
        values = weight.form("values", PackedWeight.dequantize)
        return finished(F.linear(x.to(torch.float32), values, bias), after, dtype, branch)
    rows = quantize_rows(x, act_bits, act_symmetric, backend="simulate")
    return multiply(rows, weight, bias, act_bits, after, dtype, branch)


def multiply(
    rows: RowCodes,
    weight: Prepared,
    bias: Tensor | None,
    act_bits: int,
    after: After,
    dtype: torch.dtype,
    branch: Branch | None = None,
) -> Tensor:
    """rows of any scales [m, k] -> y [m, n]."""
    if weight.weight.scale.shape[1] > 1:
        y = F.linear(_centred(rows), weight.form("values", PackedWeight.dequantize)).mul_(
            rows.scale
        )
        return finished(y if bias is None else y.add_(bias), after, dtype, branch)
    acc = F.linear(_centred(rows), weight.form("integers", PackedWeight.integers))
    return finished(scaled(acc, rows.scale, weight.weight.scale, bias), after, dtype, branch)


def finished(y: Tensor, after: After, dtype: torch.dtype, branch: Branch | None = None) -> Tensor:
    """What comes after y float32[m, n], which may be overwritten; the result in `dtype`."""
    y = with_branch(y, branch)
    if after == "gelu":
        y = F.gelu(y, approximate="tanh")
    elif isinstance(after, GatedResidual):
        gate = after.gate.to(y.dtype)  # [b, n]
        samples = y.view(len(gate), -1, y.shape[1]) * gate[:, None]  # [b, t, n]
        y = samples.view(y.shape) + after.residual
    return y.to(dtype)


def scaled(acc: Tensor, row_scale: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """acc [m, n], overwritten; row_scale [m, 1]; weight_scale [n, 1] -> y [m, n]."""
    acc.mul_(row_scale)
    d = weight_scale.view(1, -1)  # [1, n]
    return acc.mul_(d) if bias is None else torch.addcmul(bias, acc, d)


def accumulate(x: Tensor, weight: Prepared, act_bits: int, act_symmetric: bool) -> Tensor:
    """acc int64[m, n], exact."""
    rows = quantize_rows(x, act_bits, act_symmetric, backend="simulate")
    integers = weight.form("integers", PackedWeight.integers)
    return (_centred(rows).double() @ integers.double().T).to(torch.int64)


def _centred(rows: RowCodes) -> Tensor:
    codes = rows.codes.to(torch.float32)  # [m, k]
    return codes if rows.zero is None else codes - rows.zero
