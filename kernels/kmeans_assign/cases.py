"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from . import kmeans_assign


def example(s: int, k: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Seeded vectors [s, d] and a codebook [k, d]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(s, d, generator=generator), torch.randn(k, d, generator=generator)


def _case(s: int, k: int, d: int) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        return kmeans_assign(*example(s, k, d), backend)

    return run


SHAPES = ((1000, 256, 4), (77, 64, 2), (5, 3, 7), (3, 1, 1))
CASES = {f"{s} vectors of {d}, {k} in the codebook": _case(s, k, d) for s, k, d in SHAPES}

# Arguments of the custom op: name -> f() -> them.
CALLS = {
    f"{s} vectors of {d}, {k} in the codebook": partial(example, s, k, d) for s, k, d in SHAPES[1:3]
}
