"""Channels after the GELU: the range of each, which of them are outliers, and what their factors make of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...plots import learning as plots
from ...plots.arrays import short
from ...seen_file import SeenFile
from ..view import Section, plot
from .learned import drawn, label_of
from .opened import Opened, View
from .ranks import layer_of, layer_pick
from .selection import Selection

VIEW = View("migration", "Outlier channels", 35, None, keys=("layer",), learned="post_gelu")
LEDE = "A few channels reach far beyond the others and would set the step of all. Their values are divided by a whole number each, and the weights that read them multiplied by it."
HEIGHT = 320


def section(opened: Opened, chosen: Selection) -> Section:
    """Ranges of the channels before and after; without a capture, the factors alone."""
    found = opened.learned
    assert found is not None
    data = found.last("post_gelu")
    layer = layer_of(data, chosen)
    own, label = data[layer], label_of(layer)
    factors = np.array(own.get("m") or [], float)
    outliers = np.array(own.get("outliers") or [], int)
    captured = opened.captured
    ranges = None
    if captured is not None and layer in {e.name for e in captured.seen.inputs}:
        ranges = widths(captured.seen, layer)
    note = ""
    if ranges is None:
        note = "Ranges of the channels come from a capture, and this study has none of this layer."
    shown = ranges if ranges is not None and len(ranges) == len(factors) else None
    figures = []
    if len(factors):
        figures.append(
            plot(
                f"Channels of {label}",
                plots.channels(factors, outliers, shown),
                alt=f"{'Range' if shown is not None else 'Factor'} of {len(factors)} channels of {label}, {len(outliers)} of them outliers, before and after division by factors up to {short(float(factors.max()))}",
                height=HEIGHT,
                source=found.source(opened.study, "measured"),
                part="migration",
                raw=_raw(factors, outliers, shown),
            )
        )  # fmt: skip
    return drawn(
        VIEW.title,
        LEDE,
        [found.badge("measured")],
        figures,
        picks=[layer_pick(data, layer)],
        words=_words(own, label, factors, outliers, shown),
        note=note,
    )


def widths(seen: SeenFile, name: str) -> np.ndarray:
    """Largest less smallest value of every channel over all steps and branches, [c]."""
    low = high = None
    for step in range(seen.steps):
        for branch in range(seen.branches):
            found = seen.channels(name, step, branch)
            low = found["minimum"] if low is None else np.minimum(low, found["minimum"])
            high = found["maximum"] if high is None else np.maximum(high, found["maximum"])
    assert low is not None
    assert high is not None
    return (high - low).astype(float)


def _raw(factors: np.ndarray, outliers: np.ndarray, ranges: np.ndarray | None) -> list[dict[str, Any]]:  # fmt: skip
    marked = set(outliers.tolist())
    return [
        {"channel": c, "outlier": c in marked, "factor": int(m), **({} if ranges is None else {"range": ranges[c], "range_after": ranges[c] / m})}
        for c, m in enumerate(factors)
    ]  # fmt: skip


def _words(
    own: Mapping[str, Any], label: str, factors: np.ndarray, outliers: np.ndarray, ranges: np.ndarray | None
) -> list[str]:  # fmt: skip
    words = [f"{label}: {len(outliers)} of {len(factors)} channels are outliers, {short(100 * len(outliers) / max(len(factors), 1))} %."]  # fmt: skip
    if ranges is not None and len(outliers):
        before, after = float(ranges.max()), float((ranges / factors).max())
        words.append(f"The widest range falls from {short(before)} to {short(after)}; the middle channel's is {short(float(np.median(ranges)))}.")  # fmt: skip
    if own.get("gate") in ("shift", "plain"):
        words.append("Migration did not lower the measured error of the layer after it, so it is not used here: what is drawn is what it would have done." if len(outliers) else "No channel is migrated here.")  # fmt: skip
    return words
