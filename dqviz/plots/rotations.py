"""A greedy rotation at work: its peak after every factor, and the blocks before and after the permutation."""

from __future__ import annotations

from collections.abc import Sequence

from .theme import Figure, axis, layout

GREEDY, SECOND, OTHER = "var(--run-1)", "var(--run-4)", "var(--run-2)"


def peaks(found: Sequence[Sequence[float]], kept: Sequence[int]) -> Figure:
    """max - min after every factor of the first rotation, then of the second, with what was kept.

    Args:
        found: of each rotation, values after 0, 1, .. factors.
        kept: of each, how many factors were kept.
    """
    data: list[Figure] = []
    start = 0
    for k, (values, best) in enumerate(zip(found, kept)):
        name = ("first rotation", "second, after the permutation")[k]
        colour = (GREEDY, SECOND)[k]
        x = list(range(start, start + len(values)))
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": x,
                "y": list(values),
                "customdata": list(range(len(values))),
                "line": {"width": 1.8, "color": colour},
                "marker": {"size": 4},
                "hovertemplate": "%{fullData.name}<br>%{customdata} factors: <b>%{y:.4g}</b><extra></extra>",
            }
        )
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "kept",
                "showlegend": k == 0,
                "x": [x[best]],
                "y": [values[best]],
                "hovertemplate": f"kept: {best} factors, <b>%{{y:.4g}}</b><extra></extra>",
                "marker": {"size": 13, "symbol": "circle-open", "color": colour, "line": {"width": 2.4}},
            }
        )  # fmt: skip
        start += len(values) + 1
    return {
        "data": data,
        "layout": layout(
            margin={"l": 56, "r": 12, "t": 8, "b": 44},
            xaxis=axis("factors tried, one rotation after the other", showgrid=False, rangemode="tozero"),
            yaxis=axis("largest less smallest value", tickformat="~g", nticks=6),
        ),
    }  # fmt: skip


def blocks(before: Sequence[float], after: Sequence[float]) -> Figure:
    """Mean largest |x| of the channels of every block, before and after the permutation."""
    x = list(range(len(before)))
    bars = (("before the permutation", before, OTHER), ("after", after, SECOND))
    return {
        "data": [
            {
                "type": "bar",
                "name": name,
                "x": x,
                "y": list(values),
                "marker": {"color": colour},
                "hovertemplate": "block %{x}, %{fullData.name}: <b>%{y:.4g}</b><extra></extra>",
            }
            for name, values, colour in bars
        ],
        "layout": layout(
            barmode="group",
            bargap=0.3,
            margin={"l": 56, "r": 12, "t": 8, "b": 44},
            xaxis=axis("block of channels", showgrid=False, dtick=max(1, len(x) // 12)),
            yaxis=axis("mean largest |x| of its channels", rangemode="tozero", tickformat="~g"),
        ),
    }
