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
from .post_gelu import GATES
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
    outliers = np.array(own.get("outliers") or [], int)
    ranges = _ranges(opened, layer, own)
    figures = []
    if ranges is not None:
        factors = factors_of(own, outliers, len(ranges))
        figures.append(
            plot(
                f"Channels of {label}",
                plots.channels(ranges, outliers, factors),
                alt=f"Range of {len(ranges)} channels of {label}, {len(outliers)} of them outliers, before and after division by factors up to {short(float(factors.max()))}",
                height=HEIGHT,
                source=found.source(opened.study, "measured"),
                part="migration",
                raw=_raw(ranges, outliers, factors),
            )
        )  # fmt: skip
        words = _words(own, label, ranges, outliers, factors)
        if not own.get("ranges"):
            words.append("Ranges are those of the study's capture; outliers and factors were chosen on the inputs that learning saw.")  # fmt: skip
        note = ""
    else:
        words = [f"{label}: {len(outliers)} channels are outliers; the largest factor is {max(own.get('m') or [1])}."]  # fmt: skip
        note = "Ranges of the channels come from a capture, too."
    return drawn(
        VIEW.title,
        LEDE,
        [found.badge("measured")],
        figures,
        picks=[layer_pick(data, layer)],
        words=words,
        note=note,
    )


def _ranges(opened: Opened, layer: str, own: Mapping[str, Any]) -> np.ndarray | None:
    """Of every channel of a layer's input: as the learner told them, else from the capture."""
    outliers = own.get("outliers") or []
    found = np.array(own["ranges"], float) if own.get("ranges") else None
    captured = opened.captured
    if found is None and captured is not None and layer in {e.name for e in captured.seen.inputs}:
        found = widths(captured.seen, layer)
    return None if found is None or max(outliers, default=0) >= len(found) else found


def factors_of(own: Mapping[str, Any], outliers: np.ndarray, channels: int) -> np.ndarray:
    """What each channel is divided by, [c]: as told of all channels, or of the outliers alone."""
    told = np.array(own.get("m") or [], float)
    if len(told) == channels:
        return told
    found = np.ones(channels)
    if len(told) == len(outliers):
        found[outliers] = told
    return found


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


def _raw(ranges: np.ndarray, outliers: np.ndarray, factors: np.ndarray) -> list[dict[str, Any]]:
    marked = set(outliers.tolist())
    return [
        {"channel": c, "outlier": c in marked, "factor": int(m), "range": float(r), "range_after": float(r / m)}
        for c, (r, m) in enumerate(zip(ranges, factors, strict=True))
    ]  # fmt: skip


def _words(own: Mapping[str, Any], label: str, ranges: np.ndarray, outliers: np.ndarray, factors: np.ndarray) -> list[str]:  # fmt: skip
    widest, middle = short(float(ranges.max())), short(float(np.median(ranges)))
    share = short(100 * len(outliers) / len(ranges))
    words = [f"{label}: {len(outliers)} of {len(ranges)} channels are outliers, {share} %; the widest range is {widest}, the middle channel's {middle}."]  # fmt: skip
    after = float((ranges / factors).max())
    if factors.max() > 1 and after < float(ranges.max()):
        words.append(f"Divided by factors up to {short(float(factors.max()))}, the widest range falls to {short(after)}.")  # fmt: skip
    elif factors.max() > 1:
        words.append(f"{int((factors > 1).sum())} channels are divided by factors up to {short(float(factors.max()))}; the widest range is left alone.")  # fmt: skip
    elif len(outliers):
        words.append("None of them is divided here: that would not have lowered the error.")
    errors = {str(k): float(v) for k, v in (own.get("errors") or {}).items()}
    if errors:
        told = ", ".join(f"{GATES.get(k, k)} {short(v)}" for k, v in sorted(errors.items(), key=lambda e: e[1]))  # fmt: skip
        words.append(f"Squared error of what the layer makes of it, measured for each way: {told}. The least is kept.")  # fmt: skip
    return words
