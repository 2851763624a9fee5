"""The error of one input over alpha: curves with their split, levels without a scale, what is set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arrays import log_ticks
from .theme import Figure, axis, layout, plain

PARTS = {"error": "solid", "weight": "dot", "activation": "dash"}
WIDTHS = {"error": 2.4, "weight": 1.3, "activation": 1.3}


def curve(
    alphas: Sequence[float],
    curves: Mapping[str, tuple[str, Mapping[str, Sequence[float]]]],
    levels: Mapping[str, tuple[str, float]],
    set_to: float | None,
    split: bool,
) -> Figure:
    """Errors in per cent over alpha.

    Args:
        alphas: of the points.
        curves: name -> colour, and errors by part: error, weight, activation.
        levels: name -> colour, and an error that no alpha enters.
        set_to: alpha that is set for this input, drawn as a line.
        split: whether the parts are drawn.
    """
    data: list[Figure] = []
    every = [e for _, e in levels.values()]
    for name, (colour, parts) in curves.items():
        for part in PARTS if split else ("error",):
            values = list(parts[part])
            every += values
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if part == "error" else "lines",
                    "name": plain(name if part == "error" else f"{name}: {part} alone"),
                    "x": list(alphas),
                    "y": values,
                    "line": {"width": WIDTHS[part], "dash": PARTS[part], "color": colour},
                    "marker": {"size": 7},
                    "showlegend": part == "error",
                    "hovertemplate": "%{fullData.name}<br>alpha %{x}: <b>%{y:.3g} %</b><extra></extra>",
                }
            )
        least = min(range(len(alphas)), key=lambda k: parts["error"][k])
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(f"{name}: least"),
                "showlegend": False,
                "x": [alphas[least]],
                "y": [parts["error"][least]],
                "hoverinfo": "skip",
                "marker": {"size": 15, "symbol": "circle-open", "color": colour, "line": {"width": 2}},
            }
        )  # fmt: skip
    for name, (colour, level) in levels.items():
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": plain(name),
                "x": [alphas[0] - 0.05, alphas[-1] + 0.05],
                "y": [level, level],
                "line": {"width": 1.6, "dash": "longdashdot", "color": colour},
                "hovertemplate": "%{fullData.name}: <b>%{y:.3g} %</b><extra></extra>",
            }
        )
    low, high = min(every), max(every)
    return {
        "data": data,
        "layout": layout(
            margin={"l": 58, "r": 12, "t": 8, "b": 44},
            legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11.5}},
            xaxis=axis("alpha: share moved into the weight", range=[alphas[0] - 0.05, alphas[-1] + 0.05], showgrid=False, dtick=0.1),
            yaxis=axis("output error, %", type="log", **log_ticks(low, high)),
            shapes=[] if set_to is None else [_marker(set_to)],
        ),
    }  # fmt: skip


def _marker(alpha: float) -> dict[str, Any]:
    """A band at the alpha that is set."""
    return {"type": "line", "yref": "paper", "x0": alpha, "x1": alpha, "y0": 0, "y1": 1, "layer": "below", "line": {"width": 9, "color": "var(--dq-accent-soft)"}}  # fmt: skip
