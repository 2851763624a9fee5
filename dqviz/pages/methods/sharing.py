"""Attention sharing: how alike the guidance branches attend, and what a threshold on that would save.

Nothing here is a speed: multiply-adds are counted from shapes, so they are called predicted.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from quant.sharing_choice import Chooser, SharingMode, Similarity

from ...plots import heatmap, tradeoff
from ...plots.arrays import short
from ..activations.selection import block_label
from ..view import Column, Section, badge, cell, plot, table
from .opened import Opened, View
from .selection import Selection

VIEW = View(
    "sharing",
    "Attention sharing",
    50,
    "similarity",
    keys=("share", "by", "threshold", "first", "last"),
)
MODES = (("map", "share the map"), ("output", "share the output"), ("off", "off"))
CHOOSERS = (("similarity", "similarity"), ("error", "output error"), ("released", "released set"))
POINTS = 48  # thresholds on a curve, at most
THRESHOLD = 0.9


def section(opened: Opened, chosen: Selection) -> Section:
    """The map of attentions and steps, the curve of what is saved, and all that a slider needs."""
    data = opened.data("similarity")
    if data.get("off"):
        return {"kind": "hint", "title": VIEW.title, "text": str(data["off"])}
    found = similarity_of(data)
    cosine = np.array(found.cosine)  # [a, s]
    rows, blocks = labels(found.attentions)
    source = opened.source("similarity", f"{found.samples} samples, {found.queries} queries each")
    low = np.unravel_index(int(cosine.argmin()), cosine.shape)
    worst = f"{rows[low[0]]} at step {low[1]}"
    steps = len(found.timesteps)
    figures = {
        "similarity": heatmap.sites(cosine, rows, blocks, None, "linear", "cosine"),
        **{
            mode: heatmap.sites(
                np.array(found.output_error.of(mode)), rows, blocks, None, "log", "output error"
            )
            for mode in ("map", "output")
        },
    }
    drawn = plot(
        VIEW.title,
        figures["similarity"],
        alt=(
            f"Cosine of the two branches' attention: {len(rows)} attentions over {steps} steps. "
            f"Least alike: {worst}, {short(float(cosine.min()))}."
        ),
        height=heatmap.height(len(rows)),
        source=source,
        part="similarity",
        lede=(
            "Guidance runs every attention twice, with and without the condition. Where both look at "
            "the same places, one of the two can be left out: cosine of the two attention maps."
        ),
        badges=[opened.probes["similarity"].badge],
        raw=_raw(found, rows),
        narrow={"margin": {"l": 4, "r": 4, "t": 8, "b": 44}},
    )
    return {
        **drawn,
        "kind": "sharing",
        "figures": figures,
        "curves": {
            f"{by}:{mode}": _curve(found, by, mode)
            for by in ("similarity", "error")
            for mode in ("map", "output")
        },
        "labels": rows,
        "timesteps": list(found.timesteps),
        "cosine": cosine.tolist(),
        "error": {m: [list(r) for r in found.output_error.of(m)] for m in ("map", "output")},
        "work": [
            {"rows": w.rows, "map": w.saved("map"), "output": w.saved("output")} for w in found.work
        ],
        "network": found.network,
        "released": _released(found),
        "modes": MODES,
        "choosers": CHOOSERS,
        "chosen": {
            "share": chosen.one_of("share", [m for m, _ in MODES], "map"),
            "by": chosen.one_of("by", [c for c, _ in CHOOSERS], "similarity"),
            "threshold": chosen.number("threshold", THRESHOLD, 0, 1),
            "first": int(chosen.number("first", 0, 0, steps - 1)),
            "last": int(chosen.number("last", steps - 1, 0, steps - 1)),
        },
        "range": [float(np.floor(100 * cosine.min()) / 100), 1.0],
        "predicted": badge("predicted", "simulated", "multiply-adds, counted from shapes; no time"),
        "words": [*_words(cosine, rows), _least_error(found, rows)],
        "table": _table(found, rows, source),
        "method": opened.method,
        "bits": opened.bits,
        "model": opened.key,
    }


def similarity_of(data: Any) -> Similarity:
    """What the probe measured, as the engine reads it."""
    own = {k: v for k, v in dict(data).items() if k in Similarity.model_fields}
    return Similarity.parse(own, "probe similarity")


def labels(attentions: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """A label for every attention, `block 3`, each of them once; and the blocks."""
    numbers = [re.search(r"\.(\d+)\.", name) for name in attentions]
    blocks = [block_label(int(n[1])) if n else name for n, name in zip(numbers, attentions)]
    rows = [b if blocks.count(b) == 1 else f"{b} · {name}" for b, name in zip(blocks, attentions)]
    return rows, blocks


def shared_cells(found: Similarity, by: Chooser, mode: SharingMode, threshold: float) -> np.ndarray:
    """Which attentions share at which steps, [a, s]: what `quant.sharing_choice` would choose."""
    if by == "released":
        kept = np.array(_released(found))[:, None]
        return np.repeat(kept, len(found.timesteps), axis=1)
    agreement = np.array(found.cosine)
    if by == "error":
        agreement = 1 - np.array(found.output_error.of(mode))
    return agreement >= threshold


def saved(found: Similarity, shared: np.ndarray, mode: SharingMode) -> dict[str, float]:
    """Shares of q/k rows and of the network's multiply-adds left out; mean output error where shared."""
    rows = np.array([w.rows for w in found.work], float)[:, None]
    work = np.array([w.saved(mode) for w in found.work], float)[:, None]
    steps = shared.shape[1]
    error = np.array(found.output_error.of(mode))[shared]
    return {
        "cells": int(shared.sum()),
        "qk_rows": float((rows // 2 * shared).sum() / (rows.sum() * steps)),
        "multiply_adds": float((work * shared).sum() / (steps * found.network)),
        "error": float(error.mean()) if error.size else 0.0,
    }


def _released(found: Similarity) -> list[bool]:
    from quant.sharing_choice import released_set

    kept = set(released_set(found.attentions))
    return [name in kept for name in found.attentions]


def _curve(found: Similarity, by: Chooser, mode: SharingMode) -> Section:
    """What is saved and lost by every threshold that makes a difference, evenly thinned out."""
    agreement = np.array(found.cosine)
    if by == "error":
        agreement = 1 - np.array(found.output_error.of(mode))
    levels = np.unique(np.clip(agreement, 0, 1))[::-1]
    if len(levels) > POINTS:
        levels = levels[np.linspace(0, len(levels) - 1, POINTS).round().astype(int)]
    points = [(0.0, 0.0, 1.0)]
    for level in levels:
        # Not above the level, so that rounding the number on the page keeps the cell.
        threshold = float(np.floor(level * 1e4) / 1e4)
        made = saved(found, shared_cells(found, by, mode, threshold), mode)
        points.append((made["multiply_adds"], made["error"], threshold))
    return tradeoff.figure(points, "multiply-adds", "mean output error", "threshold")


def _words(cosine: np.ndarray, rows: list[str]) -> list[str]:
    by_row, by_step = cosine.mean(1), cosine.mean(0)
    most, least = int(by_row.argmax()), int(by_row.argmin())
    words = [
        f"Most alike: {rows[most]}, {short(float(by_row[most]))} on average over the steps; "
        f"least: {rows[least]}, {short(float(by_row[least]))}."
    ]
    if len(by_step) > 1:
        first, last = float(by_step[0]), float(by_step[-1])
        trend = "as alike at the end as" if abs(first - last) < 0.01 else "more alike at the end than" if last > first else "less alike at the end than"  # fmt: skip
        words.append(
            f"Over the steps the branches are {trend} at the start: {short(first)} at step 0, "
            f"{short(last)} at step {len(by_step) - 1}."
        )
    return words


def _least_error(found: Similarity, rows: list[str]) -> str:
    errors = np.array(found.output_error.map)
    at = np.unravel_index(int(errors.argmin()), errors.shape)
    return (
        f"A shared map loses least in {rows[at[0]]} at step {at[1]}: {100 * float(errors.min()):.1f} % of the "
        f"unconditional output; over all cells {100 * float(errors.mean()):.1f} %."
    )


def _raw(found: Similarity, rows: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "attention": name,
            "label": rows[a],
            "step": s,
            "timestep": t,
            "cosine": found.cosine[a][s],
            "minimum": found.minimum[a][s],
            "output_error_map": found.output_error.map[a][s],
            "output_error_output": found.output_error.output[a][s],
        }
        for a, name in enumerate(found.attentions)
        for s, t in enumerate(found.timesteps)
    ]


def _table(found: Similarity, rows: list[str], source: Any) -> Section:
    cosine = np.array(found.cosine)
    errors = {m: np.array(found.output_error.of(m)) for m in ("map", "output")}
    body = [
        {
            "cells": [
                cell(rows[a], found.attentions[a]),
                cell(short(float(cosine[a].mean()))),
                cell(short(float(cosine[a].min())), f"step {int(cosine[a].argmin())}"),
                cell(short(float(np.array(found.minimum[a]).min()))),
                cell(f"{100 * float(errors['map'][a].mean()):.2g} %"),
                cell(f"{100 * float(errors['output'][a].mean()):.2g} %"),
                cell(f"{100 * found.work[a].saved('map') / found.network:.2f} %"),
            ]
        }
        for a in range(len(rows))
    ]
    return table(
        "Attentions, as a table",
        (
            Column("Attention"),
            Column("Cosine", "mean"),
            Column("Least", "", "smallest over the steps"),
            Column("Least head", "", "of any head, sample and step"),
            Column("Error, map", "", "relative output error of the unconditional half, mean over steps"),
            Column("Error, output", "", "relative output error of the unconditional half, mean over steps"),
            Column("Worth", "", "multiply-adds of the network that a shared map leaves out, at every step"),
        ),
        body,
        lede="Means over the steps. The CSV has every step.",
        raw=_raw(found, rows),
        source=source,
        part="similarity-table",
    )  # fmt: skip
