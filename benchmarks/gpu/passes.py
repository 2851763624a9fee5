"""What stands before a quantized layer, in one pass over memory: ours, the same in PyTorch's operations, and a copy.

Shapes: x [b, t, c] in bfloat16, or [m, c]; row codes int8 [m, c] with a scale for each row. A pass reads 2 m c bytes and writes m c:
what a copy of 3/2 m c bytes moves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.adaln_quantize import custom_op as adaln
from kernels.gelu_quantize import custom_op as gelu
from kernels.quantize_rows import custom_op as rows

from .place import Place

EPS = 1e-6


class Pass(NamedTuple):
    """One op on rows of c channels: b samples of t tokens."""

    op: str
    variant: str
    b: int
    t: int
    c: int

    @property
    def name(self) -> str:
        """As rows are named."""
        return f"{self.op}{f', {self.variant}' if self.variant else ''}"


PASSES = (
    *(
        Pass(op, variant, b, 256, c)
        for b in (64, 16)
        for op, variant, c in (
            ("adaln_quantize", "", 1152),
            ("gelu_quantize", "", 4608),
            ("adaln_quantize", "rotated", 1152),
            ("quantize_rows", "", 1152),
            ("gelu_quantize", "rotated", 4608),
        )
    ),
    Pass("adaln_quantize", "", 1, 4608, 3072),
)
TINY = (
    Pass("adaln_quantize", "", 2, 4, 48),
    Pass("adaln_quantize", "rotated", 2, 4, 48),
    Pass("gelu_quantize", "", 2, 4, 96),
    Pass("gelu_quantize", "rotated", 2, 4, 96),
    Pass("quantize_rows", "", 2, 4, 48),
)


def passes(place: Place) -> tuple[Pass, ...]:
    """What is timed."""
    return TINY if place.dry else PASSES


def arguments(place: Place, given: Pass) -> tuple[Any, ...]:
    """Of the custom op."""
    b, t, c = given.b, given.t, given.c
    if given.op == "quantize_rows":
        return place.normal(b * t, c), 8, True
    signs = place.integers(0, 2, c).float() * 2 - 1
    divisor = place.normal(c, dtype=torch.float32).abs() + 0.5
    transform = (divisor, signs) if given.variant else (None, None)
    if given.op == "gelu_quantize":
        return (place.normal(b * t, c), 8, True, None, *transform, None, None)
    x, shift, scale = place.normal(b, t, c), place.normal(b, c), place.normal(b, c)
    return (x, shift, scale, *transform, 8, True, EPS)


def not_rotated(given: Pass, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of the same op without divisor and rotation."""
    first = 4 if given.op == "gelu_quantize" else 3
    return (*values[:first], None, None, *values[first + 2 :])


def ours(given: Pass, values: tuple[Any, ...]) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """The op on a device: its kernel; on the CPU: its definition."""
    module = {"adaln_quantize": adaln, "gelu_quantize": gelu, "quantize_rows": rows}[given.op]
    return partial(getattr(module, given.op), *values)


def definition(given: Pass, values: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of the first sample's rows, by the definition on the CPU, from values in float64 where there is arithmetic before."""
    x, *others = (v.cpu() if isinstance(v, Tensor) else v for v in values)
    if given.op == "adaln_quantize":
        x, others = x[:1], [others[0][:1], others[1][:1], *others[2:]]
    else:
        x = x[: given.t]
    return ours(given, (x if given.op == "quantize_rows" else x.double(), *others))()


def chain(given: Pass, values: tuple[Any, ...]) -> Callable[[], tuple[Tensor, Tensor]] | None:
    """The same in PyTorch's operations, in bfloat16 up to the codes; None where that is no fair peer: a rotation."""
    if given.variant:
        return None
    if given.op == "adaln_quantize":
        return partial(_modulated, *values[:3])
    return partial(_activated if given.op == "gelu_quantize" else _codes, values[0])


def copy(place: Place, given: Pass) -> Callable[[], Tensor]:
    """Moves as many bytes as the op reads and writes."""
    source = place.integers(-127, 128, 3 * given.b * given.t * given.c // 2)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    n = F.layer_norm(x, x.shape[-1:], eps=EPS)
    return _codes((n * (1 + scale[:, None]) + shift[:, None]).flatten(0, 1))


def _activated(x: Tensor) -> tuple[Tensor, Tensor]:
    return _codes(F.gelu(x, approximate="tanh"))


def _codes(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = x.abs().amax(1, keepdim=True).float() / 127
    return (x / scale.clamp_min(1e-8)).round().clamp(-127, 127).to(torch.int8), scale
