"""The stored integers of a weight in the form that matrix units of a GPU take.

Shapes: q - c int8 [n, k] with a centre c near the zero z; nibbles uint8 [n, 64 p], p = ceil(k / 128).

    8-bit form   one byte for each of 5- to 8-bit codes
    nibbles      up to 4 bits: byte 64 b + j of a row holds channel 128 b + j in its low half and 128 b + 64 + j in
                 its high half, each as a signed number, and zeros beyond k

Packed so, the two halves of 64 bytes are two operands as they stand: nothing is interleaved, and groups of 64 or 128
channels never share a half. `kernels.bitpack`, the layout on disk, has neighbours in one byte, which a kernel would
have to sort apart for every product. What c lacks of z is corrected per row:

    acc_ij = sum_k a_ik (q_jk - c_j) - za_i sum_k (q_jk - c_j) - (z_j - c_j) sum_k (a_ik - za_i)

In groups, c is z, but for nibbles with zeros of their own, where it is 8 and z - 8 goes along. The stored codes are
q = (q - c) + c, with c = z less what goes along: so an operand can stand in their place.
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
    apart = apart_of(weight)
    centre = weight.zeros() if apart is None else weight.zeros() - apart  # [n, g]
    q = weight.codes().to(torch.int16).sub_(weight.by_column(centre))  # [n, k]
    data = nibbles(q) if packs(weight) else q.to(torch.int8)
    if weight.scale.shape[1] == 1:
        sums, group = q.sum(1, dtype=torch.int32), 0
        shift = None if apart is None else apart.flatten().int()
    else:
        assert weight.group_size is not None, "only groups have more scales than one"
        sums, group = weight.dequantize().sum(1), weight.group_size
        shift = None if apart is None else apart.to(torch.int8).T.contiguous()
    return Operand(data, weight.scale.T.contiguous(), sums, shift, group)


def packs(weight: PackedWeight) -> bool:
    """Whether integers of a weight are packed as nibbles."""
    return weight.bits <= 4


def apart_of(weight: PackedWeight) -> Tensor | None:
    """z - c, int16 [n, g], or None where it is zero everywhere."""
    if weight.scale.shape[1] == 1:
        centre = weight.centre(-8, 7) if packs(weight) else weight.centre(-128, 127)
        assert centre is not None, "obstacle() comes first"
        apart = weight.zeros() - centre
    elif packs(weight) and weight.zero is not None:
        apart = weight.zeros() - 8
    else:
        return None
    return apart if bool(apart.any()) else None


def codes_of(own: Operand, weight: PackedWeight) -> Tensor:
    """The stored codes uint8 [n, k] that an operand of the weight was made of."""
    centre = weight.zeros()  # [n, g]
    if own.shift is not None:
        centre = centre - own.shift.reshape(-1, len(centre)).T.to(torch.int16)
    q = from_nibbles(own.data, weight.in_features) if packs(weight) else own.data
    return (q + weight.by_column(centre)).to(torch.uint8)


def groups_fit(weight: PackedWeight) -> bool:
    """Whether every q - z of a weight in groups is an int8, and every z - 8 that goes along with nibbles."""
    numbers = [weight.integers()]
    if packs(weight):
        numbers.append(weight.zeros().int() - 8)
    return all(bool(((t >= -128) & (t <= 127)).all()) for t in numbers)


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
