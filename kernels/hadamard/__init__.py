"""Rotation of the last axis by a randomized Hadamard matrix, for almost every width of a transformer.

    y = x diag(signs) H / sqrt(c)

H is a Kronecker product of Hadamard matrices (`factors`); it is orthogonal after the division, so
inner products of two rotated tensors are those of the originals. 1152 = 12 x 12 x 8 costs 32 multiply-adds
per element where a dense matrix costs 1152.
"""

from __future__ import annotations

from torch import Tensor

from ..dispatch import Op, callable_module
from .reference import cost, factors, matrix

__all__ = ["OP", "cost", "factors", "hadamard", "matrix"]

OP = Op(__name__, {"simulate": "reference"})


def hadamard(
    x: Tensor, signs: Tensor | None = None, *, inverse: bool = False, backend: str | None = None
) -> Tensor:
    """Rotate x float[..., c]; `signs` [c] holds +-1, None means all +1; same shape, dtype and device.

    `inverse=True` undoes it: x = hadamard(hadamard(x, s), s, inverse=True) up to rounding.
    Computed in x's own dtype: give float32 where rounding matters.
    Widths without a factorization are rotated in blocks (see `factors`).
    Raises ValueError if c has no rotation at all, if `signs` is not [c], or if x is not floating-point.
    """
    if not x.is_floating_point() or x.dim() == 0:
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}; needs floating point [..., c]")
    if signs is not None and signs.shape != x.shape[-1:]:
        raise ValueError(f"signs has shape {tuple(signs.shape)}; x has {x.shape[-1]} channels")
    return OP.chosen(backend).hadamard(x, signs, inverse)


callable_module(__name__)
