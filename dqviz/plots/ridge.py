"""How something changes over the steps: one ridge per step, or lines with bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import SignedLog, log_ticks, packed, short
from .histogram import reach
from .theme import Figure, axis, layout, plain

MOST_RIDGES = 26
OVERLAP = 2.2  # a ridge may reach so many rows high


def figure(
    counts: np.ndarray, edges: np.ndarray, timesteps: Sequence[float], chosen: int
) -> Figure:
    """Histograms [steps, bins] above one another, noisiest on top, the chosen step filled."""
    steps = shown_steps(len(timesteps), chosen)
    low, high = reach(list(counts), edges)
    total = counts.sum(1, keepdims=True)
    share = counts / np.maximum(total, 1)
    middle = counts.shape[1] // 2
    sides = (counts[:, middle + 1 :] + counts[:, :middle][:, ::-1]).sum(0)
    first = int(np.searchsorted(sides.cumsum() / max(int(sides.sum()), 1), 0.01))
    smallest = 10.0 ** np.floor(np.log10(edges[middle + 1 + min(first, len(sides) - 1)]))
    place = SignedLog(float(smallest), max(-low, high))
    inside = np.flatnonzero((edges[1:] > low) & (edges[:-1] < high))
    inside = inside[np.abs((edges[inside] + edges[inside + 1]) / 2) >= smallest]
    at = place((edges[inside] + edges[inside + 1]) / 2)
    tallest = float(share[:, inside].max()) or 1.0
    rows = {step: i for i, step in enumerate(reversed(steps))}  # from the bottom
    x: list[np.ndarray] = []
    y: list[np.ndarray] = []
    gap = np.array([np.nan])
    for step in steps:
        x += [at, gap]
        y += [rows[step] + share[step, inside] / tallest * OVERLAP, gap]
    top = rows[chosen] + share[chosen, inside] / tallest * OVERLAP
    labelled = steps[:: max(1, len(steps) // 9)]
    if chosen not in labelled:
        near = 1 + len(steps) // 18
        labelled = [s for s in labelled if abs(rows[s] - rows[chosen]) > near] + [chosen]
    ends = [float(place(low)), float(place(high))]
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": "every step",
                "x": packed(np.concatenate(x)),
                "y": packed(np.concatenate(y)),
                "hoverinfo": "skip",
                "line": {"width": 1, "color": "var(--dq-muted)"},
                "opacity": 0.75,
            },
            {
                "type": "scatter",
                "mode": "lines",
                "name": "chosen step",
                "x": packed(np.concatenate([at, at[::-1]])),
                "y": packed(np.concatenate([top, np.full(len(at), rows[chosen])])),
                "hoverinfo": "skip",
                "fill": "toself",
                "fillcolor": "rgba(0,99,178,0.35)",
                "line": {"width": 1.8, "color": "var(--run-1)"},
            },
        ],
        "layout": layout(
            showlegend=False,
            margin={"l": 60, "r": 12, "t": 8, "b": 44},
            xaxis=axis("value, logarithmic both ways", range=ends, **place.ticks()),
            yaxis=axis(
                "step",
                showgrid=False,
                range=[-0.6, len(steps) - 1 + OVERLAP],
                tickvals=[rows[s] for s in labelled],
                ticktext=[f"<b>{s}</b>" if s == chosen else str(s) for s in labelled],
            ),
            # Row from the bottom -> step, for clicks; the counts themselves, for files: what is
            # drawn is scaled and moved.
            meta={"steps": steps[::-1], "exported": [_counted(counts[steps], edges, steps)]},
        ),
    }


def _counted(counts: np.ndarray, edges: np.ndarray, steps: Sequence[int]) -> dict[str, Any]:
    """Counts [steps, bins] over the bins that any step fills, by the bin's middle and the step."""
    filled = np.flatnonzero(counts.sum(0))
    middles = (edges[filled] + edges[filled + 1]) / 2
    return {
        "name": "count by value (x: middle of the bin) and step (y)",
        "x": packed(middles),
        "y": list(steps),
        "z": packed(counts[:, filled]),
    }


