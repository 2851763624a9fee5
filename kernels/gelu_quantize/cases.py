"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import gelu_quantize


def signs_of(c: int) -> Tensor:
    """Seeded signs [c] of a rotation."""
    generator = torch.Generator().manual_seed(c + 1)
    return torch.randint(0, 2, (c,), generator=generator).float() * 2 - 1


def example(m: int, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """Seeded x [m, c], shift and migration [c]; the first row is zero."""
    generator = torch.Generator().manual_seed(c)
    x = torch.randn(m, c, generator=generator) * 2
    x[0] = 0.0
    shift = torch.randn(c, generator=generator) * 0.1
    migration = torch.randint(1, 4, (c,), generator=generator).float()
    return x, shift, migration


def _case(
    m: int, c: int, bits: int, symmetric: bool, migrated: bool, static: bool, turned: bool = False
) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        x, shift, migration = example(m, c)
        rows = gelu_quantize(
            x,
            bits,
            symmetric,
            shift=shift if migrated else None,
            migration=migration if migrated else None,
            signs=signs_of(c) if turned else None,
            scale=torch.tensor([0.05]) if static else None,
            zero=torch.tensor([3.0]) if static and not symmetric else None,
            backend=backend,
        )
        return tuple(part for part in rows if part is not None)

    return run


def _call(symmetric: bool, static: bool, turned: bool = False) -> tuple[Any, ...]:
    x, shift, migration = example(6, 96 if turned else 40)
    scale = torch.tensor([0.05]) if static else None
    zero = torch.tensor([3.0]) if static and not symmetric else None
    return x, 8, symmetric, shift, migration, signs_of(96) if turned else None, scale, zero


CASES = {
    "7x130 8-bit": _case(7, 130, 8, True, False, False),
    "5x64 4-bit asymmetric, shifted and migrated": _case(5, 64, 4, False, True, False),
    "5x64 8-bit asymmetric, static, shifted and migrated": _case(5, 64, 8, False, True, True),
    "3x31 8-bit static": _case(3, 31, 8, True, False, True),
    "5x96 8-bit, migrated and rotated": _case(5, 96, 8, True, True, False, turned=True),
}

# Arguments of the custom op: name -> f() -> them.
CALLS = {
    "6x40": partial(_call, True, False),
    "6x40 asymmetric, static": partial(_call, False, True),
    "6x96 asymmetric, rotated": partial(_call, False, False, turned=True),
}
