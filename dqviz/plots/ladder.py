"""The yardstick: runs and known disturbances on one axis of decibels."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from .theme import Figure, axis, layout, plain, run_colour, run_symbol

ROW_PIXELS = 34


def figure(rows: Sequence[tuple[int | None, str, Mapping[str, Any]]]) -> Figure:
    """Points with intervals, the best on top; `rows` are (run index or None for a rung, name, psnr)."""
    placed = list(enumerate(reversed(rows)))
    rungs = [(y, name, p) for y, (index, name, p) in placed if index is None]
    data = [_points("yardstick", rungs, "var(--dq-muted)", "line-ns-open", 14)]
    for y, (index, name, psnr) in placed:
        if index is not None:
            data.append(_points(name, [(y, name, psnr)], run_colour(index), run_symbol(index), 10))
    return {
        "data": data,
        "layout": layout(
            showlegend=False,
            margin={"l": 16, "r": 16, "t": 8, "b": 44},
            xaxis=axis("PSNR to full precision (dB)"),
            yaxis=axis(
                "",
                tickvals=[y for y, _ in placed],
                ticktext=[_label(name) for _, (_, name, _) in placed],
                automargin=True,
                range=[-0.6, len(rows) - 0.4],
                showgrid=True,
            ),
        ),
    }


def narrow(figure: Figure) -> Figure:
    """What of the layout is another one on a small screen: short lines leave room, and the title fits in it."""
    xaxis, yaxis = (figure["layout"][name] for name in ("xaxis", "yaxis"))
    short = [_label(text.replace("<br>", " ").partition(" (")[0], 16) for text in yaxis["ticktext"]]
    return {
        "xaxis": {**xaxis, "title": {**xaxis["title"], "text": "PSNR (dB)"}, "nticks": 5},
        "yaxis": {**yaxis, "ticktext": short},
    }


def _label(name: str, width: int = 28) -> str:
    """A name in two lines of readable length."""
    return "<br>".join(plain(line) for line in textwrap.wrap(name, width)[:2])


def height(rows: int) -> int:
    """Pixels for so many rows."""
    return 64 + ROW_PIXELS * max(rows, 2)


def _points(
    name: str,
    points: Sequence[tuple[int, str, Mapping[str, Any]]],
    colour: str,
    symbol: str,
    size: int,
) -> Figure:
    means = [p["mean"] for _, _, p in points]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "x": means,
        "y": [y for y, _, _ in points],
        "text": [plain(label) for _, label, _ in points],
        "hovertemplate": "%{text}<br>%{x:.2f} dB<extra></extra>",
        "marker": {
            "color": colour,
            "symbol": symbol,
            "size": size,
            "line": {"width": 2, "color": colour},
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [_reach(p, "hi") for _, _, p in points],
            "arrayminus": [_reach(p, "lo") for _, _, p in points],
            "color": colour,
            "thickness": 1.5,
            "width": 0,
        },
    }


def _reach(psnr: Mapping[str, Any], end: str) -> float:
    """Distance from the mean to one end of the interval; 0 where there is none."""
    return abs(psnr[end] - psnr["mean"]) if psnr.get(end) is not None else 0.0
