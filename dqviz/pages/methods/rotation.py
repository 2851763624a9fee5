"""The greedy block rotations of one input and window, and a Hadamard matrix in their place."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...plots import heatmap
from ...plots import rotations as plots
from ...plots.arrays import short
from ..activations.selection import block_label
from ..view import Column, Section, cell, plot, table
from .alpha import percent
from .opened import Opened, View, Window
from .selection import Selection

VIEW = View("rotation", "Rotation", 30, "rotation")

WAYS = {
    "plain": "untouched",
    "scale": "scale",
    "first": "scale, first rotation",
    "greedy": "scale, both rotations",
    "hadamard": "scale, Hadamard",
}
HEIGHT = 300
EVEN = 0.02  # errors that differ by less, relatively, count as equal


def section(opened: Opened, chosen: Selection) -> Section:
    """Map of all inputs and windows, then what the search did for one of them."""
    data = opened.data("rotation")
    inputs = {str(e["name"]): e["windows"] for e in data["inputs"]}
    names = [e.name for e in opened.inputs if e.name in inputs]
    site = chosen.site if chosen.site in inputs else names[0]
    window = min(chosen.window, len(inputs[site]) - 1)
    found = inputs[site][window]
    place = opened.labels[site] + _of_window(opened, window)
    source = opened.source("rotation", place)
    stem = f"rotation-{site}-window-{window}"
    first, second = found["peaks"]
    kept = found["kept"]
    before, after = (found["block_absmax"][key] for key in ("before", "after"))
    return {
        "kind": "rotation",
        "title": VIEW.title,
        "lede": "Greedy rotations spread the largest value inside blocks of channels; a permutation deals the channels to the blocks in between.",
        "badges": [opened.probes["rotation"].badge],
        "map": _map(opened, inputs, names) if len(names) > 1 else None,
        "rows": names,
        "row": names.index(site),
        "window": window,
        "place": f"{place}: blocks of {found['block']} channels, alpha {found['alpha']:g}",
        "peaks": plot(
            "Peak after every factor",
            plots.peaks(found["peaks"], kept),
            alt=f"Largest less smallest value after every factor of both rotations of {place}",
            height=HEIGHT,
            source=source,
            part=f"{stem}-peaks",
            lede=f"{short(first[0])} → {short(first[kept[0]])} in {_factors(kept[0])}, → {short(second[kept[1]])} in {_factors(kept[1])} more. What brought nothing is dropped.",
        ),
        "blocks": plot(
            "Blocks around the permutation",
            plots.blocks(before, after),
            alt=f"Mean largest magnitude of the channels of {len(before)} blocks of {place}, before and after the permutation",
            height=HEIGHT,
            source=source,
            part=f"{stem}-blocks",
            lede=_evened(before, after),
        ),
        "ways": _ways(opened, found, place, stem),
        "words": _words(opened, inputs, names, found, place),
    }  # fmt: skip


def _of_window(opened: Opened, window: int) -> str:
    return f", {opened.windows[window].label}" if len(opened.windows) > 1 else ""


def _steps(window: Window) -> str:
    """`5–9`."""
    first, last = (min(window.steps), max(window.steps)) if window.steps else (0, 0)
    return f"{first}–{last}" if first < last else str(first)


def _factors(count: int) -> str:
    return f"{count} factor{'' if count == 1 else 's'}"


def spread(values: list[float]) -> float:
    """Coefficient of variation."""
    return float(np.std(values) / max(np.mean(values), 1e-12))


def _evened(before: list[float], after: list[float]) -> str:
    if len(before) < 2:
        return "One block holds all channels, so there is nothing to deal out."
    a, b = spread(before), spread(after)
    return f"Blocks differ by {100 * a:.2g} % before and {100 * b:.2g} % after (standard deviation over mean)."  # fmt: skip


def _ratios(inputs: Mapping[str, Any], names: list[str]) -> np.ndarray:
    """Error of greedy over Hadamard, [inputs, windows]."""
    return np.sqrt([[w["ways"]["greedy"]["error"] / max(w["ways"]["hadamard"]["error"], 1e-30) for w in inputs[n]] for n in names])  # fmt: skip


def _map(opened: Opened, inputs: Mapping[str, Any], names: list[str]) -> Section:
    """Inputs x windows: which of the two leaves less."""
    gain = 100 * (_ratios(inputs, names) - 1)
    windows = [_steps(w) for w in opened.windows] if len(opened.windows) > 1 else ["all"]
    figure = heatmap.sites(
        gain,
        [opened.labels[n] for n in names],
        [block_label(opened.entry(n).block) for n in names],
        windows,
        "signed",
        "error, % over Hadamard's",
    )
    figure["layout"]["xaxis"] |= {"type": "category", "tickangle": 0, "title": {"text": "window of steps", "standoff": 8}}  # fmt: skip
    return plot(
        "Greedy beside Hadamard",
        figure,
        alt=f"Output error of greedy rotations over that of a Hadamard matrix for {len(names)} inputs and {len(windows)} windows",
        height=heatmap.height(len(names)),
        source=opened.source("rotation", "error of greedy over Hadamard"),
        part="rotation-map",
        lede="Output error in per cent over that of one Hadamard matrix with the same scale: below zero, greedy leaves less. Click a cell to look at it.",
        narrow={"margin": {"l": 4, "r": 4, "t": 8, "b": 44}, "xaxis": {**figure["layout"]["xaxis"], "tickfont": {"size": 9}}},
    )  # fmt: skip


def _ways(opened: Opened, found: Mapping[str, Any], place: str, stem: str) -> Section:
    ways = found["ways"]
    least = min(ways, key=lambda key: ways[key]["error"])
    rows = []
    for key, title in WAYS.items():
        way = ways[key]
        rows.append(
            {
                "cells": [
                    cell(title, "least error" if key == least else ""),
                    cell(short(way["psi"]), f"p99 {short(way['psi_p99'])}"),
                    *(cell(f"{short(percent(way[part]))} %") for part in ("error", "weight", "activation")),
                    cell(str(way["multiply_adds"]) if way["multiply_adds"] else "–"),
                ]
            }
        )  # fmt: skip
    return table(
        "Ways compared",
        (
            Column("Input", words=False),
            Column("Incoherence", "", "mean over the rows; a Gaussian row has about 4"),
            Column("Output error"),
            Column("Weight", "", "when the weight alone is rounded"),
            Column("Activation", "", "when the activation alone is rounded"),
            Column("Multiply-adds", "", "per element of the input, at every call"),
        ),
        rows,
        raw=[{"way": key, **way, "input": place} for key, way in ways.items()],
        source=opened.source("rotation", place),
        part=f"{stem}-ways",
    )


def _words(
    opened: Opened,
    inputs: Mapping[str, Any],
    names: list[str],
    found: Mapping[str, Any],
    place: str,
) -> list[str]:
    ways = found["ways"]
    chain = " → ".join(short(ways[key]["psi"]) for key in ("plain", "scale", "first", "greedy"))
    words = [f"{place}: incoherence {chain}; Hadamard {short(ways['hadamard']['psi'])}."]
    ratios = _ratios(inputs, names).ravel()
    less, more = int((ratios < 1 - EVEN).sum()), int((ratios > 1 + EVEN).sum())
    cost = [w["ways"][k]["multiply_adds"] for k in ("greedy", "hadamard") for w in itertools.chain(*inputs.values())]  # fmt: skip
    half = len(cost) // 2
    middle = f"{100 * (float(np.median(ratios)) - 1):+.1f}".replace("-", "−")
    words.append(
        f"Of {ratios.size} inputs and windows greedy leaves less error than Hadamard in {less}, more in {more}, "
        f"and the same within {100 * EVEN:.0f} % in {ratios.size - less - more}; the middle one {middle} %."
    )  # fmt: skip
    idle = [n for n in names for w in inputs[n] if not any(w["kept"])]
    if idle:
        listed = ", ".join(opened.labels[n] for n in dict.fromkeys(idle))
        words.append(
            f"In {len(idle)} of {ratios.size} the search found no factor that lowers the peak and leaves the input as it was: {listed}."
        )  # fmt: skip
    words.append(
        f"Over all inputs greedy costs {sum(cost[:half]) / half:.0f} multiply-adds per element on average, Hadamard {sum(cost[half:]) / half:.0f}."
    )  # fmt: skip
    return words
