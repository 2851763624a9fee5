"""A codebook's weight as integers of 8 bits, for products that read a byte for each weight; and its codes from those.

Shapes: weight [n, k]; codes A [n, k/d]; codebook Q int8 [c, d] with its scale e.

    q[r, j d : (j + 1) d] = Q[A[r, j]]          w = q e, the same e for every row
    A[r, j] = the first c with Q[c] = q[r, j d : (j + 1) d]

So the codes come back to the bit where each names the first of equal vectors, as the engine stores them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import bitpack
from ..int_linear import PackedWeight
from .weight import VectorWeight

ZERO = 128  # of 8-bit codes: they are stored without signs
# A vector as one number, by its elements.
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ExpandedWeight(PackedWeight):
    """A weight with an int8 codebook as `int_linear` takes it; its bytes are made each time they are asked for.

    Raises ValueError for a codebook in floating point.
    """

    of: VectorWeight

    def __init__(self, of: VectorWeight) -> None:
        if of.scale is None:
            raise ValueError(f"codebook is {of.codebook.dtype}; integers are made of one in int8")
        parts = {"bits": 8, "in_features": of.in_features, "zero": None, "group_size": None}
        scale = of.scale.view(1, 1).expand(of.out_features, 1)
        self.__dict__.update(parts, of=of, scale=scale)

    @property
    def packed(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of 8 bits each, so as `codes`."""
        return self.codes()

    def codes(self) -> Tensor:
        """q + 128, uint8 [n, k]."""
        count = self.in_features // self.of.codebook.shape[1]
        codes = bitpack.unpack(self.of.packed, self.of.bits, count, "simulate")
        vectors = _bytes(self.of.codebook).index_select(0, codes.reshape(-1).int())
        return vectors.reshape(len(codes), self.in_features)


def codes_of(weight: PackedWeight, codebook: Tensor) -> Tensor:
    """The packed codes uint8 [n, p] of a weight that was expanded from this codebook, int8 [c, d]."""
    return bitpack.pack(first_equal(weight.codes(), codebook), index_bits(codebook), "simulate")


def first_equal(expanded: Tensor, codebook: Tensor) -> Tensor:
    """Of every vector in q + 128, uint8 [n, k], the first codeword that equals it, uint8 [n, k/d].

    What equals none gets any. Raises ValueError for vectors that are not of 1, 2, 4 or 8 elements.
    """
    d = codebook.shape[1]
    if d not in WORDS:
        raise ValueError(f"vectors of {d} elements; codes are found again for 1, 2, 4 or 8")
    known = _bytes(codebook).view(WORDS[d]).flatten()  # [c]
    order = known.argsort(stable=True)
    vectors = expanded.contiguous().view(WORDS[d])  # [n, k/d]
    at = torch.searchsorted(known[order], vectors, out_int32=True)
    return order.to(torch.uint8)[at.clamp_(max=len(known) - 1)]


def first_of_equals(codebook: Tensor) -> Tensor:
    """Of every codeword of int8 [c, d] the first that equals it, uint8 [c]."""
    return first_equal(_bytes(codebook), codebook)[:, 0]


def index_bits(codebook: Tensor) -> int:
    """Of one code: log2 c."""
    return (len(codebook) - 1).bit_length()


def _bytes(codebook: Tensor) -> Tensor:
    return codebook.contiguous().view(torch.uint8) ^ ZERO  # the sign bit turned is 128 added
