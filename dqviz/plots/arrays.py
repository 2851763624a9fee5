"""Numbers on their way into figures: packed, shortened, on axes that reach over many decades."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# Perceptually uniform and safe under colour-vision deficiencies: viridis for amounts, Crameri's vik for signs.
SEQUENTIAL = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c",
    "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725",
)  # fmt: skip
DIVERGING = (
    "#001261", "#03437f", "#2f79a6", "#7fb0cb", "#c9dde7", "#ece5e0",
    "#e4c2ac", "#d09671", "#b86538", "#8b2a06", "#590008",
)  # fmt: skip


def packed(values: np.ndarray) -> dict[str, Any]:
    """An array as plotly.js takes it in few bytes: float32, base64."""
    flat = np.ascontiguousarray(values, dtype="<f4")
    found: dict[str, Any] = {"dtype": "f4", "bdata": base64.b64encode(flat.tobytes()).decode()}
    if flat.ndim == 2:
        found["shape"] = f"{flat.shape[0]},{flat.shape[1]}"
    return found


def short(value: float, digits: int = 3) -> str:
    """A number to read: three significant digits, no exponent between 0.0001 and a million."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        text = f"{value:.{digits - 1}e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    else:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{value:,.{decimals}f}"
        if "." in text:
            text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−").replace(",", "\u202f")


def decades(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, both positive, for a logarithmic axis: four or more where there are."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        every = [k * 10.0**e for e in range(first, last + 1) for k in steps]
        found = [v for v in every if low * 0.999 <= v <= high * 1.001]
        if len(found) >= 4:
            break
    return found


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """`tickvals` and `ticktext` of a logarithmic axis from `low` to `high`, at most about eight."""
    if not (0 < low <= high):
        return {}
    found = decades(low, high)
    if len(found) > 8:
        found = found[:: -(-len(found) // 8)]
    if len(found) < 2:
        found = [float(v) for v in np.geomspace(low, max(high, low * 1.01), 3)]
    return {"tickvals": found, "ticktext": [short(v) if v >= 1e-3 else _power(v) for v in found]}


def _power(value: float) -> str:
    """`10⁻⁵`, `3·10⁻⁵`."""
    exponent = math.floor(math.log10(value) + 1e-9)
    digit = round(value / 10**exponent)
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digit == 1 else f"{digit}·10{raised}"


def log_stops(colours: Sequence[str], low: float, high: float) -> list[list[Any]]:
    """A colour scale whose colours are spread over the logarithm of values from `low` to `high` > 0."""
    share = np.linspace(0, 1, 33)
    at = (low * (high / low) ** share - low) / (high - low)
    return [[float(round(p, 6)), blended(colours, s)] for p, s in zip(at, share)]


def even_stops(colours: Sequence[str]) -> list[list[Any]]:
    """A colour scale with evenly spread colours."""
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def blended(colours: Sequence[str], share: float) -> str:
    """The colour at `share`, 0 to 1, of a list of them."""
    place = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    i = min(int(place), len(colours) - 2)
    a, b = (np.array([int(c[k : k + 2], 16) for k in (1, 3, 5)]) for c in colours[i : i + 2])
    r, g, blue = (a + (b - a) * (place - i)).round().astype(int)
    return f"#{r:02x}{g:02x}{blue:02x}"


class SignedLog:
    """Values on an axis that is logarithmic in |x| on both sides of a gap around zero.

    |x| below `smallest` is drawn at 0; each decade above it takes as much room as every other.
    """

    def __init__(self, smallest: float, largest: float) -> None:
        self.smallest = smallest
        self.largest = max(largest, smallest * 10)

    def __call__(self, x: np.ndarray | float) -> np.ndarray:
        """Place of x on the axis, in decades from zero."""
        x = np.asarray(x, float)
        return np.sign(x) * np.log10(np.maximum(np.abs(x) / self.smallest, 1))

    def ticks(self) -> dict[str, Any]:
        """`tickvals` and `ticktext`, at most seven a side."""
        first = math.ceil(math.log10(self.smallest) - 1e-9)
        last = math.floor(math.log10(self.largest) + 1e-9)
        every = max(1, math.ceil((last - first + 1) / 4))
        wanted = [10.0**e for e in range(last, first - 1, -every) if 10.0**e > self.smallest * 1.5]
        values = [-v for v in wanted] + [0.0] + wanted[::-1]
        return {
            "tickvals": [float(self(v)) for v in values],
            "ticktext": [short(v) for v in values],
        }