def shown_steps(count: int, chosen: int) -> list[int]:
    """At most MOST_RIDGES steps, evenly spread, the chosen one in place of its neighbour."""
    if count <= MOST_RIDGES:
        return list(range(count))
    spread = np.unique(np.linspace(0, count - 1, MOST_RIDGES).round().astype(int))
    spread[np.abs(spread - chosen).argmin()] = chosen
    return [int(s) for s in spread]


def lines(
    series: Sequence[tuple[str, np.ndarray, str]],
    timesteps: Sequence[float],
    chosen: int,
    title: str,
    logarithmic: bool,
) -> Figure:
    """One line per guidance branch over the steps: name, values [steps], colour."""
    data = [_line(name, values, colour, timesteps) for name, values, colour in series]
    every = np.concatenate([values for _, values, _ in series])
    ends = (float(np.nanmin(every)), float(np.nanmax(every))) if logarithmic else None
    return {"data": data, "layout": _over_steps(len(timesteps), chosen, title, ends, len(series) > 1)}  # fmt: skip


def spread(rows: np.ndarray, timesteps: Sequence[float], chosen: int) -> Figure:
    """How the abs-max of rows [steps, k] spreads: median, middle 80 %, smallest and largest."""
    least, tenth, middle, ninth, most = np.quantile(rows, (0, 0.1, 0.5, 0.9, 1), axis=1)
    steps = list(range(len(timesteps)))
    edge = {"type": "scatter", "mode": "lines", "x": steps, "hoverinfo": "skip"}
    said = [
        f"step {s} (timestep {t:g})<br>median {short(m)}, most rows {short(a)} to {short(b)}, largest {short(c)}"
        for s, t, a, m, b, c in zip(steps, timesteps, tenth, middle, ninth, most)
    ]
    thin = {"width": 1, "color": "var(--dq-muted)", "dash": "dot"}
    data = [
        {**edge, "name": "smallest", "y": packed(least), "line": thin, "showlegend": False},
        {**edge, "name": "10 %", "y": packed(tenth), "line": {"width": 0}, "showlegend": False},
        {**edge, "name": "8 of 10 rows", "y": packed(ninth), "line": {"width": 0}, "fill": "tonexty", "fillcolor": "rgba(0,99,178,0.22)"},
        {**edge, "name": "smallest, largest", "y": packed(most), "line": thin},
        {**edge, "name": "median row", "y": packed(middle), "text": said, "hoverinfo": "all", "hovertemplate": "%{text}<extra></extra>", "line": {"width": 2, "color": "var(--run-1)"}},
    ]  # fmt: skip
    low, high = float(least.min()), float(most.max())
    ends = (low, high) if low > 0 and high / low > 20 else None
    return {"data": data, "layout": _over_steps(len(steps), chosen, "largest |x| of a row", ends, True)}  # fmt: skip


def _line(name: str, values: np.ndarray, colour: str, timesteps: Sequence[float]) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(name),
        "x": list(range(len(values))),
        "y": packed(values),
        "text": [f"timestep {t:g}" for t in timesteps],
        "hovertemplate": "%{fullData.name}, step %{x} (%{text})<br><b>%{y:.4g}</b><extra></extra>",
        "line": {"width": 2, "color": colour},
        "marker": {"size": 4},
    }


def _over_steps(
    steps: int, chosen: int, title: str, ends: tuple[float, float] | None, legend: bool
) -> dict[str, Any]:
    here = {"type": "line", "yref": "paper", "x0": chosen, "x1": chosen, "y0": 0, "y1": 1, "layer": "below", "line": {"width": 7, "color": "var(--dq-accent-soft)"}}  # fmt: skip
    return layout(
        showlegend=legend,
        margin={"l": 60, "r": 12, "t": 8, "b": 44},
        hovermode="x",
        xaxis=axis("step, noisiest first", range=[-0.5, steps - 0.5], showgrid=False),
        yaxis=axis(
            plain(title),
            **({"type": "log", **log_ticks(*ends)} if ends else {"tickformat": "~g", "nticks": 6}),
        ),
        shapes=[here],
    )
