"""Linear layer from packed codes and a codebook of vectors: y = x decode(codes, codebook)^T + bias.

The weight is never whole: codes of some output rows are decoded, multiplied, and let go, so that a call
needs what is stored and one tile. Who calls often and has the memory keeps `decode`'s result instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..dispatch import Choice, Op, callable_module

__all__ = ["OP", "VectorWeight", "choose", "decode", "vq_linear"]

OP = Op(__name__, {"simulate": "reference"}, tolerance=1e-6)
TILE = 2**20  # decoded weights at once


@dataclass(frozen=True, eq=False)
class VectorWeight:
    """A weight [n, k] as it is stored.

    packed uint8 [n, ceil(k/d log2(c) / 8)]; codebook float32 or float16 [c, d], c a power of two up to 256.
    Raises ValueError, naming the part, if they do not belong together.
    """

    packed: Tensor
    codebook: Tensor
    in_features: int

    def __post_init__(self) -> None:
        if self.codebook.dim() != 2 or not self.codebook.is_floating_point():
            raise ValueError(f"codebook is {self.codebook.dtype} {tuple(self.codebook.shape)}")
        c, d = self.codebook.shape
        if not 2 <= c <= 256 or c & (c - 1):
            raise ValueError(f"codebook has {c} vectors; a power of two, 2 to 256")
        if self.in_features % d:
            raise ValueError(f"vectors of {d} do not divide {self.in_features} inputs")
        width = -(-self.in_features // d * self.bits // 8)
        if self.packed.dtype != torch.uint8 or tuple(self.packed.shape[1:]) != (width,):
            raise ValueError(
                f"packed is {self.packed.dtype} of shape {tuple(self.packed.shape)}; "
                f"{self.in_features // d} codes of {self.bits} bits need uint8 rows of {width} bytes"
            )

    @property
    def bits(self) -> int:
        """Of one code: log2 c."""
        return (len(self.codebook) - 1).bit_length()

    @property
    def out_features(self) -> int:
        """n."""
        return len(self.packed)


def choose(backend: str | None = None) -> Choice:
    """The version that runs, and why. Raises RuntimeError where one is asked for that there is not."""
    return OP.choose(backend)


def decode(weight: VectorWeight, backend: str | None = None) -> Tensor:
    """The whole weight, float32 [n, k]."""
    return OP.chosen(backend).decode(weight)


def vq_linear(
    x: Tensor, weight: VectorWeight, bias: Tensor | None = None, backend: str | None = None
) -> Tensor:
    """x float [m, k] -> y [m, n] in x's dtype, from the packed codes; inside, all is float32.

    Raises ValueError where x does not fit the weight.
    """
    if x.dim() != 2 or x.shape[1] != weight.in_features or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; needs floating point [m, {weight.in_features}]"
        )
    tile = max(1, TILE // weight.in_features)
    return OP.chosen(backend).linear(x, weight, bias, tile).to(x.dtype)


callable_module(__name__)
