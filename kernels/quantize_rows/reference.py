"""Quantize rows to integers, or to 8-bit floats: the definition, in float32.

Shapes: x [m, k]; codes [m, k]; scale d, zero z [m, 1]. Per row g (or for all rows together), b bits:

    symmetric    d = max|g| / (2^(b-1) - 1)                     q = round(g / d)
    asymmetric   hi = max(max g, 0), lo = min(min g, 0)         the range contains 0
                 d = (hi - lo) / (2^b - 1),  z = round(-lo / d)
                 q = clamp(round(g / d) + z, 0, 2^b - 1)
    8-bit float  d = max|g| / 448                               q = e4m3(clamp(g / d, -448, 448))

    g ~ (q - z) d,  |g - (q - z) d| <= d / 2                    z = 0 if symmetric; integers only

`round` is to nearest, ties to even; d is at least 1e-8, row by row. Symmetric codes need no clamp:
|g| / d exceeds 2^(b-1) - 1 by a few ulp at most, which rounds back.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-8  # smallest scale, so that a row of zeros divides by something
E4M3_MAX = 448.0


def symmetric(x: Tensor, bits: int, granularity: str) -> tuple[Tensor, Tensor]:
    """x float[m, k] -> integer-valued float32 codes [m, k], scale [m, 1]."""
    x = x.to(torch.float32)
    scale = (_amax(x, granularity) / (2 ** (bits - 1) - 1)).clamp_(min=FLOOR)  # [m, 1]
    return (x / scale).round_(), scale


def asymmetric(x: Tensor, bits: int, granularity: str) -> tuple[Tensor, Tensor, Tensor]:
    """x float[m, k] -> unsigned integer-valued float32 codes [m, k], scale [m, 1], zero [m, 1]."""
    x = x.to(torch.float32)
    lo, hi = _range(x, granularity)  # [m, 1]
    top = 2**bits - 1
    scale = ((hi - lo) / top).clamp_(min=FLOOR)
    zero = (-lo / scale).round_()
    return (x / scale).round_().add_(zero).clamp_(0, top), scale, zero


def e4m3(x: Tensor, granularity: str) -> tuple[Tensor, Tensor]:
    """x float[m, k] -> float8_e4m3fn codes [m, k], scale [m, 1]."""
    x = x.to(torch.float32)
    scale = (_amax(x, granularity) / E4M3_MAX).clamp_(min=FLOOR)
    return (x / scale).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale


def _amax(x: Tensor, granularity: str) -> Tensor:
    lo, hi = _range(x, granularity)
    return torch.maximum(hi, -lo)  # [m, 1]


def _range(x: Tensor, granularity: str) -> tuple[Tensor, Tensor]:
    """Smallest and largest element with 0 among them, [m, 1] each."""
    lo, hi = x.amin(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)  # faster here than aminmax
    if granularity == "tensor" and len(x):
        lo, hi = lo.amin().expand(len(x), 1), hi.amax().expand(len(x), 1)
    return lo.clamp(max=0), hi.clamp(min=0)
