"""Errors of windows over the steps: a level line per way to cut them, on any of three axes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from .theme import Figure, axis, layout, plain

# Of the ways to cut, so that colour is never the only difference.
DASHES = ("solid", "dash", "dashdot", "dot")
COLOURS = ("var(--run-0)", "var(--run-3)", "var(--run-4)", "var(--run-5)")
AXES = {
    "step": "step, noisiest first",
    "timestep": "timestep, noisiest first",
    "snr": "log signal-to-noise, noisiest first",
}


def edges(places: Sequence[float]) -> list[float]:
    """Where steps meet on an axis, and its two ends: halfway between neighbours, [steps + 1]."""
    if len(places) == 1:
        return [places[0] - 0.5, places[0] + 0.5]
    inner = [(a + b) / 2 for a, b in itertools.pairwise(places)]
    first, last = places[0] - (inner[0] - places[0]), places[-1] + (places[-1] - inner[-1])
    return [first, *inner, last]


def figure(ways: Sequence[tuple[str, Sequence[tuple[int, int, float]]]], steps: int) -> Figure:
    """Levels over the step axis; the last trace is empty: the page draws the chosen windows there.

    Args:
        ways: name of a way to cut, and of each of its windows first step, end, error.
        steps: of the sampler.
    """
    data: list[Figure] = [
        _levels(name, windows, COLOURS[i % 4], DASHES[i % 4], 1.6)
        for i, (name, windows) in enumerate(ways)
    ]
    data.append(_levels("your windows", [], "var(--run-1)", "solid", 3.5))
    return {
        "data": data,
        "layout": layout(
            showlegend=False,  # the page has it below, where borders do not cover it
            margin={"l": 60, "r": 16, "t": 30, "b": 46},
            xaxis=axis(AXES["step"], range=[-0.5, steps - 0.5], showgrid=False),
            yaxis=axis("output error, %"),
        ),
    }


def _levels(
    name: str, windows: Sequence[tuple[int, int, float]], colour: str, dash: str, width: float
) -> Figure:
    """A trace with one level for each window, broken between them; x are places between steps."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for first, end, error in windows:
        said = f"step {first}" if end == first + 1 else f"steps {first} to {end - 1}"
        x += [first - 0.5, end - 0.5, None]
        y += [error, error, None]
        text += [said, said, ""]
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "name": plain(name),
        "x": x,
        "y": y,
        "text": text,
        "line": {"color": colour, "width": width, "dash": dash},
        "hovertemplate": "%{fullData.name}, %{text}: <b>%{y:.3g} %</b><extra></extra>",
    }
    return trace
