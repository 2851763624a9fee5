"""A weight as codes into a codebook of vectors, as it is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..quantize_rows import quantize_rows


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

    @cached_property
    def rounded(self) -> tuple[VectorWeight, Tensor]:
        """With whole numbers within -127..127 in its codebook, and their scale float32 [1, 1]."""
        rows = quantize_rows(self.codebook.reshape(1, -1), 8, backend="simulate")
        return replace(self, codebook=rows.codes.view(self.codebook.shape)), rows.scale
