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

    packed uint8 [n, ceil(k/d log2(c) / 8)]; codebook [c, d], c a power of two up to 256, in float32 or float16,
    or in int8 with `scale` float32 [1], which its vectors are multiplied by.
    Raises ValueError, naming the part, if they do not belong together.
    """

    packed: Tensor
    codebook: Tensor
    in_features: int
    scale: Tensor | None = None

    def __post_init__(self) -> None:
        integer = self.codebook.dtype == torch.int8
        if self.codebook.dim() != 2 or not (integer or self.codebook.is_floating_point()):
            raise ValueError(f"codebook is {self.codebook.dtype} {tuple(self.codebook.shape)}")
        if integer != (self.scale is not None):
            raise ValueError(
                f"codebook is {self.codebook.dtype} {'without' if integer else 'with'} a scale; "
                "one in int8 has a scale, others have none"
            )
        if self.scale is not None and (
            self.scale.dtype != torch.float32 or tuple(self.scale.shape) != (1,)
        ):
            raise ValueError(
                f"scale is {self.scale.dtype} of shape {tuple(self.scale.shape)}; needs float32 (1,)"
            )
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

    @property
    def vectors(self) -> Tensor:
        """What the codes stand for, float32 [c, d]."""
        values = self.codebook.float()
        return values if self.scale is None else values * self.scale

    @property
    def rounded(self) -> VectorWeight:
        """With an int8 codebook within -127..127 and its scale: this one, or a float one rounded."""
        return self._rounded if self.scale is None else self

    @cached_property
    def _rounded(self) -> VectorWeight:
        codebook, scale = rounded(self.codebook)
        return replace(self, codebook=codebook, scale=scale)


def rounded(codebook: Tensor) -> tuple[Tensor, Tensor]:
    """A codebook float [c, d] in int8 within -127..127, with its scale float32 [1]: the largest element is at 127."""
    rows = quantize_rows(codebook.reshape(1, -1), 8, backend="simulate")
    return rows.codes.view(codebook.shape).to(torch.int8), rows.scale.view(1)
