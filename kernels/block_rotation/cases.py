"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import block_rotation


def example(m: int, k: int, b: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Seeded x [m, k], whose first row is zero, s [k], B1, order and B2."""
    generator = torch.Generator().manual_seed(k + b)
    x = torch.randn(m, k, generator=generator) + 0.3
    x[0] = 0.0
    s = torch.rand(k, generator=generator) + 0.5
    first, second = (
        torch.linalg.qr(torch.randn(b, b, generator=generator).double())[0].float() for _ in "12"
    )
    return x, s, first, torch.randperm(k, generator=generator), second


def _case(
    m: int, k: int, b: int, bits: int, symmetric: bool
) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        x, s, first, order, second = example(m, k, b)
        rows = block_rotation(
            x, first, order, second, bits, symmetric, channel_scale=s, backend=backend
        )
        return tuple(part for part in rows if part is not None)

    return run


def _call(symmetric: bool) -> tuple[Any, ...]:
    return *example(6, 48, 16), 8, symmetric


CASES = {
    "7x96 in blocks of 32, 8-bit": _case(7, 96, 32, 8, True),
    "5x40 in blocks of 8, 4-bit asymmetric": _case(5, 40, 8, 4, False),
}

# Arguments of the custom op: name -> f() -> them.
CALLS = {
    "6x48 in blocks of 16": partial(_call, True),
    "6x48 in blocks of 16, asymmetric": partial(_call, False),
}
