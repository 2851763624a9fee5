"""Closeness to full precision frame by frame: one line per run."""

from __future__ import annotations

from collections.abc import Sequence

from .theme import Figure, axis, layout, plain, run_colour, run_symbol


def figure(runs: Sequence[tuple[int, str, Sequence[float | None]]], title: str) -> Figure:
    """Lines over frames of (run index, name, value of each frame or None); frames count from 1."""
    frames = max((len(values) for _, _, values in runs), default=1)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plain(name),
                "x": list(range(1, len(values) + 1)),
                "y": list(values),
                "hovertemplate": "%{fullData.name}<br>frame %{x}<br>%{y:.4g}<extra></extra>",
                "line": {"color": run_colour(index), "width": 2},
                "marker": {"symbol": run_symbol(index), "size": 5},
                "connectgaps": False,
            }
            for index, name, values in runs
        ],
        "layout": layout(
            xaxis=axis("frame", range=[0.6, frames + 0.4], dtick=max(1, round(frames / 12))),
            yaxis=axis(title),
        ),
    }
