"""Error along the trajectory: one colour per run, solid free-running, dotted teacher-forced."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .theme import Figure, axis, layout, plain, run_colour, run_symbol

MOST_TICKS = 12
Series = Sequence[float | None]


def figure(runs: Sequence[tuple[int, str, Mapping[str, Any]]]) -> Figure:
    """Lines over steps of (run index, name, drift); `customdata` is the step that a click chooses."""
    data: list[Figure] = []
    steps = max((len(d["timesteps"]) for _, _, d in runs), default=1)
    for index, name, drift in runs:
        data += [
            _line(index, name, drift["free_running"], drift, dash=None),
            _line(
                index,
                f"{name}, one step alone",
                drift["teacher_forced"]["guided"],
                drift,
                dash="dot",
            ),
        ]
    errors = [v for trace in data for v in trace["y"] if v]
    own = {"type": "log", **decades(min(errors), max(errors))} if errors else {"type": "linear"}
    return {
        "data": data,
        "layout": layout(
            xaxis=axis("step, noisiest first", range=[-0.4, steps + 0.4], dtick=_tick(steps)),
            yaxis=axis("relative error", tickformat="~g", **own),
        ),
    }


def _line(
    index: int, name: str, values: Series, drift: Mapping[str, Any], dash: str | None
) -> Figure:
    """A trace; zeros become gaps, since a logarithmic axis has no place for them."""
    times = [f"timestep {t:g}" for t in drift["timesteps"]] + ["final latents"]
    return {
        "type": "scatter",
        "mode": "lines+markers" if dash is None else "lines",
        "name": plain(name),
        "legendgroup": str(index),
        "showlegend": dash is None,
        "x": list(range(len(values))),
        "y": [v if v else None for v in values],
        "customdata": list(range(len(values))),
        "text": times[: len(values)],
        "hovertemplate": "%{fullData.name}<br>step %{x} (%{text})<br>%{y:.4g}<extra></extra>",
        "line": {"color": run_colour(index), "width": 2, **({"dash": dash} if dash else {})},
        "marker": {"symbol": run_symbol(index), "size": 5},
        "connectgaps": False,
    }


def decades(low: float, high: float) -> dict[str, Any]:
    """Range and labels of a logarithmic axis over positive numbers: 1, 2 and 5 of each decade, of many decades 1 alone.

    Plotly labels an axis of less than a decade once or not at all; here two labels are always in its range.
    """
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    ticks = [float(f"{m}e{k}") for k in range(first - 1, last + 2) for m in (1, 2, 5)]
    pad = 0.06 * max(math.log10(high / low), 0.3)
    bottom, top = math.log10(low) - pad, math.log10(high) + pad
    if sum(bottom <= math.log10(t) <= top for t in ticks) < 2:  # out to the labels on either side
        bottom = min(bottom, math.log10(max(t for t in ticks if t < low)) - pad)
        top = max(top, math.log10(min(t for t in ticks if t > high)) + pad)
    inside = [t for t in ticks if bottom <= math.log10(t) <= top]
    if len(inside) > MOST_TICKS:
        inside = [t for t in inside if f"{t:e}".startswith("1.")]
    return {"range": [bottom, top], "tickvals": inside, "ticktext": [f"{t:g}" for t in inside]}


def _tick(steps: int) -> int:
    return max(1, round(steps / 10))
