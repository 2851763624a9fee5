"""Tokens x channels as a landscape: what stands out of the plain is an outlier."""

from __future__ import annotations

import numpy as np

from .arrays import SEQUENTIAL, even_stops, packed
from .theme import Figure, layout

MOST_CELLS = 64  # a side: software renderers draw so many within a second


def pooled(values: np.ndarray, most: int = MOST_CELLS) -> tuple[np.ndarray, int, int]:
    """Largest of every tile, so that at most `most` x `most` are left, with the size of a tile."""
    rows, columns = (-(-side // most) for side in values.shape)
    lines = np.maximum.reduceat(values, np.arange(0, values.shape[0], rows), axis=0)
    tiles = np.maximum.reduceat(lines, np.arange(0, values.shape[1], columns), axis=1)
    return tiles, rows, columns


def figure(values: np.ndarray, token_factor: int, channel_factor: int) -> Figure:
    """|x| [tokens', channels'] as a surface; its height is linear, as the integers see it."""
    tiles, rows, columns = pooled(values)
    axis = {"backgroundcolor": "rgba(0,0,0,0)", "gridcolor": "var(--dq-line)", "color": "var(--dq-muted)", "showspikes": False}  # fmt: skip
    return {
        "data": [
            {
                "type": "surface",
                "name": "|x|",
                "x": [i * channel_factor * columns for i in range(tiles.shape[1])],
                "y": [i * token_factor * rows for i in range(tiles.shape[0])],
                "z": packed(tiles),
                "colorscale": even_stops(SEQUENTIAL),
                "showscale": False,
                "lighting": {"ambient": 0.75, "diffuse": 0.5, "specular": 0.05},
                "contours": {k: {"highlight": False} for k in ("x", "y", "z")},
                "hovertemplate": "channel %{x}, token %{y}<br>|x| up to <b>%{z:.4g}</b><extra></extra>",
            }
        ],
        "layout": layout(
            margin={"l": 0, "r": 0, "t": 0, "b": 0},
            scene={
                "xaxis": {**axis, "title": {"text": "channel"}},
                "yaxis": {**axis, "title": {"text": "token"}, "autorange": "reversed"},
                "zaxis": {**axis, "title": {"text": "|x|"}, "rangemode": "tozero"},
                "aspectratio": {"x": 1.6, "y": 1.1, "z": 0.7},
                "camera": {"eye": {"x": -1.25, "y": -1.45, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.12}},
            },
        ),
    }  # fmt: skip
