"""Learning over its steps: losses on a logarithmic axis, and what was decided, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .arrays import log_ticks, packed
from .theme import Figure, axis, layout, plain, run_colour

NAMED = 8  # parts that get their name above the figure; of more, blocks do, or every so many
ROOM = 0.05  # share of the steps that a name needs
SPARSE = 8  # points of a part; of fewer, each is marked
FADED = 300  # times below its largest value in a part, a loss may leave the figure
ROW = 20  # pixels of a row of bars
LINE = 19  # of a name in a legend
MARGIN = {"l": 60, "r": 12, "t": 8, "b": 44}


def losses(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    parts: Sequence[tuple[str, int, int]],
    steps: int,
    dashed: Sequence[str] = (),
) -> Figure:
    """Losses by name over the steps; from one part to the next a line is broken.

    Args:
        curves: name -> (step, value); what is not positive is a gap.
        parts: name, first and last step of each.
        steps: in all.
        dashed: names that are drawn dashed.
    """
    data = []
    others = [name for name in curves if name != "loss" and name not in dashed]
    for name, points in curves.items():
        # A colour is a name's from the first step on, whatever else is told later.
        number = 1 if name == "loss" else 2 if name in dashed else 3 + others.index(name)
        colour = run_colour(number)
        x, y = _broken(points, [first for _, first, _ in parts[1:]])
        sparse = len(points) < SPARSE * len(parts)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if sparse else "lines",
                "name": plain(name.replace("_", " ")),
                "x": x,
                "y": packed(y),
                "line": {"width": 3 if name == "loss" else 1.6, "color": colour, "dash": "dash" if name in dashed else "solid"},
                "marker": {"size": 5, "color": colour},
                "hovertemplate": "%{fullData.name}, step %{x}: <b>%{y:.4g}</b><extra></extra>",
            }
        )  # fmt: skip
    least, most = _ends(curves, parts)
    return {
        "data": data,
        "layout": layout(
            margin={**MARGIN, "t": 26},
            legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
            xaxis=axis("step", showgrid=False, range=[-0.5, max(steps, 1) - 0.5]),
            yaxis=axis("loss", type="log", range=[float(np.log10(v)) for v in (least, most)], **log_ticks(least, most)),
            shapes=[
                {"type": "line", "x0": first - 0.5, "x1": first - 0.5, "yref": "y domain", "y0": 0, "y1": 1, "line": {"width": 1, "color": "var(--dq-muted)", "dash": "dot"}}
                for _, first, _ in parts[1:]
            ],
            annotations=[
                {"text": plain(name), "x": first, "xanchor": "left", "yref": "y domain", "y": 1, "yanchor": "bottom", "showarrow": False, "font": {"size": 11, "color": "var(--dq-muted)"}}
                for name, first in _named(parts, steps)
            ],
        ),
    }  # fmt: skip


def _broken(
    points: Sequence[tuple[int, float]], borders: Sequence[int]
) -> tuple[list[int], np.ndarray]:
    """Steps and values, with a gap at every border."""
    x: list[int] = []
    y: list[float] = []
    for step, value in points:
        if x and any(x[-1] < border <= step for border in borders):
            x.append(step)
            y.append(np.nan)
        x.append(step)
        y.append(value if value > 0 else np.nan)
    return x, np.array(y, float)


def _named(parts: Sequence[tuple[str, int, int]], steps: int) -> list[tuple[str, int]]:
    """Names to write down and where: of parts with room, or of their blocks where those are fewer."""
    found = [(name, first) for name, first, _ in parts]
    if len(found) > NAMED:
        blocks = [(name.partition(" · ")[0], first) for name, first in found]
        found = [own for k, own in enumerate(blocks) if k == 0 or own[0] != blocks[k - 1][0]]
    found = found[:: -(-len(found) // NAMED)] if found else []
    ends = [first for _, first in found[1:]] + [steps]
    return [own for own, end in zip(found, ends, strict=True) if end - own[1] >= ROOM * steps]


def _ends(
    curves: Mapping[str, Sequence[tuple[int, float]]], parts: Sequence[tuple[str, int, int]]
) -> tuple[float, float]:
    """Ends of the axis: losses in full, but for one that fades away to nothing inside a part."""
    every = [
        [value for step, value in points if first <= step <= last and value > 0]
        for points in curves.values()
        for _, first, last in parts
    ]
    known = [values for values in every if values] or [[1.0]]
    least = min(max(min(values), max(values) / FADED) for values in known)
    return least * 0.85, max(max(values) for values in known) * 1.2


def rows_height(rows: int) -> int:
    """Pixels for so many bars above one another."""
    return 70 + ROW * max(rows, 2)


def bars(
    labels: Sequence[str],
    series: Sequence[tuple[str, Sequence[float | None]]],
    title: str,
    *,
    stacked: bool = False,
    log: bool = False,
    hover: str = "%{x:.3g}",
) -> Figure:
    """Bars of every layer or unit, one colour per series; on a logarithmic axis points instead.

    Args:
        labels: of the rows, from the top.
        series: name and values.
        title: of the values.
        stacked: whether the series add up.
        log: whether the axis is logarithmic.
        hover: a value, in Plotly's words.
    """
    names = [plain(label) for label in labels]
    data = []
    for k, (name, values) in enumerate(series):
        colour = run_colour(k + 1)
        shape: dict[str, Any] = {"type": "bar", "orientation": "h", "marker": {"color": colour}}
        if log:
            symbol = ("circle-open", "circle", "diamond", "square", "x")[k % 5]
            shape = {"type": "scatter", "mode": "markers", "cliponaxis": False, "marker": {"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2, "color": colour}}}  # fmt: skip
        data.append({**shape, "name": plain(name), "y": names, "x": list(values), "hovertemplate": f"%{{y}}<br>%{{fullData.name}}: <b>{hover}</b><extra></extra>"})  # fmt: skip
    known = [v for _, values in series for v in values if v is not None and v > 0]
    ends = log_ticks(min(known), max(known)) if log and known else {}
    return {
        "data": data,
        "layout": layout(
            margin={"l": 8, "r": 14, "t": 30 if len(series) > 1 else 8, "b": 44},
            showlegend=len(series) > 1,
            legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
            barmode="stack" if stacked else "group",
            bargap=0.3,
            xaxis=axis(title, **({"type": "log", **ends} if log else {"rangemode": "tozero"})),
            yaxis=axis("", type="category", autorange="reversed", automargin=True, showgrid=False, tickvals=names, ticks="", categoryorder="array", categoryarray=names),
        ),
    }  # fmt: skip


def moved(labels: Sequence[str], before: Sequence[float], after: Sequence[float | None], names: tuple[str, str], title: str, log: bool = False) -> Figure:  # fmt: skip
    """From where to where each row went: a line between two points; where the second is not known, the first."""
    series = [own for own in zip(names, (before, after)) if any(v is not None for v in own[1])]
    found = bars(labels, series, title, log=True)
    line_x: list[float | None] = []
    line_y: list[str | None] = []
    for label, a, b in zip(labels, before, after, strict=True):
        line_x += [a, b, None]
        line_y += [plain(label), plain(label), None]
    path = {"type": "scatter", "mode": "lines", "name": "way", "x": line_x, "y": line_y, "hoverinfo": "skip", "showlegend": False, "line": {"width": 2, "color": "var(--dq-line)"}}  # fmt: skip
    if not log:
        found["layout"]["xaxis"] = axis(title)
    return {**found, "data": [path, *found["data"]]}


def uses(counts: Sequence[float]) -> Figure:
    """How often codewords are used, most used first, means of equal groups; a line where all would be used alike."""
    wide = 100 / len(counts)
    even = sum(counts) / len(counts)
    return {
        "data": [
            {
                "type": "bar",
                "name": "uses",
                "x": [wide * (k + 0.5) for k in range(len(counts))],
                "y": list(counts),
                "width": wide,
                "marker": {"color": "var(--run-1)", "line": {"width": 0}},
                "hovertemplate": "at %{x:.0f} % of the codebook: <b>%{y:.4g}</b> sub-vectors<extra></extra>",
            },
            {
                "type": "scatter",
                "mode": "lines",
                "name": "used alike",
                "x": [0, 100],
                "y": [even, even],
                "hoverinfo": "skip",
                "line": {"width": 1.6, "color": "var(--run-2)", "dash": "dash"},
            },
        ],
        "layout": layout(
            showlegend=False,
            bargap=0,
            margin=MARGIN,
            xaxis=axis("% of the codebook, most used first", showgrid=False, range=[0, 100]),
            yaxis=axis("sub-vectors per codeword", rangemode="tozero"),
        ),
    }  # fmt: skip


def ranges(
    lines: Sequence[tuple[str, Sequence[float], Sequence[float]]], chosen: int | None = None
) -> Figure:
    """Largest and smallest value over the steps, one pair of lines per layer: name, low, high."""
    data, steps = [], max((len(high) for _, _, high in lines), default=0)
    for k, (name, low, high) in enumerate(lines):
        own = k == chosen
        colour = "var(--run-1)" if own else "var(--dq-muted)"
        for end, values in (("largest", high), ("smallest", low)):
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": plain(f"{name}, {end}"),
                    "meta": k,
                    "x": list(range(len(values))),
                    "y": list(values),
                    "opacity": 1 if own or chosen is None else 0.55,
                    "line": {"width": 2.6 if own else 1.1, "color": colour},
                    "hovertemplate": "%{fullData.name}, step %{x}: <b>%{y:.4g}</b><extra></extra>",
                }
            )
    return {
        "data": data,
        "layout": layout(
            showlegend=False,
            margin=MARGIN,
            xaxis=axis(
                "step, noisiest first", showgrid=False, **({"dtick": 1} if steps <= 12 else {})
            ),
            yaxis=axis("value after the GELU", zeroline=True, tickformat="~g"),
        ),
    }


def channels(ranges: np.ndarray, outliers: np.ndarray, factors: np.ndarray) -> Figure:
    """Range of every channel, widest first, with outliers marked and where their factors bring them.

    Args:
        ranges: largest less smallest value of every channel, [c].
        outliers: channels, [k].
        factors: of every channel, [c]; 1 where it is left alone.
    """
    order = np.argsort(-ranges, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(1, len(order) + 1)
    after = ranges / factors
    divided = np.flatnonzero(factors > 1)
    data: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "before",
            "x": packed(np.arange(1, len(order) + 1)),
            "y": packed(np.where(ranges > 0, ranges, np.nan)[order]),
            "customdata": order.tolist(),
            "line": {"width": 2, "color": "var(--run-1)"},
            "hovertemplate": "channel %{customdata}: <b>%{y:.4g}</b><extra></extra>",
        }
    ]
    if len(divided):
        ways = np.stack([ranges[divided], after[divided], np.full(len(divided), np.nan)], 1)
        data.append({"type": "scatter", "mode": "lines", "name": "way", "x": packed(np.repeat(place[divided], 3)), "y": packed(ways.ravel()), "hoverinfo": "skip", "showlegend": False, "line": {"width": 1.2, "color": "var(--dq-muted)"}})  # fmt: skip
        data.append(_marks("after migration", "circle", "var(--run-3)", place, after, divided, factors))  # fmt: skip
    if len(outliers):
        data.append(_marks("outlier channel", "circle-open", "var(--run-2)", place, ranges, outliers, factors))  # fmt: skip
    known = np.concatenate([ranges[ranges > 0], after[after > 0]])
    ticks = log_ticks(float(known.min()), float(known.max())) if known.size else {}
    counts = [n for n in (1, 3, 10, 30, 100, 300, 1000, 3000, 10000) if n <= len(order)]
    return {
        "data": data,
        "layout": layout(
            margin={**MARGIN, "t": 30},
            xaxis=axis("channels, widest first, logarithmic", type="log", showgrid=False, tickvals=counts, ticktext=[str(n) for n in counts]),
            yaxis=axis("range of the channel", type="log", **ticks),
        ),
    }  # fmt: skip


def _marks(
    name: str,
    symbol: str,
    colour: str,
    place: np.ndarray,
    values: np.ndarray,
    chosen: np.ndarray,
    factors: np.ndarray,
) -> Figure:
    """Points of some channels."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": place[chosen].tolist(),
        "y": [float(v) for v in values[chosen]],
        "customdata": np.stack([chosen, factors[chosen]], 1).tolist(),
        "marker": {"color": colour, "symbol": symbol, "size": 8, "line": {"width": 2, "color": colour}},
        "hovertemplate": "channel %{customdata[0]}, %{fullData.name}: <b>%{y:.4g}</b>, factor %{customdata[1]}<extra></extra>",
    }  # fmt: skip


def small(figure: Figure, height: int, most: int = 4) -> dict[str, Any]:
    """For small screens: fewer ticks along the values, and height for a legend in as many lines as it has names.

    Side by side they hardly fit; wrapped, they would lie over the rows.

    Args:
        figure: with a legend above its rows.
        height: of the figure where there is room, pixels.
        most: ticks.
    """
    names = [trace for trace in figure["data"] if trace.get("showlegend", True)]
    above = LINE * (len(names) + 1) if len(names) > 1 else 0
    margin = figure["layout"]["margin"]
    changed: Figure = {"margin": {**margin, "t": above + 8}}
    if above:
        changed["legend"] = {"orientation": "h", "x": 0, "xref": "container", "y": 1, "yref": "container", "yanchor": "top", "traceorder": "normal"}  # fmt: skip
    x = figure["layout"]["xaxis"]
    if values := list(x.get("tickvals") or []):
        every = max(1, -(-len(values) // most))
        changed["xaxis"] = {**x, "tickvals": values[::every], "ticktext": x["ticktext"][::every]}
    return {"narrow": changed, "narrow_height": height + above + 8 - margin["t"]}
