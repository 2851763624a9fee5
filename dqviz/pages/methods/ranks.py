"""Which of its nearest codewords each sub-vector has chosen: the first is what k-means would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...plots import learning as plots
from ...plots.arrays import short
from ..view import Column, Section, cell, plot, table
from .learned import Learned, drawn, grid_of, label_of, picked
from .opened import Opened, View
from .selection import Selection

VIEW = View("ranks", "Chosen candidates", 20, None, keys=("layer",), learned="sites.ranks")
LEDE = "Rank 1 is the nearest codeword. The more often a farther one is chosen, the more the output gained from leaving the nearest."
HEIGHT = 240


def section(opened: Opened, chosen: Selection) -> Section:
    """A map of all layers, and the ranks of one of them beside the mean."""
    found = opened.learned
    assert found is not None
    sites = found.last("sites")
    layer = layer_of(sites, chosen)
    source = found.source(opened.study, "measured")
    away = {n: _away(own) for n, own in sites.items()}
    ranks = [float(r) for r in sites[layer].get("ranks") or []]
    means = mean_ranks(sites)
    figures = []
    if ranks:
        rows = [label_of(layer), f"mean of {len(sites)} layers"]
        series = [(f"rank {k + 1}", [100 * ranks[k] if k < len(ranks) else 0.0, 100 * means[k]]) for k in range(len(means))]  # fmt: skip
        figures.append(
            plot(
                "Ranks of the chosen layer",
                plots.bars(rows, series, "% of sub-vectors", stacked=True, hover="%{x:.3g} %"),
                alt=f"Share of sub-vectors by rank of the chosen codeword: {label_of(layer)} and the mean of all layers",
                height=HEIGHT,
                source=source,
                part="ranks-layer",
            )
        )  # fmt: skip
    least = max(away, key=lambda n: away[n] or 0)
    every = grid_of({n: None if a is None else 100 * a for n, a in away.items()}, "% not the nearest", "linear", HEIGHT, "ranks", f"Share of sub-vectors whose codeword is not the nearest, {len(sites)} layers; most in {label_of(least)}", source, layer)  # fmt: skip
    return drawn(
        VIEW.title,
        LEDE,
        [found.badge("measured")],
        [{**every, "title": "Not the nearest codeword", "lede": "Share of sub-vectors, %. Click a layer to look at it."}, *figures],
        picks=[layer_pick(sites, layer)],
        words=_words(found, sites, means),
        table=_table(sites, source),
        beside=len(figures) > 0,
    )  # fmt: skip


def layer_of(sites: Mapping[str, Any], chosen: Selection) -> str:
    """The layer that is looked at."""
    return chosen.one_of("layer", sites, next(iter(sites)))


def layer_pick(sites: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """The list of layers to choose from."""
    return {**picked("layer", "Layer", [(n, label_of(n)) for n in sites], layer), "list": True}


def mean_ranks(sites: Mapping[str, Any]) -> list[float]:
    """Mean share of every rank over the layers that have them."""
    known = [own["ranks"] for own in sites.values() if own.get("ranks")]
    most = max((len(r) for r in known), default=0)
    return [sum(r[k] for r in known if k < len(r)) / len(known) for k in range(most)]


def _away(own: Mapping[str, Any]) -> float | None:
    ranks: Sequence[float] = own.get("ranks") or []
    return 1 - float(ranks[0]) if ranks else None


def _words(found: Learned, sites: Mapping[str, Any], means: Sequence[float]) -> list[str]:
    if not means:
        return []
    words = [f"Of all layers, {', '.join(f'{short(100 * m)} % take rank {k + 1}' for k, m in enumerate(means))}."]  # fmt: skip
    changed = [float(own["changed"]) for own in sites.values() if own.get("changed") is not None]
    if changed:
        words.append(f"{short(100 * sum(changed) / len(changed))} % of the codes of a layer differ from those of k-means on average.")  # fmt: skip
    return words


def _table(sites: Mapping[str, Any], source: Any) -> Section:
    most = len(mean_ranks(sites))
    rows = []
    for name, own in sites.items():
        ranks = own.get("ranks") or []
        shares = [cell(f"{short(100 * float(ranks[k]))} %" if k < len(ranks) else "–") for k in range(most)]  # fmt: skip
        changed = own.get("changed")
        rows.append({"cells": [cell(label_of(name), name), *shares, cell("–" if changed is None else f"{short(100 * changed)} %")]})  # fmt: skip
    raw = [
        {"layer": n, **{f"rank_{k + 1}": r for k, r in enumerate(own.get("ranks") or [])}, "changed": own.get("changed")}
        for n, own in sites.items()
    ]  # fmt: skip
    return table(
        "Layers, as a table",
        (
            Column("Layer"),
            *(Column(f"Rank {k + 1}") for k in range(most)),
            Column("Unlike k-means", "", "share of codes that differ from those that learning started from"),
        ),
        rows,
        raw=raw,
        source=source,
        part="ranks-table",
    )  # fmt: skip
