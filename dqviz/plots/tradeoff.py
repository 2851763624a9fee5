"""What a choice saves against what it costs: a line over thresholds, each point a threshold to take."""

from __future__ import annotations

from collections.abc import Sequence

from .theme import Figure, axis, layout, plain


def figure(
    points: Sequence[tuple[float, float, float]], saved: str, cost: str, threshold: str
) -> Figure:
    """`points`: what is saved and what is lost, both as shares, and the threshold of it.

    The second trace is empty: the page puts the chosen point there.
    """
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plain(cost),
                "x": [100 * s for s, _, _ in points],
                "y": [100 * c for _, c, _ in points],
                "customdata": [t for _, _, t in points],
                "line": {"color": "var(--run-1)", "width": 2},
                "marker": {"size": 5},
                "hovertemplate": f"{plain(threshold)} %{{customdata:.4g}}<br>saves %{{x:.2f}} %, {plain(cost)} %{{y:.3g}} %<extra></extra>",
            },
            {
                "type": "scatter",
                "mode": "markers",
                "name": "chosen",
                "x": [],
                "y": [],
                "hoverinfo": "skip",
                "cliponaxis": False,
                "marker": {"size": 13, "symbol": "circle-open", "color": "var(--run-2)", "line": {"width": 3}},
            },
        ],
        "layout": layout(
            showlegend=False,
            margin={"l": 56, "r": 12, "t": 8, "b": 46},
            xaxis=axis(f"{saved} saved, %", rangemode="tozero"),
            yaxis=axis(f"{cost}, %", rangemode="tozero"),
        ),
    }  # fmt: skip
