"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import bitpack
from . import VectorWeight, decode, vq_linear


def example_weight(n: int, k: int, c: int, d: int, seed: int = 0) -> VectorWeight:
    """Seeded random codes and codebook."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, c, (n, k // d), generator=generator, dtype=torch.uint8)
    codebook = torch.randn(c, d, generator=generator)
    return VectorWeight(bitpack.pack(codes, (c - 1).bit_length()), codebook, k)


def _case(m: int, n: int, k: int, c: int, d: int) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        weight = example_weight(n, k, c, d)
        generator = torch.Generator().manual_seed(m)
        x, bias = torch.randn(m, k, generator=generator), torch.randn(n, generator=generator)
        return vq_linear(x, weight, bias, backend), decode(weight, backend)

    return run


CASES = {
    f"{m}x{k} by {n}, {c} vectors of {d}": _case(m, n, k, c, d)
    for m, n, k, c, d in ((3, 5, 16, 256, 4), (7, 12, 18, 64, 2), (1, 4, 8, 2, 4))
}
