"""Linear layers of known shapes: ours from row codes, and what others make of the same shape.

Shapes: x [m, k], weight [n, k], y [m, n] in bfloat16; t tokens of a sample share a gate [m / t, n]. Everybody gets the input in
the form that it multiplies: bfloat16, int8 or float8 codes; making codes is timed in the stage of the passes before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.fp8_linear.custom_op import fp8_linear
from kernels.int_linear import PackedWeight, custom_op
from kernels.int_linear.operand import operand

from .place import Place

CHECKED_ROWS = 64  # of m, held against float64 before an op is timed
MOST_SAMPLES = 8  # gates


class Linear(NamedTuple):
    """One layer of a transformer."""

    name: str
    k: int
    n: int
    after: str = ""  # "gelu", or "gate" for gate and residual


class Variant(NamedTuple):
    """Formats of a weight, and the op that multiplies them; rows are 8-bit codes, or bfloat16 where they are no `codes`."""

    name: str
    bits: int
    group: int = 0
    op: str = "int_linear"
    codes: bool = True


W8A8, W4A8, GROUPS = Variant("w8a8", 8), Variant("w4a8", 4), Variant("w4a8, groups of 128", 4, 128)
VARIANTS = (W8A8, W4A8, GROUPS)  # of integers
WEIGHT_ONLY = (Variant("w8a16", 8, codes=False), Variant("w4a16", 4, codes=False))
FLOATS = Variant("w8a8 e4m3", 8, op="fp8_linear")
FLOAT8 = torch.float8_e4m3fn
QKV = Linear("dit-xl-2 q, k, v in one", 1152, 3456)
Q = Linear("dit-xl-2 q", 1152, 1152)  # k and v alike
OUT = Linear("dit-xl-2 attention out", 1152, 1152, "gate")
FC1 = Linear("dit-xl-2 fc1", 1152, 4608, "gelu")
FC2 = Linear("dit-xl-2 fc2", 4608, 1152, "gate")
BLOCK = (FC1, FC2, Q, OUT, QKV)
PIXART = Linear("pixart-xl-2 q", 1152, 1152)
FLUX = Linear("flux-dev q", 3072, 3072)
# Rows m = 2 branches x samples x tokens: 32, 8 and 64 samples of 256 pixels; one of PixArt's 1024; one of Flux's 1024 with its text.
LAYERS = (
    *((layer, 16384) for layer in BLOCK),
    *((layer, 4096) for layer in BLOCK),
    (FLUX, 4608),
    (PIXART, 8192),
    *((layer, 32768) for layer in BLOCK),
)
TINY = ((Linear("tiny fc1", 192, 96, "gelu"), 16), (Linear("tiny fc2", 256, 64, "gate"), 16))


def coded(place: Place) -> tuple[Variant, ...]:
    """Variants on row codes that a device multiplies."""
    return VARIANTS if place.lacks_floats else (*VARIANTS, FLOATS)


def layers(place: Place) -> tuple[tuple[Linear, int], ...]:
    """What is timed: a layer with its rows m."""
    return TINY if place.dry else LAYERS


def weight_of(place: Place, variant: Variant, k: int, n: int) -> PackedWeight:
    """Random codes, symmetric."""
    codes = place.integers(0, 2**variant.bits, n, k, dtype=torch.uint8)
    groups = -(-k // variant.group) if variant.group else 1
    scale = place.normal(n, groups, dtype=torch.float32).abs() * 0.01 + 0.001
    return PackedWeight.from_codes(codes, variant.bits, scale, None, variant.group or None)


class Problem(NamedTuple):
    """The tensors of one layer beside its input and weight."""

    bias: Tensor  # float32 [n]
    gate: Tensor | None  # bfloat16 [b, n]
    residual: Tensor | None  # bfloat16 [m, n]
    gelu: bool

    @classmethod
    def of(cls, place: Place, layer: Linear, m: int) -> Problem:
        """Random ones."""
        bias = place.normal(layer.n, dtype=torch.float32)
        if layer.after != "gate":
            return cls(bias, None, None, layer.after == "gelu")
        samples = next(b for b in range(MOST_SAMPLES, 0, -1) if m % b == 0)
        return cls(bias, place.normal(samples, layer.n), place.normal(m, layer.n), False)

    def finished(self, y: Tensor) -> Tensor:
        """What comes after y [m, n], bias included where it came before, as a transformer writes it."""
        if self.gelu:
            return F.gelu(y, approximate="tanh")
        if self.gate is None or self.residual is None:
            return y
        samples = y.view(len(self.gate), -1, y.shape[1])
        return self.residual + (self.gate[:, None] * samples).view(y.shape)

    def rescaled(self, acc: Tensor, row_scale: Tensor, scale: Tensor) -> Tensor:
        """Integer sums [m, n] to y."""
        return self.finished((acc * row_scale * scale + self.bias).to(torch.bfloat16))


def arguments(place: Place, problem: Problem, variant: Variant, m: int, k: int) -> tuple[Any, ...]:
    """Of the variant's op: random rows, a random weight."""
    if variant == FLOATS:
        rows, weight = (float8(place, count, k) for count in (m, len(problem.bias)))
        return (*rows, *weight, *problem[:3], problem.gelu, torch.bfloat16)
    own = operand(weight_of(place, variant, k, len(problem.bias)))
    rows: tuple[Tensor, Tensor | None] = (place.normal(m, k), None)
    if variant.codes:
        row_scale = place.normal(m, 1, dtype=torch.float32).abs() * 0.01 + 0.001
        rows = place.integers(-127, 128, m, k), row_scale
    return (
        *(*rows, None, *own[:4], problem.bias, problem.gate, problem.residual),
        *(own.group, problem.gelu, torch.bfloat16),
    )


