"""Linear layer whose weight is codes into a codebook of vectors, definition.

Shapes: x [m, k]; codes A [n, k/d] of log2 c bits, packed as in `kernels.bitpack`; codebook C [c, d]; bias [n].

    w[r, j d : (j + 1) d] = C[A[r, j]]          y = x w^T + bias, all in float32
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import bitpack
from .weight import VectorWeight

TILE = 2**20  # decoded weights at once


def decode(weight: VectorWeight, rows: slice = slice(None)) -> Tensor:
    """The weight of these output rows, float32 [n, k]."""
    packed = weight.packed[rows]
    count = weight.in_features // weight.codebook.shape[1]
    codes = bitpack.unpack(packed, weight.bits, count, "simulate")
    words = weight.codebook.float().index_select(0, codes.reshape(-1).int())
    return words.reshape(len(packed), weight.in_features)


def linear(x: Tensor, weight: VectorWeight, bias: Tensor | None) -> Tensor:
    """x float[m, k] -> y [m, n] in x's dtype; `TILE` weights are decoded at a time."""
    rows, parts = max(1, TILE // weight.in_features), []
    bias = None if bias is None else bias.float()
    for at in range(0, weight.out_features, rows):
        own = slice(at, at + rows)
        parts.append(F.linear(x.float(), decode(weight, own), None if bias is None else bias[own]))
    return torch.cat(parts, 1).to(x.dtype)
