"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import adaln_quantize


def example(b: int, t: int, c: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Seeded x [b, t, c], shift and scale [b, c], channel scale and signs [c]; the first row is zero."""
    generator = torch.Generator().manual_seed(c)
    x = torch.randn(b, t, c, generator=generator)
    x[0, 0] = 0.0
    shift, scale = torch.randn(2, b, c, generator=generator) * 0.3
    channel_scale = torch.rand(c, generator=generator) + 0.5
    signs = torch.randint(0, 2, (c,), generator=generator) * 2.0 - 1.0
    return x, shift, scale, channel_scale, signs


def _case(
    b: int, t: int, c: int, bits: int, symmetric: bool, scaled: bool, rotated: bool
) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        x, shift, scale, channel_scale, signs = example(b, t, c)
        rows = adaln_quantize(
            x,
            shift,
            scale,
            bits,
            symmetric,
            channel_scale=channel_scale if scaled else None,
            signs=signs if rotated else None,
            backend=backend,
        )
        return tuple(part for part in rows if part is not None)

    return run


def _call(symmetric: bool, transformed: bool) -> tuple[Any, ...]:
    x, shift, scale, *transform = example(2, 5, 40)
    return x, shift, scale, *(transform if transformed else (None, None)), 8, symmetric, 1e-6


CASES = {
    "2x5x130 8-bit": _case(2, 5, 130, 8, True, False, False),
    "1x7x64 4-bit asymmetric, scaled": _case(1, 7, 64, 4, False, True, False),
    "3x2x96 8-bit, scaled and rotated": _case(3, 2, 96, 8, True, True, True),
}

# Arguments of the custom op: name -> f() -> them.
CALLS = {
    "2x5x40": partial(_call, True, False),
    "2x5x40 asymmetric, scaled and rotated": partial(_call, False, True),
}
