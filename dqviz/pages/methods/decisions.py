"""Which codes are decided: the frozen share and the entropy of every layer over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...plots import heatmap
from ...plots.arrays import short
from ..view import Section, plot
from .learned import Learned, block_of, drawn, from_0_to_100, label_of, picked
from .opened import Opened, View
from .selection import Selection

VIEW = View("decisions", "Decisions", 10, None, keys=("decided",), learned="sites.frozen")
WAYS = {"frozen": ("frozen share", "of sub-vectors whose code is fixed"), "entropy": ("entropy, nats", "mean over the candidates of a sub-vector; 0 is decided")}  # fmt: skip
LEDE = "Each sub-vector starts between its nearest codewords and is frozen when one of them has won. A layer that stays undecided is cut off at the end, and pays for it."


def section(opened: Opened, chosen: Selection) -> Section:
    """A row per layer, a column per look at the learner."""
    found = opened.learned
    assert found is not None
    way = chosen.one_of("decided", WAYS, "frozen")
    title, what = WAYS[way]
    looks = [line for line in found.snapshots if _decides(line)]
    layers = list(looks[-1]["measures"]["sites"])
    values = np.array([[_value(line, layer, way) for line in looks] for layer in layers], float)
    steps = [int(line["step"]) for line in looks]
    labels = [label_of(layer) for layer in layers]
    share = way == "frozen"
    figure = heatmap.sites(100 * values if share else values, labels, [block_of(n) for n in layers], [f"step {k}" for k in steps], "linear", f"{title}, %" if share else title)  # fmt: skip
    if share:
        from_0_to_100(figure)
    ends = figure["layout"]["xaxis"] | {
        "type": "category",
        "tickangle": 0,
        "title": {"text": "step", "standoff": 8},
    }
    figure["layout"]["xaxis"] = ends | _ticks(steps, 8)
    made = plot(
        VIEW.title,
        figure,
        alt=f"{title} of {len(layers)} layers at {len(steps)} steps, {what}",
        height=heatmap.height(len(layers)),
        source=found.source(opened.study, "measured"),
        part=f"decisions-{way}",
        raw=[{"layer": layer, "step": k, **_both(line, layer)} for layer in layers for k, line in zip(steps, looks, strict=True)],
        narrow={"margin": {"l": 4, "r": 4, "t": 8, "b": 44}, "xaxis": ends | _ticks(steps, 4)},
    )  # fmt: skip
    ways = [(key, words[0]) for key, words in WAYS.items()]
    return drawn(
        VIEW.title,
        LEDE,
        [found.badge("measured")],
        [{**made, "click": {"key": "layer", "cells": [[n] * len(steps) for n in layers]}}],
        picks=[picked("decided", "Shown", ways, way)],
        words=_words(found, layers),
    )


def _decides(line: Mapping[str, Any]) -> bool:
    """Whether anything was to be decided yet: while codebooks are made nothing is."""
    sites: Mapping[str, Mapping[str, Any]] = line["measures"].get("sites") or {}
    return any(own.get(way) is not None for own in sites.values() for way in WAYS)


def _ticks(steps: Sequence[int], most: int) -> dict[str, Any]:
    shown = steps[:: max(1, -(-len(steps) // most))]
    return {
        "dtick": None,
        "tickvals": [f"step {k}" for k in shown],
        "ticktext": [str(k) for k in shown],
    }


def _value(line: Mapping[str, Any], layer: str, way: str) -> float:
    value = _both(line, layer).get(way)
    return float("nan") if value is None else float(value)


def _both(line: Mapping[str, Any], layer: str) -> dict[str, float | None]:
    own = line["measures"]["sites"].get(layer) or {}
    return {way: own.get(way) for way in WAYS}


def _words(found: Learned, layers: list[str]) -> list[str]:
    last = found.last("sites")
    frozen = {n: float(last[n]["frozen"]) for n in layers if last[n].get("frozen") is not None}
    if not frozen:
        return []
    mean, least = sum(frozen.values()) / len(frozen), min(frozen, key=lambda n: frozen[n])
    words = [f"{short(100 * mean)} % of the sub-vectors of a layer are frozen on average; least in {label_of(least)}, {short(100 * frozen[least])} %."]  # fmt: skip
    if all(share >= 1 for share in frozen.values()):
        words = [f"Every sub-vector of all {len(frozen)} layers is decided."]
    return words
