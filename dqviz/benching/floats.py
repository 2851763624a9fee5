"""Speeds of products of 8-bit floats on a GPU that has them, for the table that `--backend auto` decides by.

From float32 rows to the dtype of the model, as a layer runs it: rows become 8-bit floats, then the product, scales and bias. The
definition multiplies in float32 with the weight that codes stand for, which a layer keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.fp8_linear import OP, Float8Weight, custom_op, multiply
from kernels.quantize_rows import quantize_rows_fp8
from kernels.quantize_rows import reference as rows

from .linears import doubt
from .subject import Layer, spread
from .timing import columns, fastest

TABLE = OP.name


class Case(NamedTuple):
    """One row to measure."""

    m: int
    k: int
    n: int

    @property
    def work(self) -> int:
        """Operations, thrice: every way does them."""
        return 6 * self.m * self.k * self.n


def cases(layers: Iterable[Layer], device: torch.device) -> list[Case]:
    """Of layers, and of their larger batches."""
    return [Case(*shape) for shape in spread(layers)]


def measure(
    case: Case, runs: int, device: torch.device, pause: Callable[[], None] = lambda: None
) -> dict[str, Any] | str:
    """One row of the table, or why there is none: the GPU has no 8-bit floats, or other numbers came of it."""
    reason = custom_op.float8_obstacle(device, case.k)
    if reason is not None:
        return reason
    weight, dtype = weight_of(case.k, case.n, device), torch.bfloat16
    x, bias = torch.randn(case.m, case.k, device=device), torch.randn(case.n, device=device)
    values = weight.dequantize()
    floats = x.to(dtype), values.to(dtype), bias.to(dtype)
    simulate = partial(_simulated, x, values, bias, dtype)
    triton = partial(_multiplied, x, weight, bias, dtype)
    why = doubt(simulate, triton, dtype)
    if why is not None:
        return why
    calls = {"bf16": partial(F.linear, *floats), "simulate": simulate, "triton": triton}
    return {**case._asdict(), **columns(fastest(calls, runs, device, pause))}


def weight_of(k: int, n: int, device: torch.device) -> Float8Weight:
    """A random weight."""
    return Float8Weight(*rows.e4m3(torch.randn(n, k, device=device) / k**0.5, "row"))


def _simulated(x: Tensor, values: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    return F.linear(quantize_rows_fp8(x, backend="simulate").dequantize(), values, bias).to(dtype)


def _multiplied(x: Tensor, weight: Float8Weight, bias: Tensor, dtype: torch.dtype) -> Tensor:
    return multiply(quantize_rows_fp8(x, backend="triton"), weight, bias, "triton", dtype=dtype)
