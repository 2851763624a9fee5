"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..int_linear import After, GatedResidual
from ..quantize_rows import reference as rows
from . import Float8Weight, fp8_linear


def example_weight(n: int, k: int, seed: int = 0) -> Float8Weight:
    """A seeded random weight; its scales differ by row."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, k, generator=generator) * torch.rand(n, 1, generator=generator)
    return Float8Weight(*rows.e4m3(w, "row"))


def _x(m: int, k: int) -> Tensor:
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m)) + 0.3
    x[0] = 0.0
    return x


def _after(m: int, n: int, after: str) -> After:
    generator = torch.Generator().manual_seed(n)
    if after == "gate":
        gate, residual = (torch.randn(r, n, generator=generator) for r in (2, m))
        return GatedResidual(gate, residual)
    return "gelu" if after else None


def _case(m: int, k: int, n: int, after: str = "") -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        bias = torch.randn(n, generator=torch.Generator().manual_seed(k))
        given = (_x(m, k), example_weight(n, k), bias, backend, _after(m, n, after))
        return (fp8_linear(*given),)

    return run


CASES = {
    "37x130x29": _case(37, 130, 29),
    "6x64x33 GELU": _case(6, 64, 33, "gelu"),
    "6x31x16 gate and residual": _case(6, 31, 16, "gate"),
}


def _call(after: str) -> tuple[Any, ...]:
    m, k, n = 6, 70, 9
    codes, row_scale = rows.e4m3(_x(m, k), "row")
    weight, then = example_weight(n, k), _after(m, n, after)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(k))
    gate, residual = then if isinstance(then, GatedResidual) else (None, None)
    parts = (codes, row_scale, weight.codes, weight.scale, bias, gate, residual)
    return (*parts, then == "gelu", torch.bfloat16)


# Arguments of the custom op: name -> f() -> them.
CALLS = {
    "6x70x9": partial(_call, ""),
    "6x70x9 GELU": partial(_call, "gelu"),
    "6x70x9 gate and residual": partial(_call, "gate"),
}
