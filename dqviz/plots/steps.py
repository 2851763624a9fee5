"""Many inputs over the steps, one panel per stage, on one logarithmic scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .arrays import log_ticks, packed
from .theme import Figure, axis, layout, plain

GAP = 0.04  # between panels, of the width


def panels(
    stages: Mapping[str, np.ndarray],
    labels: Sequence[str],
    timesteps: Sequence[float],
    floor: float,
    title: str,
) -> Figure:
    """Lines [inputs, steps] of every stage; trace i of a panel is input i, then the floor.

    Args:
        stages: title of a panel -> values; NaN is a gap.
        labels: of the inputs.
        timesteps: of the steps, for hovering.
        floor: what a Gaussian would have, drawn dotted.
        title: of the values.
    """
    ends = _ends(list(stages.values()), floor)
    said = [f"timestep {t:g}" for t in timesteps]
    data: list[Figure] = []
    for k, (stage, values) in enumerate(stages.items()):
        place = {"xaxis": f"x{k + 1 if k else ''}", "yaxis": f"y{k + 1 if k else ''}"}
        for i, label in enumerate(labels):
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": plain(f"{label}, {stage}"),
                    "x": list(range(len(timesteps))),
                    "y": packed(values[i]),
                    "text": said,
                    "meta": i,
                    "line": {"width": 1.2, "color": "var(--dq-muted)"},
                    "hovertemplate": "%{fullData.name}<br>step %{x} (%{text}): <b>%{y:.3g}</b><extra></extra>",
                    **place,
                }
            )
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "Gaussian row",
                "meta": "floor",
                "x": [-0.5, len(timesteps) - 0.5],
                "y": [floor, floor],
                "hoverinfo": "skip",
                "line": {"width": 1.4, "color": "var(--dq-good)", "dash": "dot"},
                **place,
            }
        )
    axes = _axes(list(stages), len(timesteps), ends, title, stacked=False)
    return {"data": data, "layout": layout(showlegend=False, margin={"l": 56, "r": 12, "t": 30, "b": 44}, **axes)}  # fmt: skip


def stacked(stages: Sequence[str], steps: int, every: Sequence[np.ndarray], floor: float, title: str) -> Figure:  # fmt: skip
    """The same panels above one another: what a narrow screen puts over the layout."""
    return _axes(stages, steps, _ends(every, floor), title, stacked=True)


def _ends(every: Sequence[np.ndarray], floor: float) -> tuple[float, float]:
    known = np.concatenate([v[np.isfinite(v)].ravel() for v in every] or [np.array([floor])])
    known = np.append(known[known > 0], floor)
    return float(known.min()) * 0.92, float(known.max()) * 1.12


def _axes(
    stages: Sequence[str], steps: int, ends: tuple[float, float], title: str, stacked: bool
) -> Figure:
    n = len(stages)
    size = (1 - GAP * (3 if stacked else 1) * (n - 1)) / n
    found: dict[str, Any] = {}
    titles = []
    for k, stage in enumerate(stages):
        suffix = str(k + 1) if k else ""
        start = k * (size + GAP * (3 if stacked else 1))
        across, up = ((0.0, 1.0), (1 - start - size, 1 - start)) if stacked else ((start, start + size), (0.0, 1.0))  # fmt: skip
        last = k == n - 1 or not stacked
        found[f"xaxis{suffix}"] = axis("step, noisiest first" if last else "", range=[-0.5, steps - 0.5], showgrid=False, domain=list(across), anchor=f"y{suffix}")  # fmt: skip
        found[f"yaxis{suffix}"] = axis(title if stacked or not k else "", type="log", range=[float(np.log10(e)) for e in ends], domain=list(up), anchor=f"x{suffix}", showticklabels=stacked or not k, **log_ticks(*ends))  # fmt: skip
        titles.append(
            {"text": f"<b>{plain(stage)}</b>", "x": across[0], "xanchor": "left", "xref": "paper", "y": up[1], "yanchor": "bottom", "yref": "paper", "showarrow": False}
        )  # fmt: skip
    return {**found, "annotations": titles}
