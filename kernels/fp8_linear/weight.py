"""A weight in 8-bit floats with a scale for each row, as it is stored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Float8Weight:
    """A weight [n, k] as it is stored: w = codes * scale.

    codes float8_e4m3fn [n, k]; scale float32 [n, 1]
    Raises ValueError, naming the part, if they do not belong together.
    """

    codes: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        codes, scale = self.codes, self.scale
        if codes.dtype != torch.float8_e4m3fn or codes.dim() != 2:
            raise ValueError(
                f"codes are {codes.dtype} of shape {tuple(codes.shape)}; needs float8_e4m3fn [n, k]"
            )
        shape = (len(codes), 1)
        if scale.dtype != torch.float32 or tuple(scale.shape) != shape:
            raise ValueError(
                f"scale is {scale.dtype} of shape {tuple(scale.shape)}; needs float32 {shape}"
            )

    @property
    def in_features(self) -> int:
        """k."""
        return self.codes.shape[1]

    @property
    def out_features(self) -> int:
        """n."""
        return len(self.codes)

    def dequantize(self) -> Tensor:
        """What the codes stand for, float32 [n, k]."""
        return self.codes.float() * self.scale
