"""Matrices as colour: sites over steps, and tokens over channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .arrays import DIVERGING, SEQUENTIAL, decades, even_stops, log_stops, packed, short
from .theme import Figure, axis, layout, plain

Scale = Literal["log", "linear", "signed"]
LABELLED_ROWS = 32  # so many rows get a label each; of more, every block gets one
TALL, MIDDLE, LOW = 18, 12, 3  # pixels per row: with a label each, and with ever more rows
MOST_PIXELS = 460


def height(rows: int) -> int:
    """Pixels for so many rows, axis and margins included."""
    each = TALL if rows <= LABELLED_ROWS else min(MIDDLE, max(LOW, MOST_PIXELS // rows))
    return 62 + max(each * rows, 96)


def sites(
    values: np.ndarray,
    rows: Sequence[str],
    blocks: Sequence[str],
    columns: Sequence[str] | None,
    scale: Scale,
    title: str,
) -> Figure:
    """A row per input or layer, a column per step, or per what `columns` names.

    Args:
        values: [rows, columns]; NaN is drawn as a gap.
        rows: label of every row, each of them once.
        blocks: label of the block of every row.
        columns: names of the columns; None: they are steps.
        scale: `log` for positive values over decades, `signed` about zero.
        title: what the colours mean.
    """
    labels = [plain(row) for row in rows]
    steps = values.shape[1]
    column = "step %{x}" if columns is None else "%{x}"
    colours, low, high = scaled(values, scale)
    few = len(rows) <= LABELLED_ROWS
    ticks = _row_ticks(labels, blocks, few)
    return {
        "data": [
            {
                "type": "heatmap",
                "name": plain(title),
                "x": list(range(steps)) if columns is None else [plain(c) for c in columns],
                "y": labels,
                "z": packed(values),
                "colorscale": colours,
                "zmin": low,
                "zmax": high,
                "showscale": False,
                "xgap": 1 if steps <= 60 and few else 0,
                "ygap": 1 if few else 0,
                "hoverongaps": False,
                "hovertemplate": f"%{{y}}<br>{column}<br><b>%{{z:.4g}}</b><extra></extra>",
            },
            legend(scale, low, high, title),
        ],
        "layout": layout(
            showlegend=False,
            margin={"l": 8, "r": 8, "t": 8, "b": 46},
            xaxis=axis("step, noisiest first" if columns is None else "", range=[-0.5, steps - 0.5], showgrid=False, ticks="outside", ticklen=4, dtick=_every(steps) if columns is None else 1),
            yaxis=axis("", type="category", autorange="reversed", automargin=True, showgrid=False, **ticks),
            shapes=[] if few else _borders(blocks),
        ),
    }  # fmt: skip


def scaled(values: np.ndarray, scale: Scale) -> tuple[list[list[Any]], float, float]:
    """Colour scale with the smallest and largest value that it covers."""
    known = values[np.isfinite(values)]
    if not known.size:
        return even_stops(SEQUENTIAL), 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    if scale == "signed":
        reach = max(abs(low), abs(high)) or 1.0
        return even_stops(DIVERGING), -reach, reach
    if scale == "log" and high > 0:
        positive = known[known > 0]
        low = max(float(positive.min()), high * 1e-4)
        if high / low > 1.5:
            return log_stops(SEQUENTIAL, low, high), low, high
    if high <= low:
        high = low + (abs(low) or 1.0) * 0.01
    return even_stops(SEQUENTIAL), low, high


def legend(scale: Scale, low: float, high: float, title: str) -> Figure:
    """A point that is nowhere; it carries the colour bar, whose axis may be logarithmic."""
    bar: dict[str, Any] = {
        "thickness": 10,
        "outlinewidth": 0,
        "len": 1,
        "lenmode": "fraction",
        "ypad": 0,
        "xpad": 12,
        "title": {"text": plain(title), "side": "right", "font": {"size": 12}},
    }
    ends = [low, high]
    if scale == "log" and low > 0 and high / low > 1.5:
        values = decades(low, high)
        if len(values) < 3:
            values = [float(v) for v in np.geomspace(low, high, 4)]
        bar |= {
            "tickvals": [float(np.log10(v)) for v in values],
            "ticktext": [short(v) for v in values],
        }
        ends = [float(np.log10(low)), float(np.log10(high))]
    colours = even_stops(DIVERGING if scale == "signed" else SEQUENTIAL)
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": "legend",
        "x": [None],
        "y": [None],
        "hoverinfo": "skip",
        "marker": {"color": [ends[0]], "cmin": ends[0], "cmax": ends[1], "colorscale": colours, "showscale": True, "colorbar": bar},
    }  # fmt: skip


def _row_ticks(labels: Sequence[str], blocks: Sequence[str], few: bool) -> dict[str, Any]:
    if few:
        return {"tickvals": list(labels), "ticktext": list(labels), "ticks": ""}
    middles: list[tuple[str, str]] = []
    start = 0
    for i in range(1, len(blocks) + 1):
        if i == len(blocks) or blocks[i] != blocks[start]:
            middles.append((labels[(start + i - 1) // 2], plain(blocks[start])))
            start = i
    every = max(1, -(-len(middles) * 14 // max(MOST_PIXELS, LOW * len(labels))))
    kept = middles[::every]
    return {
        "tickvals": [row for row, _ in kept],
        "ticktext": [text for _, text in kept],
        "ticks": "",
    }


def _borders(blocks: Sequence[str]) -> list[dict[str, Any]]:
    """A line between blocks, in the colour of the page."""
    ends = [i for i in range(1, len(blocks)) if blocks[i] != blocks[i - 1]]
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "line": {"color": "var(--dq-surface)", "width": 1},
    }
    return [{**line, "y0": i - 0.5, "y1": i - 0.5} for i in ends]


def _every(steps: int) -> int:
    """Distance of the ticks of a step axis."""
    return next((d for d in (1, 2, 5, 10, 20, 50, 100) if steps / d <= 12), 200)


def tokens(values: np.ndarray, token_factor: int, channel_factor: int) -> Figure:
    """|x| of one sample: a row per token, a column per channel; either may be pooled."""
    colours, low, high = scaled(values, "log")
    return {
        "data": [
            {
                "type": "heatmap",
                "name": "|x|",
                "x": [i * channel_factor for i in range(values.shape[1])],
                "y": [i * token_factor for i in range(values.shape[0])],
                "z": packed(values),
                "colorscale": colours,
                "zmin": low,
                "zmax": high,
                "showscale": False,
                "hovertemplate": "channel %{x}, token %{y}<br>|x| up to <b>%{z:.4g}</b><extra></extra>",
            },
            legend("log", low, high, "|x|"),
        ],
        "layout": layout(
            showlegend=False,
            margin={"l": 52, "r": 8, "t": 8, "b": 46},
            xaxis=axis("channel", showgrid=False),
            yaxis=axis("token", showgrid=False, autorange="reversed"),
        ),
    }
