"""How far outputs on a device may be from the definition: the numbers of docs/kernels.md.

Row codes [m, k] int8 with scale [m, 1] and zero [m, 1]: what counts is code - zero, and the scale. Floating point [m, n]:
||y - definition|| / ||definition||, where the definition is computed in float64 and given in y's dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}
SCALE = 5e-5  # of a scale after a rotation in halves of bfloat16; without one it is smaller by far
# Codes that may be off by one, where float32 sums differ in order; others are equal.
OFF_BY_ONE = {"adaln_quantize": 5e-3, "gelu_quantize": 1e-3}


def compared(op: str, got: Tensor, expected: Tensor) -> dict[str, Any]:
    """`relative_error` of floating-point or int32 outputs, its `bound`, and whether it is `right`."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return {"right": False, "error": f"{got.dtype} {tuple(got.shape)}, not {expected.dtype} {tuple(expected.shape)}"}  # fmt: skip
    if not got.is_floating_point():
        return {"right": torch.equal(got.cpu(), expected.cpu()), "bound": 0}
    y, truth = got.double().cpu(), expected.double().cpu()
    error = float((y - truth).norm() / truth.norm().clamp_min(1e-30))
    bound = TOLERANCE[got.dtype]
    return {"right": error <= bound, "relative_error": _number(error), "bound": bound}


def codes_compared(
    op: str, got: tuple[Tensor, ...], expected: tuple[Tensor, ...]
) -> dict[str, Any]:
    """Of row codes: `off_by_one`, the share of codes; `scale`, the largest relative difference; the `bound` of the share."""
    (codes, scale, zero), (codes0, scale0, zero0) = ([t.cpu() for t in side] for side in (got, expected))  # fmt: skip
    if codes.shape != codes0.shape or zero.shape != zero0.shape:
        return {"right": False, "error": f"codes {tuple(codes.shape)}, not {tuple(codes0.shape)}"}
    off = (codes.float() - _or_zero(zero)) - (codes0.float() - _or_zero(zero0))
    share, bound = float((off != 0).float().mean()), OFF_BY_ONE.get(op, 0.0)
    apart = float(((scale - scale0).abs() / scale0.abs().clamp_min(1e-30)).max())
    right = share <= bound and float(off.abs().max()) <= 1 and apart <= SCALE
    return {"right": right, "off_by_one": _number(share), "scale": _number(apart), "bound": bound}


def output_checked(op: str, got: Any, expected: Any) -> dict[str, Any]:
    """Whatever the custom op gives."""
    if op == "kmeans_assign":  # codes and distances; nothing in its examples is nearly as near
        found = compared(op, got[1], expected[1])
        return {**found, "right": found["right"] and torch.equal(got[0].cpu(), expected[0].cpu())}
    if isinstance(got, tuple):
        return codes_compared(op, got, expected)
    return compared(op, got, expected)


def equal(got: Any, expected: Any) -> bool:
    """Bit for bit, in all parts."""
    sides = [part if isinstance(part, tuple) else (part,) for part in (got, expected)]
    return all(torch.equal(a, b) for a, b in zip(*sides, strict=True))


def _or_zero(zero: Tensor) -> Tensor:
    return zero if zero.numel() else torch.zeros(1)


def _number(value: float) -> float | str:
    return float(f"{value:.3g}") if value == value and abs(value) != float("inf") else str(value)
