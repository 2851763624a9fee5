"""Linear layer whose weight is codes into a codebook of vectors, definition.

Shapes: x [m, k]; codes A [n, k/d] of log2 c bits, packed as in `kernels.bitpack`; codebook C [c, d]; bias [n].

    w[r, j d : (j + 1) d] = C[A[r, j]]          y = x w^T + bias, all in float32

With activations of b bits, rows and codebook are rounded (`kernels.quantize_rows`, symmetric: a, s of each row; Q, e of the
whole codebook, 8 bits), which is another product, of integers:

    q[r, j d : (j + 1) d] = Q[A[r, j]]          y_ij = s_i e sum_k a_ik q_jk + bias_j
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import bitpack
from ..quantize_rows import quantize_rows
from .weight import VectorWeight

TILE = 2**20  # decoded weights at once


def decode(weight: VectorWeight, rows: slice = slice(None)) -> Tensor:
    """The weight of these output rows, float32 [n, k]."""
    packed = weight.packed[rows]
    count = weight.in_features // weight.codebook.shape[1]
    codes = bitpack.unpack(packed, weight.bits, count, "simulate")
    words = weight.codebook.float().index_select(0, codes.reshape(-1).int())
    return words.reshape(len(packed), weight.in_features)


def product(x: Tensor, weight: VectorWeight) -> Tensor:
    """x float32 [m, k] -> x w^T float32 [m, n]; `TILE` weights are decoded at a time."""
    rows = max(1, TILE // weight.in_features)
    starts = range(0, weight.out_features, rows)
    return torch.cat([F.linear(x, decode(weight, slice(at, at + rows))) for at in starts], 1)


def linear(x: Tensor, weight: VectorWeight, bias: Tensor | None, act_bits: int | None) -> Tensor:
    """x float[m, k] -> y [m, n] in x's dtype."""
    if act_bits is None:
        y = product(x.float(), weight)
    else:
        codes, scale, _ = quantize_rows(x, act_bits, backend="simulate")
        whole, codebook_scale = weight.rounded
        y = product(codes, whole).mul_(scale * codebook_scale)
    return (y if bias is None else y.add_(bias)).to(x.dtype)
