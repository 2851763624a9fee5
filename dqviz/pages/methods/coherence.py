"""Whether gradients that meet in a codeword point the same way: with the codes of k-means, and now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...plots import learning as plots
from ...plots.arrays import short
from ..view import Column, Section, cell, plot, table
from .learned import block_of, drawn, grid_of, label_of
from .opened import Opened, View
from .ranks import layer_of, layer_pick
from .selection import Selection

VIEW = View("coherence", "Coherence of gradients", 40, None, keys=("layer",), learned="coherence")
LEDE = "A codebook alone learns little where the gradients of the sub-vectors that share a codeword cancel: mean cosine of pairs inside a codeword, before and after the codes were chosen anew."
HEIGHT = 240


def section(opened: Opened, chosen: Selection) -> Section:
    """A map of what was gained, and the layers of one block from k-means to now."""
    found = opened.learned
    assert found is not None
    told = found.last("coherence")
    order = [n for n in found.last("sites") if n in told] if found.has("sites") else []
    data = {n: _known(told[n]) for n in order or told}
    layer = layer_of(data, chosen)
    source = found.source(opened.study, "measured")
    gains = {n: own["now"] - own["kmeans"] for n, own in data.items()}
    beside = [n for n in data if block_of(n) == block_of(layer)]
    every = grid_of(gains, "cosine, now less k-means", "signed", HEIGHT, "coherence", f"Gain in coherence, {len(data)} layers, mean {short(sum(gains.values()) / len(gains))}", source, layer)  # fmt: skip
    ways = plot(
        f"Layers of {block_of(layer)}",
        plots.moved(
            [label_of(n).rpartition(" · ")[2] for n in beside],
            [data[n]["kmeans"] for n in beside],
            [data[n]["now"] for n in beside],
            ("k-means", "now"),
            "mean cosine",
        ),
        alt=f"Coherence with the codes of k-means and now: {', '.join(_way(n, data[n]) for n in beside)}",
        height=max(HEIGHT, plots.rows_height(len(beside))),
        source=source,
        part="coherence-block",
        raw=[{"layer": n, **data[n]} for n in beside],
    )  # fmt: skip
    return drawn(
        VIEW.title,
        LEDE,
        [found.badge("measured")],
        [{**every, "title": "Gain of every layer", "lede": "Above zero, gradients agree more than they did. Click a layer to look at its block."}, ways],
        picks=[layer_pick(data, layer)],
        words=_words(data, gains),
        table=_table(data, source),
        beside=True,
    )  # fmt: skip


def _known(own: Mapping[str, Any]) -> dict[str, float]:
    """Both numbers of a layer; before the second is measured, it is the first."""
    return {
        "kmeans": float(own["kmeans"]),
        "now": float(own["now"] if own.get("now") is not None else own["kmeans"]),
    }


def _way(layer: str, own: Mapping[str, float]) -> str:
    return f"{label_of(layer)} {short(own['kmeans'])} to {short(own['now'])}"


def _words(data: Mapping[str, Any], gains: Mapping[str, float]) -> list[str]:
    before, now = (sum(own[k] for own in data.values()) / len(data) for k in ("kmeans", "now"))  # fmt: skip
    more = sum(g > 0 for g in gains.values())
    return [f"On average {short(before)} with the codes of k-means, {short(now)} now; it rose in {more} of {len(gains)} layers."]  # fmt: skip


def _table(data: Mapping[str, Any], source: Any) -> Section:
    rows = [
        {"cells": [cell(label_of(n), n), *(cell(short(own[k])) for k in ("kmeans", "now"))]}
        for n, own in data.items()
    ]
    return table(
        "Layers, as a table",
        (Column("Layer"), Column("k-means"), Column("Now")),
        rows,
        raw=[{"layer": n, **own} for n, own in data.items()],
        source=source,
        part="coherence-table",
    )
