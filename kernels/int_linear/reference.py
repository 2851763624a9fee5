"""Linear layer on one set of stored integers, definition: floating-point arithmetic over the integers.

Shapes: x [m, k]; a, za, s its row codes, zeros, scales (`quantize_rows`); q, z, d the weight's
(`PackedWeight`); y [m, n].

    acc_ij = sum_k (a_ik - za_i) (q_jk - z_j)           integers, exact in float32 below 2^24
    y_ij   = acc_ij s_i d_j + bias_j                     one scale per weight row
    y_ij   = s_i sum_k (a_ik - za_i) w_jk + bias_j       group-wise: w = (q - z) d
    y_ij   = sum_k x_ik w_jk + bias_j                    weight-only: act_bits is None
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..quantize_rows import RowCodes, quantize_rows
from .weight import PackedWeight, Prepared


def linear(
    x: Tensor, weight: Prepared, bias: Tensor | None, act_bits: int | None, act_symmetric: bool
) -> Tensor:
    """x float[m, k] -> y float32[m, n]."""
    if act_bits is None:
        return F.linear(x.to(torch.float32), weight.form("values", PackedWeight.dequantize), bias)
    return multiply(quantize_rows(x, act_bits, act_symmetric, backend="simulate"), weight, bias)


def multiply(
    rows: RowCodes, weight: Prepared, bias: Tensor | None, act_bits: int | None = None
) -> Tensor:
    """rows of any scales [m, k], whose codes may be overwritten -> y float32[m, n]."""
    if weight.weight.scale.shape[1] > 1:
        y = F.linear(_centred(rows), weight.form("values", PackedWeight.dequantize)).mul_(
            rows.scale
        )
        return y if bias is None else y.add_(bias)
    acc = F.linear(_centred(rows), weight.form("integers", PackedWeight.integers))
    return scaled(acc, rows.scale, weight.weight.scale, bias)


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
    return rows.codes if rows.zero is None else rows.codes.sub_(rows.zero)  # [m, k]
