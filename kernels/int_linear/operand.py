"""The stored integers of a weight in the form that matrix units of a GPU take.

Shapes: q - c int8 [n, k] with a centre c near the zero z; nibbles uint8 [n, 64 p], p = ceil(k / 128).

    8-bit form   one byte for each of 5- to 8-bit codes
    nibbles      up to 4 bits: byte 64 b + j of a row holds channel 128 b + j in its low half and 128 b + 64 + j in
                 its high half, each as a signed number, and zeros beyond k

Packed so, the two halves of 64 bytes are two operands as they stand: nothing is interleaved, and groups of 64 or 128
channels never share a half. `kernels.bitpack`, the layout on disk, has neighbours in one byte, which a kernel would
have to sort apart for every product. What c lacks of z is corrected per row:

    acc_ij = sum_k a_ik (q_jk - c_j) - za_i sum_k (q_jk - c_j) - (z_j - c_j) sum_k (a_ik - za_i)

In groups, c is z, but for nibbles with zeros of their own, where it is 8 and z - 8 goes along.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .weight import PackedWeight

BLOCK = 128  # channels that are packed together
HALF = BLOCK // 2
GROUPS = (64, 128)  # group sizes that products are cut into


class Operand(NamedTuple):
    """A weight [n, k] as a GPU multiplies it."""

    data: Tensor  # int8 [n, k], or nibbles uint8 [n, 64 p]
    scale: Tensor  # float32 [g, n]
    sums: Tensor  # of each row: int32 [n], sum_k (q - c); in groups float32 [n], sum_k (q - z) d
    shift: Tensor | None  # z - c where it is not zero everywhere: int32 [n]; in groups int8 [g, n]
    group: int  # channels of a group, 0 where a row has one scale


def operand(weight: PackedWeight) -> Operand:
    """Made of the stored form; `custom_op.obstacle` says for which there is none."""
    packs = weight.bits <= 4
    if weight.scale.shape[1] == 1:
        centre = weight.centre(-8, 7) if packs else weight.centre(-128, 127)
        assert centre is not None, "obstacle() comes first"
        q = weight.codes().to(torch.int16).sub_(centre)  # [n, k]
        sums, shift = q.sum(1, dtype=torch.int32), (weight.zeros() - centre).flatten().int()
        group = 0
    else:
        assert weight.group_size is not None, "only groups have more scales than one"
        packs_zeros = packs and weight.zero is not None
        codes = weight.codes().to(torch.int16)
        q = codes.sub_(8) if packs_zeros else weight.integers().to(torch.int16)
        sums = weight.dequantize().sum(1)
        shift = (weight.zeros() - 8).to(torch.int8).T.contiguous() if packs_zeros else None
        group = weight.group_size
    shift = shift if shift is not None and bool(shift.any()) else None
    data = nibbles(q) if packs else q.to(torch.int8)
    return Operand(data, weight.scale.T.contiguous(), sums, shift, group)


def nibbles(q: Tensor) -> Tensor:
    """q [n, k], -8 .. 7 -> uint8 [n, 64 ceil(k / 128)]."""
    n, k = q.shape
    padded = torch.zeros((n, -(-k // BLOCK) * BLOCK), dtype=torch.uint8, device=q.device)
    padded[:, :k] = q.to(torch.uint8) & 15  # negative numbers wrap, which keeps their low bits
    halves = padded.view(n, -1, 2, HALF)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1)


def from_nibbles(data: Tensor, k: int) -> Tensor:
    """The inverse: int8 [n, k]."""
    halves = data.view(len(data), -1, 1, HALF)
    q = torch.cat([halves & 15, halves >> 4], 2).to(torch.int8).flatten(1)  # [n, 128 p]
    return torch.where(q > 7, q - 16, q)[:, :k]
