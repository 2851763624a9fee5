"""What a number format would do to recorded values: levels, what rounds to zero, what is clipped.

The formats are those of `kernels/quantize_rows`: for b bits over values from lo <= 0 to hi >= 0

    symmetric    d = max(-lo, hi) / (2^(b-1) - 1)      levels -(2^(b-1) - 1) d .. (2^(b-1) - 1) d
    asymmetric   d = (hi - lo) / (2^b - 1), z = round(-lo / d)        levels -z d .. (2^b - 1 - z) d

Nothing here ran in a model: these numbers are simulated on the rows and histograms of a capture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SCALES = {
    "row": "one scale per row",
    "step": "one per tensor, at this step",
    "all": "one per tensor, for all steps",
}
FLOOR = 1e-8  # smallest step between levels
NOTICED = 1e-4  # a level counts as used when so large a share of the values falls on it


@dataclass(frozen=True)
class Grid:
    """Evenly spaced levels around zero."""

    step: float
    first: int  # number of the lowest level; 0 is the level zero
    last: int

    @property
    def count(self) -> int:
        """How many levels there are."""
        return self.last - self.first + 1

    @property
    def levels(self) -> np.ndarray:
        """Values of the levels, ascending."""
        return np.arange(self.first, self.last + 1) * self.step

    @property
    def zero(self) -> tuple[float, float]:
        """Values between these two round to zero."""
        return -self.step / 2, self.step / 2

    @property
    def ends(self) -> tuple[float, float]:
        """Smallest and largest level."""
        return self.first * self.step, self.last * self.step


@dataclass(frozen=True)
class Effect:
    """What a format does to sampled rows."""

    sqnr_db: float | None  # signal over rounding error; None when there is no error
    zero: float  # share of values that round to zero
    clipped: float  # share of values beyond the outermost levels
    used: float  # share of the levels that hold some values
    rows: int


def grid(low: float, high: float, bits: int, symmetric: bool) -> Grid:
    """The levels for values from `low` to `high`."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        top = 2 ** (bits - 1) - 1
        return Grid(max(max(-low, high) / top, FLOOR), -top, top)
    top = 2**bits - 1
    step = max((high - low) / top, FLOOR)
    zero = round(-low / step)
    return Grid(step, -zero, top - zero)


def covered(
    low: float, high: float, counts: np.ndarray, edges: np.ndarray, share: float
) -> tuple[float, float]:
    """The part of a range that holds `share` of the values by magnitude; all of it for 1."""
    if share >= 1:
        return low, high
    middle = len(counts) // 2
    sides = counts[middle + 1 :] + counts[:middle][::-1]
    total = int(counts.sum())
    if not total:
        return low, high
    held = np.concatenate([[counts[middle]], sides]).cumsum() / total  # up to each edge
    reach = float(np.interp(share, held, edges[middle + 1 :]))
    return max(low, -reach), min(high, reach)


def below(values: np.ndarray, counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of the counted values below each of `values`; bins are taken to be even inside."""
    total = max(int(counts.sum()), 1)
    held = np.concatenate([[0.0], counts.cumsum() / total])
    return np.interp(values, edges, held)


def effect(rows: np.ndarray, bits: int, symmetric: bool, fixed: Grid | None) -> Effect:
    """Round `rows` [r, c] to a grid, or each row to a grid of its own."""
    x = np.asarray(rows, np.float64)
    if fixed is not None:
        step, first, last = fixed.step, fixed.first, fixed.last
        codes = np.rint(x / step)
    else:
        low, high = np.minimum(x.min(1, keepdims=True), 0), np.maximum(x.max(1, keepdims=True), 0)
        top = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
        span = np.maximum(-low, high) if symmetric else high - low
        step = np.maximum(span / top, FLOOR)
        zero = np.zeros_like(step) if symmetric else np.rint(-low / step)
        first, last = (-zero - top, -zero + top) if symmetric else (-zero, top - zero)
        codes = np.rint(x / step)
    kept = np.clip(codes, first, last)
    error = float(((x - kept * step) ** 2).sum())
    signal = float((x**2).sum())
    sqnr = 10 * math.log10(signal / error) if error > 0 and signal > 0 else None
    clipped = float((codes != kept).mean())
    shifted = (kept - first).astype(np.int64)
    levels = 2**bits - (1 if symmetric else 0)
    if fixed is not None:
        shares = np.bincount(shifted.ravel(), minlength=levels) / max(shifted.size, 1)
        used = float((shares >= NOTICED).mean())
    else:
        used = float(np.mean([len(np.unique(row)) / levels for row in shifted]))
    return Effect(sqnr, float((kept == 0).mean()), clipped, used, len(x))
