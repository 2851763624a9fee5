"""Linear layer whose weight is codes into a codebook of vectors, definition.

Shapes: x [m, k]; codes A [n, k/d] of log2 c bits, packed as in `kernels.bitpack`; codebook C [c, d]; bias [n].

    w[r, j d : (j + 1) d] = C[A[r, j]]          y = x w^T + bias, all in float32

With activations of b bits, rows are rounded (`kernels.quantize_rows`: a, za, s of each row), and the codebook is in int8 (Q, e of
the whole codebook), stored so or rounded likewise, which is another product, of integers:

    q[r, j d : (j + 1) d] = Q[A[r, j]]          y_ij = s_i e sum_k (a_ik - za_i) q_jk + bias_j
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import bitpack
from ..int_linear.reference import scaled
from ..quantize_rows import RowCodes, quantize_rows
from .weight import VectorWeight

TILE = 2**20  # decoded weights at once


def decode(weight: VectorWeight, rows: slice = slice(None)) -> Tensor:
    """The weight of these output rows, float32 [n, k]."""
    packed = weight.packed[rows]
    count = weight.in_features // weight.codebook.shape[1]
    codes = bitpack.unpack(packed, weight.bits, count, "simulate")
    words = weight.vectors.index_select(0, codes.reshape(-1).int())
    return words.reshape(len(packed), weight.in_features)


def product(x: Tensor, weight: VectorWeight) -> Tensor:
    """x float32 [m, k] -> x w^T float32 [m, n]; `TILE` weights are decoded at a time."""
    rows = max(1, TILE // weight.in_features)
    starts = range(0, weight.out_features, rows)
    return torch.cat([F.linear(x, decode(weight, slice(at, at + rows))) for at in starts], 1)


def linear(x: Tensor, weight: VectorWeight, bias: Tensor | None, act_bits: int | None) -> Tensor:
    """x float[m, k] -> y [m, n] in x's dtype."""
    if act_bits is not None:
        return multiply(quantize_rows(x, act_bits, backend="simulate"), weight, bias, x.dtype)
    y = product(x.float(), weight)
    return (y if bias is None else y.add_(bias)).to(x.dtype)


def multiply(
    rows: RowCodes, weight: VectorWeight, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """rows of integers [m, k] -> y [m, n] in `dtype`."""
    own, codes = weight.rounded, rows.codes.float()
    assert own.scale is not None
    whole = VectorWeight(own.packed, own.codebook.float(), own.in_features)
    sums = product(codes if rows.zero is None else codes - rows.zero, whole)
    return scaled(sums, rows.scale, own.scale, bias).to(dtype)
