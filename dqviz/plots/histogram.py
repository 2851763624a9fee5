"""Values and the grid that rounds them: how many levels hold how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import SignedLog, log_ticks, packed, short
from .theme import Figure, axis, layout, plain

MOST_LEVELS = 40  # of more, lines would only be a grey area
CELLS = 220  # bins of the linear axis; the log bins near zero are finer than the eye


def figure(
    series: Sequence[tuple[str, np.ndarray]],
    edges: np.ndarray,
    levels: np.ndarray,
    zero: tuple[float, float],
    clip: tuple[float, float],
    clips: bool,
    logarithmic: bool,
) -> Figure:
    """Density of the values with the levels of a grid.

    Args:
        series: name and counts [bins] of each; the first is filled, others are lines.
        edges: [bins + 1].
        levels: values that the grid can express, ascending; empty for none.
        zero: values between these two round to 0.
        clip: smallest and largest level.
        clips: whether values beyond them are clipped; a scale per row always covers its own row.
        logarithmic: a signed logarithmic value axis with the share per bin, instead of a linear one
            with the density.
    """
    low, high = reach([counts for _, counts in series], edges)
    if levels.size:
        low, high = min(low, clip[0]), max(high, clip[1])
    place = (
        SignedLog(_smallest(series[0][1], edges), max(-low, high)) if logarithmic else np.asarray
    )
    drawn = [(_log if logarithmic else _linear)(c, edges, low, high) for _, c in series]
    tall = np.concatenate([y for _, y, _ in drawn])
    floor = 0.0 if logarithmic else float(tall[tall > 0].min(initial=1.0)) / 2
    data = [
        _curve(name, at, np.maximum(y, floor), share, place, i)
        for i, ((name, _), (at, y, share)) in enumerate(zip(series, drawn))
    ]
    margin = 0.02 * (float(place(high)) - float(place(low)))
    ends = [float(place(low)) - margin, float(place(high)) + margin]
    shapes: list[dict[str, Any]] = []
    if levels.size:
        shapes.append(_area(float(place(zero[0])), float(place(zero[1])), "var(--dq-accent-soft)"))
        outside = [(ends[0], float(place(clip[0]))), (float(place(clip[1])), ends[1])]
        wide = [(a, b) for a, b in outside if clips and b - a > margin * 1.01]
        shapes += [_area(a, b, "var(--dq-bad-soft)") for a, b in wide]
        data.append(_levels(levels, place))
    x: dict[str, Any] = {"range": ends, "showgrid": False}
    if isinstance(place, SignedLog):
        x |= place.ticks()
    if logarithmic:
        y = axis("share of values", rangemode="tozero", tickformat="~p")
    else:
        top = max(float(tall.max(initial=0.0)), floor * 10)
        ends_y = [float(np.log10(floor)), float(np.log10(top)) + 0.15]
        y = axis("values per unit", type="log", range=ends_y, **log_ticks(floor, top))
    return {
        "data": data,
        "layout": layout(
            showlegend=len(series) > 1,
            hovermode="x",
            margin={"l": 60, "r": 12, "t": 8, "b": 44},
            xaxis=axis("value" + (", logarithmic both ways" if logarithmic else ""), **x),
            yaxis=y,
            yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
            shapes=shapes,
        ),
    }


def reach(counts: Sequence[np.ndarray], edges: np.ndarray) -> tuple[float, float]:
    """From the lowest to the highest value that was counted; at least some width."""
    filled = np.flatnonzero(np.sum(counts, axis=0))
    if not filled.size:
        return -1.0, 1.0
    low, high = float(edges[filled[0]]), float(edges[filled[-1] + 1])
    return min(low, 0.0), max(high, 0.0)


def _smallest(counts: np.ndarray, edges: np.ndarray) -> float:
    """A magnitude below which there is next to nothing: 1 % of the values, as a power of ten."""
    middle = len(counts) // 2
    sides = counts[middle + 1 :] + counts[:middle][::-1]  # by magnitude
    total = max(int(sides.sum()), 1)
    first = int(np.searchsorted(sides.cumsum() / total, 0.01))
    value = edges[middle + 1 + min(first, len(sides) - 1)]
    return float(10.0 ** np.floor(np.log10(value)))


def _linear(
    counts: np.ndarray, edges: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Density of merged bins, none narrower than the eye sees: edges, density, share of each."""
    cell = (high - low) / CELLS
    keep = [0]
    for i in range(1, len(edges)):
        if edges[i] - edges[keep[-1]] >= cell:
            keep.append(i)
    keep[-1] = len(edges) - 1 if len(keep) > 1 else keep[-1]
    total = max(int(counts.sum()), 1)
    share = np.add.reduceat(counts, keep[:-1]) / total
    at = edges[keep]
    filled = np.flatnonzero(share)
    inside = slice(filled[0], filled[-1] + 1) if filled.size else slice(0, 1)
    at, share = at[inside.start : inside.stop + 1], share[inside]
    return at, share / np.diff(at), share


def _log(
    counts: np.ndarray, edges: np.ndarray, low: float, high: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of every bin on the logarithmic axis: edges, share, share."""
    total = max(int(counts.sum()), 1)
    first, last = (int(np.searchsorted(edges, v)) for v in (low, high))
    inside = slice(max(first - 1, 0), min(last + 1, len(counts)))
    share = counts[inside] / total
    return edges[inside.start : inside.stop + 1], share, share


def _curve(
    name: str, at: np.ndarray, y: np.ndarray, share: np.ndarray, place: Any, index: int
) -> Figure:
    """A step line over bins; the first is filled."""
    colour = "var(--run-1)" if index == 0 else "var(--run-2)"
    tops = np.concatenate([y, y[-1:]]) if y.size else y
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain(name),
        "x": packed(place(at)),
        "y": packed(tops),
        "text": [f"{short(a)} to {short(b)}: {_percent(s)}" for a, b, s in zip(at, at[1:], share)],
        "hovertemplate": "%{text} of values<extra></extra>",
        "line": {"shape": "hv", "width": 1.5 if index == 0 else 1.2, "color": colour},
        **({"fill": "tozeroy", "fillcolor": "rgba(0,99,178,0.22)"} if index == 0 else {}),
        "connectgaps": False,
    }


def _percent(share: float) -> str:
    return f"{short(share * 100)} %" if share else "none"


def _area(start: float, end: float, colour: str) -> dict[str, Any]:
    return {"type": "rect", "xref": "x", "yref": "paper", "x0": start, "x1": end, "y0": 0, "y1": 1, "fillcolor": colour, "line": {"width": 0}, "layer": "below"}  # fmt: skip


def _levels(levels: np.ndarray, place: Any) -> Figure:
    """A line per level from bottom to top; only the outermost where there are too many."""
    shown = levels if len(levels) <= MOST_LEVELS else levels[[0, -1]]
    at = np.asarray(place(shown), float)
    x: list[float | None] = []
    y: list[float | None] = []
    for value in at:
        x += [float(value), float(value), None]
        y += [0.0, 1.0, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "grid",
        "x": x,
        "y": y,
        "yaxis": "y2",
        "hoverinfo": "skip",
        "showlegend": False,
        "line": {"width": 1, "color": "var(--dq-muted)"},
        "opacity": 0.6,
    }
