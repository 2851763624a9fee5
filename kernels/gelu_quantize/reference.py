"""GELU and the quantization of its output in one pass: the definition.

Shapes: x [m, c], what fc1 gives; v, m [c]; codes [m, c]; scale s, zero z [m, 1], or [1] where they are static.

    g  = 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
    x' = (g - v) / m  R                     shift and migration of TaQ-DiT, each where it is given; m is the divisor of
                                            any channel scale, R the rotation of `kernels.hadamard` where signs are given
    dynamic   codes, s, z of x' as in `kernels.quantize_rows`
    static    k = round(v / m / s)          v snapped to whole steps
              q = clamp(round(g / m / s) - k + z, 0, 2^b - 1), symmetric: without z, within +-(2^(b-1) - 1)

Static ranges need no row's largest element, so that the kernel before could write codes at once.
(TaQ-DiT, Liu et al. 2024, https://arxiv.org/abs/2411.14172; where k comes from: `quant/migration.py`.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..hadamard import hadamard
from ..quantize_rows import RowCodes, quantize_rows


def values(
    x: Tensor, shift: Tensor | None, migration: Tensor | None, signs: Tensor | None = None
) -> Tensor:
    """x' [m, c], in float32, or in float64 where x is float64."""
    g = F.gelu(_exact(x), approximate="tanh")
    g = g if shift is None else g - shift.to(g.dtype)
    g = g if migration is None else g / migration.to(g.dtype)
    return g if signs is None else hadamard(g, signs.to(g.dtype), backend="simulate")


def quantize(
    x: Tensor,
    bits: int,
    symmetric: bool,
    shift: Tensor | None,
    migration: Tensor | None,
    signs: Tensor | None,
) -> RowCodes:
    """Row codes of x', each row with its own scale."""
    rows = values(x, shift, migration, signs)
    return quantize_rows(rows, bits, symmetric, backend="simulate")


def quantize_statically(
    x: Tensor,
    bits: int,
    scale: Tensor,
    zero: Tensor | None,
    shift: Tensor | None,
    migration: Tensor | None,
) -> RowCodes:
    """Codes of x' on the scale [1] and zero [1] (symmetric without) that are given."""
    s = scale.to(torch.float32)
    g = values(x, None, migration).to(torch.float32)
    q = (g / s).round()
    if shift is not None:
        q = q - whole_shift(shift, migration, s)
    scales = s.expand(len(x), 1)
    if zero is None:
        top = 2 ** (bits - 1) - 1
        return RowCodes(q.clamp_(-top, top), scales)
    z = zero.to(torch.float32)
    return RowCodes((q + z).clamp_(0, 2**bits - 1), scales, z.expand(len(x), 1))


def whole_shift(shift: Tensor, migration: Tensor | None, scale: Tensor) -> Tensor:
    """k [c]."""
    v = shift.to(torch.float32)
    return ((v if migration is None else v / migration.to(torch.float32)) / scale).round()


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.to(torch.float32)
