"""Ranges that leave the least error of rounding, |x - Q(x)|^2.4: ends are clipped where that pays.

As in TaQ-DiT's released code (arXiv 2411.14172, read in released code), whose search this shortens (ours).

Shapes: x [n] values; W [o, i] weight, a row r of g groups by itself; b bits.

    d = R / (2^b - 1),  z in 0 .. 2^b - 1     Q(x) = (clip(round(x / d) + z, 0, 2^b - 1) - z) d
    (R, z) = argmin sum |x - Q(x)|^2.4        R: up to max x - min x, with 0 among the values

The released code tries 100 sizes R, and every z. Here sizes are tried coarsely and then by hundredths of the
whole, and zeros between those that keep the low end and the high end of the values. A tensor is
searched by the means of 4096 bins of its histogram, with their counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .errors import BadInput
from .rounding import FLOOR, Grid, groups_of
from .schema import Format

POWER = 2.4
BINS = 4096
ZEROS = 9  # that are tried for a tensor
COARSE = tuple(r / 20 for r in range(20, 4, -1))  # 1, 0.95 .. 0.25
FINE = tuple(r / 100 for r in (-4, -3, -2, -1, 1, 2, 3, 4))


def searched_grid(weight: Tensor, fmt: Format) -> Grid:
    """The grid of least error for the rows (or groups of rows) of `weight` [o, i]."""
    if fmt.kind != "int" or fmt.granularity == "tensor":
        raise BadInput(f"ranges are searched per row or group of integers, not for {fmt}")
    w = weight.float()
    scale, zero = searched_rows(
        w.reshape(len(w) * groups_of(fmt, w.shape[1]), -1), fmt.bits, fmt.symmetric
    )
    shape = len(w), -1
    return Grid(
        fmt,
        scale.reshape(shape).contiguous(),
        None if zero is None else zero.reshape(shape),
        None,
        w.shape[1],
    )


@torch.no_grad()
def searched_rows(x: Tensor, bits: int, symmetric: bool = False) -> tuple[Tensor, Tensor | None]:
    """Scale and zero [r, 1] of every row of x [r, n] by itself; zero None where symmetric."""
    low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
    best = _Best(x, low, high, bits, symmetric)
    for ratio in COARSE:
        best.offer(torch.full_like(low, ratio))
    middle = best.ratio
    for more in FINE:
        best.offer((middle + more).clamp(0.01, 1))
    return best.scale, best.zero


@torch.no_grad()
def searched_range(
    x: Tensor | Sequence[Tensor], bits: int, *, one_sided: bool = False
) -> tuple[float, int]:
    """Scale and zero of one tensor, whole or in parts."""
    values, counts = histogram(x)
    low, high = float(values.min().clamp(max=0)), float(values.max().clamp(min=0))
    whole = max((high - low) / (2**bits - 1), FLOOR)

    def best_of(ratios: Sequence[float]) -> tuple[float, float, int]:
        """The least error, with its share of the whole and its zero."""
        scale = values.new_tensor([max(whole * ratio, FLOOR) for ratio in ratios])[:, None, None]
        zeros = torch.zeros_like(scale)  # [r, z, 1]
        if not one_sided:
            ends = _zeros(values.new_tensor(low), values.new_tensor(high), scale, bits)
            shares = torch.linspace(0, 1, ZEROS, device=values.device)[:, None]
            zeros = (ends[0] + (ends[2] - ends[0]) * shares).round().sort(1).values
        rounded = ((values / scale).round() + zeros).clamp(0, 2**bits - 1) - zeros  # [r, z, bins]
        lost = ((rounded * scale - values).abs().pow(POWER) * counts).sum(2)
        at = int(lost.argmin())
        return float(lost.flatten()[at]), ratios[at // lost.shape[1]], int(zeros.flatten()[at])

    coarse = best_of(COARSE)
    fine = best_of([min(1.0, coarse[1] + more) for more in FINE])
    _, ratio, zero = min(coarse, fine, key=lambda found: found[0])
    return max(whole * ratio, FLOOR), zero


def _zeros(low: Tensor, high: Tensor, scale: Tensor | float, bits: int) -> list[Tensor]:
    """Zeros with which a shorter range keeps the low end, the middle, or the high end."""
    top = 2**bits - 1
    found = (-low / scale, top / 2 - (low + high) / 2 / scale, top - high / scale)
    return [zero.round().clamp(0, top) for zero in found]


def histogram(x: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Means of the bins that hold any of the values, and how many each holds; both ends are kept exactly."""
    parts = [x] if isinstance(x, Tensor) else list(x)
    low = min(float(part.min()) for part in parts)
    high = max(float(part.max()) for part in parts)
    width = max((high - low) / BINS, FLOOR)
    device = parts[0].device
    sums, counts = (
        torch.zeros(BINS, dtype=torch.float64, device=device),
        torch.zeros(BINS, dtype=torch.float64, device=device),
    )
    for part in parts:
        flat = part.reshape(-1).float()
        bins = ((flat - low) / width).long().clamp(0, BINS - 1)
        counts.scatter_add_(0, bins, torch.ones_like(flat, dtype=torch.float64))
        sums.scatter_add_(0, bins, flat.double())
    held = counts > 0
    means = (sums[held] / counts[held]).float()
    ends = torch.tensor([low, high], device=device)
    once = torch.ones(2, dtype=torch.float64, device=device)
    return torch.cat([ends, means]), torch.cat([once, counts[held]]).float()


class _Best:
    """The best range of every row so far."""

    def __init__(self, x: Tensor, low: Tensor, high: Tensor, bits: int, symmetric: bool) -> None:
        self.x, self.low, self.high, self.bits, self.symmetric = x, low, high, bits, symmetric
        self.lost = torch.full_like(low, torch.inf)
        self.scale, self.ratio = torch.ones_like(low), torch.ones_like(low)
        self.zero = None if symmetric else torch.zeros_like(low)

    def offer(self, ratio: Tensor) -> None:
        """Try ranges of this share [r, 1] of the whole."""
        if self.symmetric:
            peak = torch.maximum(-self.low, self.high)
            limit = 2 ** (self.bits - 1) - 1
            scale = (peak * ratio / limit).clamp(min=FLOOR)
            self._take(ratio, scale, (self.x / scale).round().clamp(-limit, limit), None)
            return
        top = 2**self.bits - 1
        scale = ((self.high - self.low) * ratio / top).clamp(min=FLOOR)
        steps = (self.x / scale).round()
        for zero in _zeros(self.low, self.high, scale, self.bits):
            self._take(ratio, scale, (steps + zero).clamp(0, top) - zero, zero)

    def _take(self, ratio: Tensor, scale: Tensor, rounded: Tensor, zero: Tensor | None) -> None:
        lost = (rounded * scale - self.x).abs().pow(POWER).sum(1, keepdim=True)
        better = lost < self.lost
        self.lost = torch.where(better, lost, self.lost)
        self.scale = torch.where(better, scale, self.scale)
        self.ratio = torch.where(better, ratio, self.ratio)
        if self.zero is not None and zero is not None:
            self.zero = torch.where(better, zero, self.zero)