def float8(place: Place, count: int, k: int) -> tuple[Tensor, Tensor]:
    """Random rows [count, k] in 8-bit floats with their scales [count, 1]."""
    scale = place.normal(count, 1, dtype=torch.float32).abs() * 0.01 + 0.001
    return (100 * place.normal(count, k)).clamp(-448, 448).to(FLOAT8), scale


def ours(given: tuple[Any, ...]) -> Callable[[], Tensor]:
    """The op on a device: its kernel; on the CPU: its definition."""
    return partial(fp8_linear if given[0].dtype == FLOAT8 else custom_op.int_linear, *given)


def first_rows(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same product for the first rows alone, on the CPU, where the op is its definition in float64."""
    op = "fp8_linear" if given[0].dtype == FLOAT8 else "int_linear"
    names = [a.name for a in getattr(torch.ops.dqviz, op).default._schema.arguments]
    called = dict(zip(names, given))  # the last, a branch, stay away
    gate = called["gate"]
    tokens = len(called["codes"]) // (1 if gate is None else len(gate))
    for name, count in (
        ("codes", tokens),
        ("row_scale", tokens),
        ("residual", tokens),
        ("gate", 1),
    ):
        if called[name] is not None:
            called[name] = called[name][: min(CHECKED_ROWS, count)]
    return tuple(t.cpu() if isinstance(t, Tensor) else t for t in called.values())


def floating(place: Place, problem: Problem, m: int, k: int) -> Callable[[], Tensor]:
    """cuBLAS in bfloat16, with what comes after in calls of their own."""
    x, w, bias = place.normal(m, k), place.normal(len(problem.bias), k), problem.bias.bfloat16()
    return lambda: problem.finished(F.linear(x, w, bias))


def int_mm(given: tuple[Any, ...], problem: Problem, rows_first: bool) -> Callable[[], Tensor]:
    """torch._int_mm on the same int8 operands; `rows_first`: the right side [k, n] lies row by row."""
    codes, row_scale, _, data, scale, *_ = given
    right = data.T.contiguous() if rows_first else data.T
    return lambda: problem.rescaled(torch._int_mm(codes, right), row_scale, scale)


def scaled_mm(place: Place, problem: Problem, m: int, k: int) -> Callable[[], Tensor]:
    """torch._scaled_mm with float8 codes and a scale for each row and each output."""
    n = len(problem.bias)
    (x, one), (w, other) = (float8(place, count, k) for count in (m, n))
    w, other = w.T, other.T
    bias = problem.bias.bfloat16()
    product = partial(torch._scaled_mm, scale_a=one, scale_b=other, bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True)  # fmt: skip
    return lambda: problem.finished(product(x, w))
