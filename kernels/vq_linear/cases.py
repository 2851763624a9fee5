"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import bitpack
from ..quantize_rows import custom_op as row_op
from . import VectorWeight, decode, vq_linear


def example_weight(n: int, k: int, c: int, d: int, seed: int = 0) -> VectorWeight:
    """Seeded random codes and codebook."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, c, (n, k // d), generator=generator, dtype=torch.uint8)
    codebook = torch.randn(c, d, generator=generator)
    return VectorWeight(bitpack.pack(codes, (c - 1).bit_length()), codebook, k)


def _case(
    m: int, n: int, k: int, c: int, d: int, act_bits: int | None = None, whole: bool = False
) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        weight = example_weight(n, k, c, d)
        weight = weight.rounded if whole else weight
        generator = torch.Generator().manual_seed(m)
        x, bias = torch.randn(m, k, generator=generator), torch.randn(n, generator=generator)
        return vq_linear(x, weight, bias, backend, act_bits), decode(weight)

    return run


CASES = {
    f"{m}x{k} by {n}, {c} vectors of {d}": _case(m, n, k, c, d)
    for m, n, k, c, d in ((3, 5, 16, 256, 4), (7, 12, 18, 64, 2), (1, 4, 8, 2, 4))
}
CASES["6x36 by 5, 256 vectors of 4, 8-bit rows"] = _case(6, 5, 36, 256, 4, 8)
CASES["6x36 by 5, 256 vectors of 4 in int8"] = _case(6, 5, 36, 256, 4, whole=True)
CASES["6x36 by 5, 64 vectors of 2 in int8, 7-bit rows"] = _case(6, 5, 36, 64, 2, 7, whole=True)


def _call(c: int, d: int, dtype: torch.dtype) -> tuple[Any, ...]:
    weight, generator = example_weight(9, 24, c, d), torch.Generator().manual_seed(c)
    x, bias = torch.randn(6, 24, generator=generator), torch.randn(9, generator=generator)
    return x.to(dtype), None, weight.packed, weight.codebook, None, bias, dtype


def _integer_call() -> tuple[Any, ...]:
    x, _, packed, _, _, bias, _ = _call(256, 4, torch.float32)
    codes, scale, _ = row_op.as_int8(x, 8, True)
    own = example_weight(9, 24, 256, 4).rounded
    return codes, scale, packed, own.codebook, own.scale, bias, torch.bfloat16


# Arguments of the custom op: name -> f() -> them.
CALLS = {
    "6x24 by 9, 256 vectors of 4": partial(_call, 256, 4, torch.bfloat16),
    "6x24 by 9, 64 vectors of 2, float32": partial(_call, 64, 2, torch.float32),
    "6x24 by 9, 256 vectors of 4, int8": _integer_call,
}
