"""Dense packing of small unsigned integers, definition.

Shapes: codes [o, n]; packed [o, p] with p = ceil(n * bits / 8). Every row starts on a byte.

    bit t of row r = (codes[r, t // bits] >> (t % bits)) & 1          t < n * bits
    packed[r, t // 8] holds bit t at position t % 8; the last byte is filled with zeros

Eight codes fill exactly `bits` bytes, so both directions work on such groups, in 64-bit words.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack(codes: Tensor, bits: int) -> Tensor:
    """codes uint8[o, n] below 2**bits -> packed uint8[o, p]."""
    if bits == 8:
        return codes.clone()
    o, n = codes.shape
    groups = -(-n // 8)
    padded = torch.zeros(o, groups * 8, dtype=torch.uint8, device=codes.device)
    padded[:, :n] = codes
    words = torch.zeros(o, groups, dtype=torch.int64, device=codes.device)
    for j in range(8):
        words |= padded[:, j::8].to(torch.int64) << (
            j * bits
        )  # [o, groups], 8 * bits <= 56 bits used
    out = torch.stack([(words >> (8 * j)) & 255 for j in range(bits)], dim=2)  # [o, groups, bits]
    return out.to(torch.uint8).reshape(o, groups * bits)[:, : packed_width(n, bits)].contiguous()


def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """packed uint8[o, p] -> codes uint8[o, n]."""
    if bits == 8:
        return packed.clone()
    o, p = packed.shape
    groups = -(-n // 8)
    padded = torch.zeros(o, groups * bits, dtype=torch.uint8, device=packed.device)
    padded[:, :p] = packed
    words = torch.zeros(o, groups, dtype=torch.int64, device=packed.device)
    for j in range(bits):
        words |= padded[:, j::bits].to(torch.int64) << (8 * j)  # [o, groups]
    mask = (1 << bits) - 1
    out = torch.stack([(words >> (j * bits)) & mask for j in range(8)], dim=2)  # [o, groups, 8]
    return out.to(torch.uint8).reshape(o, groups * 8)[:, :n].contiguous()


def packed_width(n: int, bits: int) -> int:
    """Bytes of one packed row of n codes."""
    return -(-n * bits // 8)
