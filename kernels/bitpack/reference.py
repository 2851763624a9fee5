"""Dense packing of small unsigned integers, definition.

Shapes: codes [o, n]; packed [o, p] with p = ceil(n * bits / 8). Every row starts on a byte.

    bit t of row r = (codes[r, t // bits] >> (t % bits)) & 1          t < n * bits
    packed[r, t // 8] holds bit t at position t % 8; the last byte is filled with zeros

Codes and bytes meet again after lcm(8, bits) bits: at most 8 codes in 7 bytes, which fit in one word.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pack(codes: Tensor, bits: int) -> Tensor:
    """codes uint8[o, n] below 2**bits -> packed uint8[o, p]."""
    per_word, width, dtype = _word(bits)
    fields = _padded(codes, per_word)  # [o, words, per_word]
    words = fields[..., 0].to(dtype)  # [o, words]
    for j in range(1, per_word):
        words = words | fields[..., j].to(dtype) << (j * bits)
    out = torch.stack([(words >> (8 * j)) & 255 for j in range(width)], dim=2)  # [o, words, width]
    return out.to(torch.uint8).flatten(1)[:, : packed_width(codes.shape[1], bits)].contiguous()


def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """packed uint8[o, p] -> codes uint8[o, n]."""
    per_word, width, dtype = _word(bits)
    fields = _padded(packed, width)  # [o, words, width]
    words = fields[..., 0].to(dtype)  # [o, words]
    for j in range(1, width):
        words = words | fields[..., j].to(dtype) << (8 * j)
    mask = (1 << bits) - 1
    out = torch.stack([(words >> (j * bits)) & mask for j in range(per_word)], dim=2)
    return out.to(torch.uint8).flatten(1)[:, :n].contiguous()  # [o, words, per_word] -> [o, n]


def packed_width(n: int, bits: int) -> int:
    """Bytes of one packed row of n codes."""
    return -(-n * bits // 8)


def _word(bits: int) -> tuple[int, int, torch.dtype]:
    """Codes and bytes of one word, and the dtype that holds it with room for shifts."""
    shared = math.gcd(8, bits)
    width = bits // shared
    return 8 // shared, width, {1: torch.uint8, 3: torch.int32}.get(width, torch.int64)


def _padded(t: Tensor, size: int) -> Tensor:
    """uint8[o, n] -> uint8[o, ceil(n / size), size], filled up with zeros."""
    o, n = t.shape
    words = -(-n // size)
    if n == words * size:
        return t.reshape(o, words, size)
    padded = torch.zeros(o, words * size, dtype=torch.uint8, device=t.device)
    padded[:, :n] = t
    return padded.view(o, words, size)
