"""Linear layer whose weight is codes into a codebook of vectors, definition.

Shapes: x [m, k]; codes A [n, k/d] of log2 c bits, packed as in `kernels.bitpack`; codebook C [c, d]; bias [n].

    w[r, j d : (j + 1) d] = C[A[r, j]]          y = x w^T + bias, all in float32
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import bitpack

if TYPE_CHECKING:
    from . import VectorWeight


def decode(weight: VectorWeight, rows: slice = slice(None)) -> Tensor:
    """The weight of these output rows, float32 [n, k]."""
    packed = weight.packed[rows]
    codes = bitpack.unpack(packed, weight.bits, weight.in_features // weight.codebook.shape[1])
    words = weight.codebook.float().index_select(0, codes.reshape(-1).int())
    return words.reshape(len(packed), weight.in_features)


def linear(x: Tensor, weight: VectorWeight, bias: Tensor | None, tile: int) -> Tensor:
    """y [m, n] float32; the weight of `tile` output rows is decoded at a time."""
    parts = []
    for at in range(0, weight.out_features, tile):
        own = slice(at, at + tile)
        parts.append(F.linear(x.float(), decode(weight, own), None if bias is None else bias[own]))
    return torch.cat(parts, 1)
