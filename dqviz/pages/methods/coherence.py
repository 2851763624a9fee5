"""Whether gradients that meet in a codeword point the same way: with the codes of k-means, and now."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ...plots import learning as plots
from ...plots.arrays import short
from ..exports import Source
from ..view import Column, Section, cell, plot, table
from .learned import block_of, drawn, grid_of, label_of
from .opened import Opened, View
from .ranks import layer_of, layer_pick
from .selection import Selection

VIEW = View("coherence", "Coherence of gradients", 40, None, keys=("layer",), learned="coherence")
LEDE = "A codebook alone learns little where the gradients of the sub-vectors that share a codeword cancel: mean cosine of pairs inside a codeword, before and after the codes were chosen anew."
HEIGHT = 240
KEYS = ("kmeans", "now")  # the second is measured when learning ends: until then it is None


def section(opened: Opened, chosen: Selection) -> Section:
    """A map of all layers, and the layers of one block from k-means to now."""
    found = opened.learned
    assert found is not None
    told = found.last("coherence")
    order = [n for n in found.last("sites") if n in told] if found.has("sites") else []
    data = {n: {key: told[n].get(key) for key in KEYS} for n in order or told}
    layer = layer_of(data, chosen)
    source = found.source(opened.study, "measured")
    gains = {n: _gain(own) for n, own in data.items()}
    beside = [n for n in data if block_of(n) == block_of(layer)]
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
        [_every(data, gains, source, layer), ways],
        picks=[layer_pick(data, layer)],
        words=_words(data, gains, found.state),
        table=_table(data, source),
        beside=True,
    )  # fmt: skip


def _gain(own: Mapping[str, Any]) -> float | None:
    return None if own["now"] is None else own["now"] - own["kmeans"]


def _every(data: Mapping[str, Any], gains: Mapping[str, float | None], source: Source, layer: str) -> Section:  # fmt: skip
    """A map of what was gained; while that is not known of any layer, of what there was with k-means."""
    known = [g for g in gains.values() if g is not None]
    if known:
        alt = f"Gain in coherence, {len(known)} layers, mean {short(sum(known) / len(known))}"
        made = grid_of(gains, "cosine, now less k-means", "signed", HEIGHT, "coherence", alt, source, layer)  # fmt: skip
        lede = "Above zero, gradients agree more than they did. Click a layer to look at its block."
        return {**made, "title": "Gain of every layer", "lede": lede}
    alt = f"Coherence with the codes of k-means, {len(data)} layers"
    first = {n: own["kmeans"] for n, own in data.items()}
    made = grid_of(first, "cosine", "linear", HEIGHT, "coherence-kmeans", alt, source, layer)
    return {**made, "title": "With the codes of k-means", "lede": "Click a layer to look at its block."}  # fmt: skip


def _way(layer: str, own: Mapping[str, Any]) -> str:
    after = "not measured again" if own["now"] is None else f"to {short(own['now'])}"
    return f"{label_of(layer)} {short(own['kmeans'])} {after}"


def _words(data: Mapping[str, Any], gains: Mapping[str, float | None], state: str) -> list[str]:
    known = [n for n, g in gains.items() if g is not None]
    later = "" if state == "done" else "; measured again when learning ends"
    if not known:
        return [f"On average {_mean(data.values(), 'kmeans')} with the codes of k-means{later}."]
    own = [data[n] for n in known]
    more = sum((gains[n] or 0) > 0 for n in known)
    words = [f"On average {_mean(own, 'kmeans')} with the codes of k-means, {_mean(own, 'now')} now; it rose in {more} of {len(known)} layers."]  # fmt: skip
    if len(known) < len(data):
        words.append(f"{len(data) - len(known)} of {len(data)} layers are measured again when their block has been learned.")  # fmt: skip
    return words


def _mean(layers: Collection[Mapping[str, Any]], key: str) -> str:
    return short(sum(own[key] for own in layers) / len(layers))


def _table(data: Mapping[str, Any], source: Any) -> Section:
    rows = [
        {"cells": [cell(label_of(n), n), *(cell("–" if own[k] is None else short(own[k])) for k in KEYS)]}
        for n, own in data.items()
    ]  # fmt: skip
    return table(
        "Layers, as a table",
        (Column("Layer"), Column("k-means"), Column("Now")),
        rows,
        raw=[{"layer": n, **own} for n, own in data.items()],
        source=source,
        part="coherence-table",
    )
