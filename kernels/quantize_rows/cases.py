"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import quantize_rows, quantize_rows_fp8


def _x(m: int, k: int) -> Tensor:
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m)) + 0.3
    x[0] = 0.0
    return x


def _integers(m: int, k: int, bits: int, symmetric: bool) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        rows = quantize_rows(_x(m, k), bits, symmetric, backend=backend)
        return tuple(t for t in rows if t is not None)

    return run


def _floats(m: int, k: int) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        rows = quantize_rows_fp8(_x(m, k), backend=backend)
        return rows.codes.to(torch.float32), rows.scale

    return run


def _call(bits: int, symmetric: bool, dtype: torch.dtype = torch.int8) -> tuple[Any, ...]:
    return _x(6, 33), bits, symmetric, dtype


CASES = {
    "37x130 8-bit symmetric": _integers(37, 130, 8, True),
    "5x63 4-bit asymmetric": _integers(5, 63, 4, False),
    "9x33 e4m3": _floats(9, 33),
}

# Arguments of the custom op: name -> f() -> them.
CALLS = {
    f"6x33 {bits}-bit {'symmetric' if symmetric else 'asymmetric'}": partial(_call, bits, symmetric)
    for bits, symmetric in ((8, True), (4, False))
}
CALLS["6x33 e4m3"] = partial(_call, 8, True, torch.float8_e4m3fn)
