"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import hadamard


def _case(
    shape: tuple[int, ...], signed: bool, inverse: bool
) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(shape[-1])
        x = torch.randn(shape, generator=generator)
        signs = torch.randint(0, 2, shape[-1:], generator=generator) * 2.0 - 1.0
        return (hadamard(x, signs if signed else None, inverse=inverse, backend=backend),)

    return run


CASES = {
    "7x256": _case((7, 256), True, False),
    "2x5x1152": _case((2, 5, 1152), True, False),
    "3x96 inverse": _case((3, 96), True, True),
    "3x1504 in blocks of 32": _case((3, 1504), False, False),
}
