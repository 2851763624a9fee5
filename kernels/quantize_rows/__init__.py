"""Quantize each row of a matrix with its own scale: what a quantized linear does to its input.

Formulas are in `reference.py`. Rows do not see each other: quantizing a batch or its rows one by one
gives the same bits. All arithmetic is float32, whatever the input's dtype.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..dispatch import Op, callable_module, triton_obstacle
from .custom_op import float8_obstacle

OP = Op(__name__, {"simulate": "reference", "triton": "custom_op"})
WHOLE = Op(__name__, {"simulate": "reference"}, of="a whole tensor with one scale")
WHOLE_FLOATS = Op(
    __name__, {"simulate": "reference"}, of="a whole tensor of 8-bit floats with one scale"
)
GRANULARITIES = ("row", "tensor")


class RowCodes(NamedTuple):
    """A quantized matrix: row i stands for ``(codes[i] - zero[i]) * scale[i]``.

    codes [m, k]: integer-valued float32 (signed if `zero` is None, else 0 .. 2**bits - 1), or float8_e4m3fn;
    from a GPU kernel int8 for integers, where 2**(bits - 1) is taken off codes and zero alike
    scale float32 [m, 1]; zero integer-valued float32 [m, 1], or None
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None = None

    @classmethod
    def of(cls, parts: tuple[Tensor, Tensor, Tensor], symmetric: bool) -> RowCodes:
        """From what a custom op gives, whose zero is empty where codes are symmetric."""
        codes, scale, zero = parts
        return cls(codes, scale, None if symmetric else zero)

    def dequantize(self) -> Tensor:
        """The values that the codes stand for, float32[m, k]."""
        codes = self.codes.to(torch.float32)
        return (codes if self.zero is None else codes - self.zero) * self.scale


def quantize_rows(
    x: Tensor,
    bits: int,
    symmetric: bool = True,
    granularity: str = "row",
    backend: str | None = None,
) -> RowCodes:
    """Quantize x float[m, k] to `bits` (2..8) bits; every element is off by at most half a scale.

    `granularity="tensor"` gives all rows one scale. A row with inf or nan gets a scale that is not
    finite, so that the fault shows; other rows are unharmed (granularity "row").
    Raises ValueError for other bits, granularities, ranks, integer dtypes and k = 0.
    """
    _check(x, granularity)
    if not 2 <= bits <= 8:
        raise ValueError(f"bits is {bits}; rows are quantized to 2 to 8 bits")
    op = WHOLE if granularity == "tensor" else OP
    version = op.chosen(backend, lambda backend: triton_obstacle(x.device, x.shape[1]))
    return RowCodes(*(version.symmetric if symmetric else version.asymmetric)(x, bits, granularity))


def quantize_rows_fp8(x: Tensor, granularity: str = "row", backend: str | None = None) -> RowCodes:
    """Quantize x float[m, k] to float8_e4m3fn, the largest element of a row at 448.

    Raises ValueError as `quantize_rows` does.
    """
    _check(x, granularity)
    op = WHOLE_FLOATS if granularity == "tensor" else OP
    version = op.chosen(backend, lambda backend: float8_obstacle(x.device, x.shape[1]))
    return RowCodes(*version.e4m3(x, granularity))


def _check(x: Tensor, granularity: str) -> None:
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity is '{granularity}'; use one of {', '.join(GRANULARITIES)}")
    if x.dim() != 2 or x.shape[1] == 0 or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; needs a floating-point matrix [m, k] with k > 0"
        )


callable_module(__name__)
