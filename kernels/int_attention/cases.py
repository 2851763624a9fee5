"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from . import int_attention


def example(
    b: int, h: int, t: int, keys: int, d: int, halves: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Seeded q, k, v as a layer gives them, views of [b, t, h d]; the first query is zero, a channel of k large."""
    generator = torch.Generator().manual_seed(1000 * d + keys)

    def heads(n: int, tokens: int) -> Tensor:
        x = torch.randn(n, tokens, h * d, generator=generator)
        return x.unflatten(2, (h, d)).transpose(1, 2)

    q, k, v = heads(b, t), heads(b, keys), heads(halves * b, keys)
    q[:, :, 0] = 0.0
    k[..., d // 2] += 20.0
    return q, k, v


def _case(*shape: int) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        return (int_attention(*example(*shape), backend=backend),)

    return run


CASES = {
    "2x3x33x20 heads of 72": _case(2, 3, 33, 20, 72),
    "1x2x16x77 heads of 64, one map for two halves": _case(1, 2, 16, 77, 64, 2),
    "1x1x9x9 heads of 6": _case(1, 1, 9, 9, 6),
}

# Arguments of the custom op: name -> f() -> them.
CALLS = {
    "1x2x20x33 heads of 72": partial(example, 1, 2, 20, 33, 72),
    "2x1x9x70 heads of 40, one map for two halves": partial(example, 2, 1, 9, 70, 40, 2),
}
