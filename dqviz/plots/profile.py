"""Channels one by one: from the smallest to the largest value, with mean and spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .arrays import log_ticks, packed
from .theme import Figure, axis, layout, plain

MOST_POINTS = 768  # points of a profile, and of each of several side by side
MOST_BESIDE = 288  # of more channels, neighbours share a point: smallest, largest, mean of them
NAMED = 4  # outlier channels that get their number written beside them

Channels = Mapping[str, np.ndarray]  # minimum maximum mean second_moment, each [c]


def figure(channels: Channels, outliers: np.ndarray, by_size: bool) -> Figure:
    """One profile; outlier channels are marked, the largest of them with their number."""
    order = by_magnitude(channels) if by_size else np.arange(len(channels["minimum"]))
    return {
        "data": _traces(channels, outliers, order, "x", by_size),
        "layout": layout(
            showlegend=False,
            hovermode="x unified",
            margin={"l": 60, "r": 12, "t": 8, "b": 44},
            xaxis=axis(_channel_title(len(order), by_size), showgrid=False),
            yaxis=axis("value", zeroline=True, tickformat="~g"),
            annotations=_names(channels, outliers, order),
        ),
    }


def stages(profiles: Sequence[tuple[str, Channels, np.ndarray]]) -> Figure:
    """Profiles side by side on one scale: name, channels and outliers of each."""
    data: list[Figure] = []
    axes: dict[str, Any] = {}
    titles: list[dict[str, Any]] = []
    n = len(profiles)
    gap = 0.03
    width = (1 - gap * (n - 1)) / n
    for i, (name, channels, outliers) in enumerate(profiles):
        suffix = "" if i == 0 else str(i + 1)
        order = np.arange(len(channels["minimum"]))
        start = i * (width + gap)
        data += _traces(channels, outliers, order, f"x{suffix}", most=MOST_BESIDE)
        axes[f"xaxis{suffix}"] = axis(
            "channel", showgrid=False, tickvals=[0, len(order) // 2], domain=[start, start + width]
        )
        titles.append(
            {"text": f"<b>{plain(name)}</b>", "x": start, "xanchor": "left", "xref": "paper", "y": 1, "yanchor": "bottom", "yref": "paper", "showarrow": False}
        )  # fmt: skip
    return {
        "data": data,
        "layout": layout(
            margin={"l": 60, "r": 12, "t": 30, "b": 44},
            showlegend=False,
            yaxis=axis("value", zeroline=True, tickformat="~g"),
            annotations=titles,
            **axes,
        ),
    }


def magnitudes(series: Sequence[tuple[str, np.ndarray, str]], title: str) -> Figure:
    """Largest magnitude per channel on a logarithmic axis: name, values [c] and colour of each."""
    data = []
    for name, values, colour in series:
        pooled, factor = _pooled(values, np.maximum, MOST_POINTS)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": plain(name),
                "x": packed(np.arange(len(pooled)) * factor),
                "y": packed(np.where(pooled > 0, pooled, np.nan)),
                "line": {"width": 1.3, "color": colour},
                "hovertemplate": "%{fullData.name}, channel %{x}: <b>%{y:.4g}</b><extra></extra>",
            }
        )
    return {
        "data": data,
        "layout": layout(
            showlegend=len(series) > 1,
            margin={"l": 60, "r": 12, "t": 8, "b": 44},
            xaxis=axis(title, showgrid=False),
            yaxis=axis("largest magnitude", type="log", **_log_ticks([v for _, v, _ in series])),
        ),
    }


def _log_ticks(values: Sequence[np.ndarray]) -> dict[str, Any]:
    every = np.concatenate(list(values))
    positive = every[every > 0]
    return log_ticks(float(positive.min()), float(positive.max())) if positive.size else {}


def by_magnitude(channels: Channels) -> np.ndarray:
    """Channels from the largest |x| to the smallest."""
    return np.argsort(-np.maximum(np.abs(channels["minimum"]), np.abs(channels["maximum"])), kind="stable")  # fmt: skip


def _channel_title(count: int, by_size: bool) -> str:
    factor = -(-count // MOST_POINTS)
    title = "rank of the channel, largest first" if by_size else "channel"
    return f"{title} ({factor} to a point)" if factor > 1 else title


def _traces(
    channels: Channels,
    outliers: np.ndarray,
    order: np.ndarray,
    x: str,
    by_size: bool = False,
    most: int = MOST_POINTS,
) -> list[Figure]:
    """The range as an area, the mean with one standard deviation as lines, outliers as points."""
    low, factor = _pooled(channels["minimum"][order], np.minimum, most)
    high, _ = _pooled(channels["maximum"][order], np.maximum, most)
    mean = _averaged(channels["mean"][order], factor)
    std = np.sqrt(np.maximum(_averaged(channels["second_moment"][order], factor) - mean**2, 0))
    common = {"type": "scatter", "xaxis": x, "showlegend": False}
    line: dict[str, Any] = {
        **common,
        "mode": "lines",
        "x": packed(np.arange(len(low)) * factor),
        "hovertemplate": "%{fullData.name} <b>%{y:.3g}</b><extra></extra>",
    }
    if by_size and factor == 1:
        line["hovertemplate"] = "channel %{customdata}: " + line["hovertemplate"]
        line["customdata"] = [int(c) for c in order]
    dotted = {"width": 0.8, "color": "var(--dq-muted)", "dash": "dot"}
    traces = [
        {**line, "name": "largest", "y": packed(high), "line": {"width": 0.8, "color": "var(--run-1)"}},
        {**line, "name": "smallest", "y": packed(low), "line": {"width": 0.8, "color": "var(--run-1)"}, "fill": "tonexty", "fillcolor": "rgba(0,99,178,0.20)"},
        {**line, "name": "mean + std", "y": packed(mean + std), "line": dotted},
        {**line, "name": "mean − std", "y": packed(mean - std), "line": dotted},
        {**line, "name": "mean", "y": packed(mean), "line": {"width": 1.2, "color": "var(--dq-ink)"}},
    ]  # fmt: skip
    if outliers.size:
        place = np.argsort(order)[outliers]
        top = _extreme(channels, outliers)
        traces.append(
            {
                **common,
                "mode": "markers",
                "name": "outlier channel",
                "x": [int(p) for p in place],
                "y": [float(v) for v in top],
                "text": [f"channel {int(c)}" for c in outliers],
                "hovertemplate": "%{text} reaches <b>%{y:.4g}</b><extra></extra>",
                "marker": {"color": "var(--run-2)", "size": 6, "symbol": "circle-open", "line": {"width": 1.6}},
            }
        )  # fmt: skip
    return traces


def _extreme(channels: Channels, which: np.ndarray) -> np.ndarray:
    """Smallest or largest value of each channel, whichever is farther from 0."""
    low, high = channels["minimum"][which], channels["maximum"][which]
    return np.where(-low > high, low, high)


def _names(channels: Channels, outliers: np.ndarray, order: np.ndarray) -> list[dict[str, Any]]:
    """Numbers of the largest outlier channels, apart enough to be read."""
    place = np.argsort(order)
    written: list[tuple[float, float]] = []
    found: list[dict[str, Any]] = []
    values = _extreme(channels, outliers)
    span = float(channels["maximum"].max() - channels["minimum"].min()) or 1.0
    for channel, value in zip(outliers, values):
        at = float(place[channel]) / max(len(order), 1)
        if any(abs(at - x) < 0.09 and abs(value - y) / span < 0.16 for x, y in written):
            continue
        written.append((at, float(value)))
        found.append(
            {"text": str(int(channel)), "x": int(place[channel]), "y": float(value), "showarrow": False, "yshift": -11 if value < 0 else 11, "font": {"size": 11, "color": "var(--run-2)"}}
        )  # fmt: skip
        if len(found) == NAMED:
            break
    return found


def _pooled(values: np.ndarray, how: np.ufunc, most: int) -> tuple[np.ndarray, int]:
    """The extreme of every group of neighbours, so that at most `most` are left; how many a group has."""
    factor = -(-len(values) // most)
    return how.reduceat(values, np.arange(0, len(values), factor)), factor


def _averaged(values: np.ndarray, factor: int) -> np.ndarray:
    """The mean of every group of neighbours."""
    starts = np.arange(0, len(values), factor)
    sizes = np.diff(np.append(starts, len(values)))
    return np.add.reduceat(values.astype(np.float64), starts) / sizes
