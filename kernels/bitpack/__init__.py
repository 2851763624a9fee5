"""Dense packing of 1- to 8-bit codes: six-bit codes really take six bits.

`pack` and `unpack` are inverse to each other for every n. Layout (also the layout on disk): within a
row, code i occupies bits i*bits .. (i+1)*bits - 1, lowest bit first; every row starts on a byte.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import Op
from .reference import packed_width

OP = Op(__name__, {"simulate": "reference"})


def pack(codes: Tensor, bits: int, backend: str | None = None) -> Tensor:
    """Pack codes uint8[o, n], all below 2**bits, into uint8[o, ceil(n * bits / 8)].

    Raises ValueError if `bits` is not 1..8, if `codes` is not a uint8 matrix, or if a code is too large.
    """
    _check(codes, bits, "codes")
    if codes.numel() and bits < 8 and int(codes.max()) >= 1 << bits:
        raise ValueError(
            f"code {int(codes.max())} does not fit in {bits} bits; the largest is {(1 << bits) - 1}"
        )
    return OP.chosen(backend).pack(codes, bits)


def unpack(packed: Tensor, bits: int, n: int, backend: str | None = None) -> Tensor:
    """Unpack uint8[o, ceil(n * bits / 8)] into codes uint8[o, n].

    Raises ValueError if the row width does not belong to n codes of `bits` bits.
    """
    _check(packed, bits, "packed")
    if n < 0 or packed.shape[1] != packed_width(n, bits):
        raise ValueError(
            f"packed rows of {packed.shape[1]} bytes do not hold {n} codes of {bits} bits, "
            f"which take {packed_width(max(n, 0), bits)} bytes"
        )
    return OP.chosen(backend).unpack(packed, bits, n)


def _check(t: Tensor, bits: int, what: str) -> None:
    if not 1 <= bits <= 8:
        raise ValueError(f"bits is {bits}; packing takes 1 to 8")
    if t.dtype != torch.uint8 or t.dim() != 2:
        raise ValueError(f"{what} is {t.dtype} of shape {tuple(t.shape)}; needs a uint8 matrix")
