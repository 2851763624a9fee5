"""Small seeded examples that every version of the op runs on: name -> f(backend) -> tensors.

A version may refuse a case (RuntimeError with its reason); it may not answer it differently.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..quantize_rows import custom_op as row_op
from . import Branch, PackedWeight, int_linear
from .operand import operand


def example_weight(
    n: int, k: int, bits: int, symmetric: bool = True, group_size: int | None = None, seed: int = 0
) -> PackedWeight:
    """A seeded random weight whose codes use the whole range."""
    generator = torch.Generator().manual_seed(seed)
    groups = 1 if group_size is None else -(-k // group_size)
    codes = torch.randint(0, 2**bits, (n, k), generator=generator, dtype=torch.uint8)
    scale = torch.rand(n, groups, generator=generator) * 0.01 + 0.001
    zero = torch.randint(0, 2**bits, (n, groups), generator=generator, dtype=torch.int16)
    return PackedWeight.from_codes(codes, bits, scale, None if symmetric else zero, group_size)


def factors(m: int, n: int, rank: int) -> tuple[Tensor, Tensor]:
    """Those of a seeded branch: float32 [m, r] of the rows, float16 [n, r] of the weight."""
    generator = torch.Generator().manual_seed(rank)
    h, up = torch.randn(m, rank, generator=generator), torch.randn(n, rank, generator=generator)
    return h, up.half()


def _case(
    m: int,
    k: int,
    n: int,
    bits: int,
    act_bits: int | None,
    symmetric: bool = True,
    group: int | None = None,
    rank: int = 0,
) -> Callable[[str], tuple[Tensor, ...]]:
    def run(backend: str) -> tuple[Tensor, ...]:
        weight = example_weight(n, k, bits, symmetric, group)
        generator = torch.Generator().manual_seed(m)
        x, bias = torch.randn(m, k, generator=generator), torch.randn(n, generator=generator)
        branch = Branch(*factors(m, n, rank)) if rank else None
        return (int_linear(x, weight, bias, act_bits, symmetric, backend, branch=branch),)

    return run


CASES = {
    "37x130x29 w8a8": _case(37, 130, 29, 8, 8),
    "9x77x40 w6a8": _case(9, 77, 40, 6, 8),
    "5x64x33 w4a8 asymmetric": _case(5, 64, 33, 4, 8, symmetric=False),
    "5x31x16 w8a7 asymmetric": _case(5, 31, 16, 8, 7, symmetric=False),
    "4x100x12 w4a8 groups of 32": _case(4, 100, 12, 4, 8, symmetric=False, group=32),
    "6x66x20 w4a8 with a branch of rank 5": _case(6, 66, 20, 4, 8, rank=5),
    "4x24x6 w3 weight-only": _case(4, 24, 6, 3, None),
    "4x130x6 w4 weight-only, groups of 64": _case(4, 130, 6, 4, None, symmetric=False, group=64),
}


def _call(
    bits: int,
    group: int | None,
    symmetric: bool,
    after: str,
    act_bits: int | None = 8,
    rank: int = 0,
) -> tuple[Any, ...]:
    m, k, n = 6, 70, 9
    generator = torch.Generator().manual_seed(bits)
    x, bias = torch.randn(m, k, generator=generator), torch.randn(n, generator=generator)
    if act_bits is None:
        codes, scale, zero = x.to(torch.bfloat16), None, None
    else:
        codes, scale, zero = row_op.as_int8(x, act_bits, symmetric)
    own = operand(example_weight(n, k, bits, symmetric, group))
    gate, residual = torch.randn(2, n, generator=generator), torch.randn(m, n, generator=generator)
    return (
        codes,
        scale,
        None if symmetric else zero,
        *own[:4],
        bias,
        gate if after == "gate" else None,
        residual if after == "gate" else None,
        own.group,
        after == "gelu",
        torch.bfloat16,
        *(factors(m, n, rank) if rank else ()),
    )


# Arguments of the custom op: name -> f() -> them.
CALLS = {
    "6x70x9 w8a8": partial(_call, 8, None, True, ""),
    "6x70x9 w8a8 asymmetric, GELU": partial(_call, 8, None, False, "gelu"),
    "6x70x9 w4a8 in groups, gate and residual": partial(_call, 4, 64, False, "gate"),
    "6x70x9 w4a8, branch of rank 5, gate and residual": partial(
        _call, 4, None, True, "gate", rank=5
    ),
    "6x70x9 w4a16": partial(_call, 4, None, False, "", None),
    "6x70x9 w8a16 in groups, gate and residual": partial(_call, 8, 64, True, "gate", None),
}
