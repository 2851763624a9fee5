"""Error along the trajectory: one colour per run, solid free-running, dotted teacher-forced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .theme import Figure, axis, layout, plain, run_colour, run_symbol

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
    log = any(_positive(trace["y"]) for trace in data)
    return {
        "data": data,
        "layout": layout(
            xaxis=axis("step, noisiest first", range=[-0.4, steps + 0.4], dtick=_tick(steps)),
            yaxis=axis(
                "relative error",
                type="log" if log else "linear",
                tickformat="~g",
                dtick="D2" if log else None,
            ),
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


def _positive(values: Series) -> bool:
    return any(v for v in values)


def _tick(steps: int) -> int:
    return max(1, round(steps / 10))
