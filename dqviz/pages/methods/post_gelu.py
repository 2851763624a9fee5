"""What comes after the GELU: how its range moves over the steps, and how few bins its negative side gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...plots import learning as plots
from ...plots.arrays import short
from ..view import Column, Section, cell, plot, table
from .learned import Learned, drawn, label_of
from .opened import Opened, View
from .ranks import layer_of, layer_pick
from .selection import Selection

VIEW = View("post-gelu", "After the GELU", 25, None, keys=("layer",), learned="post_gelu")
LEDE = "The GELU leaves most values just below zero and a few far above: one static grid over all steps spends nearly all of its bins on the few."
HEIGHT = 300
GATES = {"migrate": "shifted and migrated", "shift": "shifted", "plain": "as it is"}


def section(opened: Opened, chosen: Selection) -> Section:
    """Ranges over the steps, and what the negative side gets of the grid."""
    found = opened.learned
    assert found is not None
    data = found.last("post_gelu")
    layer = layer_of(data, chosen)
    source = found.source(opened.study, "measured")
    names = list(data)
    labels = [label_of(n) for n in names]
    lines = [
        (label, _ends(data[n], "low"), _ends(data[n], "high"))
        for n, label in zip(names, labels, strict=True)
    ]
    ranges = plot(
        "Range over the steps",
        plots.ranges(lines, names.index(layer)),
        alt=f"Smallest and largest value after the GELU over the steps, {len(names)} layers; {_said(data[layer], label_of(layer))}",
        height=HEIGHT,
        source=source,
        part="post-gelu-range",
        lede="Largest and smallest value; one line of each per block. Click a line to look at its block.",
        raw=[
            {"layer": n, "step": k, "low": a, "high": b}
            for n in names
            for k, (a, b) in enumerate(zip(_ends(data[n], "low"), _ends(data[n], "high"), strict=True))
        ],
    )  # fmt: skip
    figures = [{**ranges, "click": {"key": "layer", "cells": names}}]
    if any(data[n].get("negative") is not None for n in names):
        shares = [(title, [None if data[n].get(key) is None else 100 * data[n][key] for n in names]) for title, key in (("values below zero", "negative"), ("bins below zero", "bins_negative"))]  # fmt: skip
        figures.append(
            plot(
                "Below zero",
                plots.bars(labels, shares, "%", hover="%{x:.3g} %"),
                alt=f"Share of values below zero and share of bins that they get, {len(names)} layers",
                height=max(HEIGHT, plots.rows_height(2 * len(names))),
                source=source,
                part="post-gelu-negative",
                lede="How many values are negative, and how many bins of the grid they get.",
            )
        )  # fmt: skip
    return drawn(
        VIEW.title,
        LEDE,
        [found.badge("measured")],
        figures,
        picks=[layer_pick(data, layer)],
        words=_words(found, data, layer),
        table=_table(found, data, source),
        beside=len(figures) > 1,
    )


def shifted(found: Learned, own: Mapping[str, Any]) -> bool:
    """Whether the channels of a layer are shifted to their middles."""
    return own.get("gate") not in (None, "plain") and found.option("mode") != "migrate"


def kept_as(found: Learned, own: Mapping[str, Any]) -> str:
    """How a layer is stored, in words."""
    gate = str(own.get("gate") or "")
    return GATES.get(gate, gate) if gate != "migrate" or shifted(found, own) else "migrated"


def _ends(own: Mapping[str, Any], end: str) -> list[float]:
    """An end of the range at every step that was looked at."""
    return [float(v) for v in own.get(end) or [] if v is not None]


def _said(own: Mapping[str, Any], label: str) -> str:
    low, high = _ends(own, "low"), _ends(own, "high")
    if not high:
        return f"{label} has no range"
    return f"{label} reaches from {short(min(low))} to {short(max(high))}"


def _words(found: Learned, data: Mapping[str, Any], layer: str) -> list[str]:
    own = data[layer]
    words = [f"{_said(own, label_of(layer))}."]
    high = _ends(own, "high")
    if len(high) > 1 and min(high) > 0:
        words[0] = f"{words[0][:-1]}; the largest value of a step varies {short(max(high) / min(high))}-fold over the steps."  # fmt: skip
    if own.get("negative") is not None and own.get("bins_negative") is not None:
        words.append(f"{short(100 * own['negative'])} % of its values are negative and get {short(100 * own['bins_negative'])} % of the bins.")  # fmt: skip
    gates = [kept_as(found, each) for each in data.values() if each.get("gate")]
    if gates:
        counted = ", ".join(f"{gates.count(g)} {g}" for g in dict.fromkeys(gates))
        words.append(f"Kept where the measured error of the layer after it fell: of {len(gates)} layer{'s' * (len(gates) > 1)} {counted}.")  # fmt: skip
    return words


def _table(found: Learned, data: Mapping[str, Any], source: Any) -> Section:
    rows, raw = [], []
    for name, own in data.items():
        low, high = _ends(own, "low"), _ends(own, "high")
        gate, most = str(own.get("gate") or ""), max(own.get("m") or [1])
        shares = [own.get(key) for key in ("negative", "bins_negative")]
        rows.append(
            {
                "cells": [
                    cell(label_of(name), name),
                    cell(f"{short(min(low))} … {short(max(high))}" if high else "–"),
                    *(cell("–" if v is None else f"{short(100 * v)} %") for v in shares),
                    cell(str(len(own.get("outliers") or [])), f"factor up to {most}"),
                    cell(kept_as(found, own) or "–"),
                ]
            }
        )
        raw.append({"layer": name, "low": min(low, default=None), "high": max(high, default=None), "negative": shares[0], "bins_negative": shares[1], "outliers": len(own.get("outliers") or []), "largest_factor": most, "gate": gate})  # fmt: skip
    return table(
        "Layers, as a table",
        (
            Column("Layer"),
            Column("Range"),
            Column("Below zero"),
            Column("Bins below zero"),
            Column("Outlier channels"),
            Column("Kept as", "", "decided by the measured output error of each layer", words=True),
        ),
        rows,
        raw=raw,
        source=source,
        part="post-gelu-table",
    )  # fmt: skip
