"""The map: one number per input and step, what can be chosen, and the page without a capture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from quant.summaries import STATISTICS

from ...plots import heatmap
from ...plots.arrays import short
from ..view import Column, Section, cell, plot, synthetic_badges, table
from .grids import SCALES
from .opened import LOGARITHMIC, SIGNED, Opened, stage_label
from .selection import (
    ALL_ROWS,
    BITS,
    BRANCHES,
    COVERS,
    DIFFERENCE,
    FORMATS,
    Selection,
    block_label,
    cells,
    kept_rows,
    labels,
    ordered,
    peak,
    row_filters,
)

COMMAND = "dqviz capture dit-emoji --samples 8 --method viditq --bits w4a8"


def empty(problem: str = "", command: str = COMMAND) -> Section:
    """The page without a capture: what to run."""
    return {
        "kind": "empty",
        "title": "See what flows into every layer",
        "text": problem
        or "A capture draws a few samples in full precision and records, for every layer and step, how its input is spread.",
        "steps": [
            {"title": "Map", "text": "One number per layer and step shows where bits are lost."},
            {"title": "Look", "text": "Click a cell: values, channels, tokens, and the grid that rounds them."},
            {"title": "Compare", "text": "With a method, before and after each of its transforms."},
        ],
        "command": command,
    }  # fmt: skip


def headline(opened: Opened) -> Section:
    """What was captured, from how much."""
    seen, manifest = opened.seen, opened.seen.manifest
    samples = manifest.get("samples")
    facts = []
    if isinstance(samples, list) and samples:
        facts.append(f"{len(samples)} sample{'' if len(samples) == 1 else 's'}")
    facts += [f"{seen.steps} steps", f"{len(seen.inputs)} inputs of {sum(len(e.sites) for e in seen.inputs)} layers"]  # fmt: skip
    facts.append("both guidance branches" if seen.branches > 1 else "one guidance branch")
    if len(seen.stages) > 1:
        facts.append("stages: " + ", ".join(seen.stages))
    if opened.created:
        facts.append(opened.created.replace("T", " ").replace("Z", " UTC"))
    return {
        "kind": "headline",
        "title": opened.model,
        "facts": facts,
        "badges": [
            *synthetic_badges(opened.record),
            opened.badge,
        ],
        "claims": [],
        "notes": [],
    }


def controls(opened: Opened) -> dict[str, Any]:
    """What can be chosen, for the widgets: key -> options of (value, label, heading)."""
    seen = opened.seen
    named = labels(seen)
    branches = [(b, b, "") for b in BRANCHES[: seen.branches]]
    if seen.branches > 1:
        branches.append((DIFFERENCE, "difference", ""))
    return {
        "statistic": [(k, s.title, "") for k, s in STATISTICS.items()],
        "rows": [(ALL_ROWS, f"all {len(seen.inputs)} inputs", ""), *row_filters(seen)],
        "branch": branches,
        "stage": [(s, stage_label(s), "") for s in seen.stages],
        "site": [
            (seen.inputs[i].name, named[i], block_label(seen.inputs[i].block))
            for i in ordered(seen)
        ],
        "bits": [(str(b), f"{b} bit", "") for b in BITS],
        "format": [(k, v, "") for k, v in FORMATS.items()],
        "scale": [(k, v, "") for k, v in SCALES.items()],
        "cover": [(k, "whole range" if k == "100" else f"{k} % of the values", "") for k in COVERS],
        "timesteps": list(seen.timesteps),
    }


def overview(opened: Opened, chosen: Selection) -> dict[str, Any]:
    """The map: a row per input, a column per step; `rows` names the input of every row."""
    if chosen.map == "weights":
        return _weights(opened, chosen)
    seen = opened.seen
    kept = kept_rows(seen, chosen.rows)
    named = labels(seen)
    values = cells(seen, chosen.statistic, chosen.stage, chosen.branch)
    statistic = STATISTICS[chosen.statistic]
    title = statistic.title if chosen.branch != DIFFERENCE else f"{statistic.title}, conditional less unconditional"  # fmt: skip
    shown = values[kept]
    scale = scale_of(chosen)
    rows = [named[i] for i in kept]
    figure = heatmap.sites(
        shown,
        rows,
        [block_label(seen.inputs[i].block) for i in kept],
        None,
        scale,
        statistic.title if chosen.branch != DIFFERENCE else "difference",
    )
    note = f"{title} at {stage_label(chosen.stage)}, {chosen.branch} branch"
    section = plot(
        title,
        figure,
        alt=f"{title}: {len(rows)} inputs over {seen.steps} steps. {_highest(opened, values, chosen)}",
        height=heatmap.height(len(rows)),
        source=opened.source(note),
        part=f"{chosen.statistic}-{chosen.branch}-{chosen.stage}",
        lede=f"{statistic.words} ({statistic.unit})" if statistic.unit else statistic.words,
        badges=[opened.badge],
        words=_words(opened, values, shown, chosen),
        narrow={"margin": {"l": 4, "r": 4, "t": 8, "b": 44}},
    )
    return {
        "map": section,
        "table": _table(opened, shown, kept, rows, title, note, chosen)
        if chosen.map == "table"
        else None,
        "rows": [seen.inputs[i].name for i in kept],
        "labels": rows,
    }


def _weights(opened: Opened, chosen: Selection) -> dict[str, Any]:
    """The map of weights: a row per layer, a column per stage; `columns` names the stages."""
    seen = opened.seen
    layers = [
        (seen.inputs[i], site)
        for i in kept_rows(seen, chosen.rows)
        for site in seen.inputs[i].sites
    ]
    values = np.full((len(layers), len(seen.stages)), np.nan)
    for row, (entry, site) in enumerate(layers):
        for stage in entry.stages:
            with suppress(KeyError):  # a layer whose weight was not recorded
                windows = range(max(1, len(seen.windows)) if stage != "input" else 1)
                each = [seen.weights(site, stage, window)["incoherence"] for window in windows]
                values[row, seen.stages.index(stage)] = max(each)
    rows = [
        f"{block_label(entry.block)} · {entry.roles[entry.sites.index(site)].replace('_', ' ')}"
        for entry, site in layers
    ]
    rows = [
        row if rows.count(row) == 1 else f"{row} · {site}" for row, (_, site) in zip(rows, layers)
    ]
    figure = heatmap.sites(
        values,
        rows,
        [block_label(entry.block) for entry, _ in layers],
        [stage_label(stage) for stage in seen.stages],
        "log",
        "incoherence",
    )
    section = plot(
        "Weights",
        figure,
        alt=f"Incoherence of the weights of {len(rows)} layers at {len(seen.stages)} stages",
        height=heatmap.height(len(rows)),
        source=opened.source("weights of all layers"),
        part="weights",
        lede="Incoherence of every layer's weight: largest over mean |w|. One scale per output row must cover both."
        + (
            " Windows of steps have transforms of their own: the highest of them."
            if seen.windows
            else ""
        ),
        badges=[opened.badge],
        words=_weight_words(values, rows, seen.stages),
    )
    names = [entry.name for entry, _ in layers]
    return {
        "map": section,
        "table": None,
        "rows": names,
        "labels": rows,
        "columns": list(seen.stages),
    }


def _weight_words(values: np.ndarray, rows: Sequence[str], stages: Sequence[str]) -> list[str]:
    if not np.isfinite(values[:, 0]).any():
        return ["This capture holds no weights."]
    top = int(np.nanargmax(values[:, 0]))
    words = [
        f"Highest: {rows[top]}, {short(float(values[top, 0]))}; half of the layers are below {short(float(np.nanmedian(values[:, 0])))}."
    ]
    transformed = [k for k in range(1, len(stages)) if np.isfinite(values[:, k]).any()]
    if transformed:
        chain = [
            f"{stages[k]} {short(float(np.nanmedian(values[:, k])))}" for k in (0, *transformed)
        ]
        words.append(f"The middle layer: {', '.join(chain)}.")
    return words


def scale_of(chosen: Selection) -> heatmap.Scale:
    """How the statistic's values become colours."""
    if chosen.branch == DIFFERENCE or chosen.statistic in SIGNED:
        return "signed"
    return "log" if chosen.statistic in LOGARITHMIC else "linear"


def _highest(opened: Opened, values: np.ndarray, chosen: Selection) -> str:
    """The strongest cell in words."""
    seen = opened.seen
    name, step = peak(seen, values, chosen.rows)
    at = next(i for i, e in enumerate(seen.inputs) if e.name == name)
    value = values[at, step]
    if not math.isfinite(value):
        return "Nothing here has this stage."
    word = "Farthest from zero" if scale_of(chosen) == "signed" else "Highest"
    return f"{word}: {labels(seen)[at]} at step {step} (timestep {seen.timesteps[step]:g}), {short(value)}."  # fmt: skip


def _words(opened: Opened, values: np.ndarray, shown: np.ndarray, chosen: Selection) -> list[str]:
    """What to see on the map."""
    finite = shown[np.isfinite(shown)]
    if not finite.size:
        return [f"No input shown here has the stage '{chosen.stage}'."]
    words = [_highest(opened, values, chosen)]
    middle = float(np.median(finite))
    words[0] = words[0][:-1] + f"; half of the cells are below {short(middle)}."
    usable = [c for c in range(shown.shape[1]) if np.isfinite(shown[:, c]).any()]
    if len(usable) > 1 and scale_of(chosen) != "signed":
        first, last = (float(np.nanmedian(shown[:, c])) for c in (usable[0], usable[-1]))
        if first > 0 and last > 0:
            ratio = last / first
            trend = "stays about the same" if 0.9 < ratio < 1.1 else "grows" if ratio > 1 else "falls"  # fmt: skip
            words.append(f"Over the steps the middle input {trend}: {short(first)} at step {usable[0]}, {short(last)} at step {usable[-1]}.")  # fmt: skip
    words.append(_unevenness(shown))
    return [w for w in words if w]


def _unevenness(shown: np.ndarray) -> str:
    """Whether inputs or steps make the difference."""
    if min(shown.shape) < 2 or not np.isfinite(shown).any():
        return ""
    with np.errstate(all="ignore"):
        filled = np.where(np.isfinite(shown), shown, np.nanmedian(shown))
    by_input, by_step = float(filled.mean(1).std()), float(filled.mean(0).std())
    if max(by_input, by_step) <= 1e-12:
        return ""
    ratio = by_input / max(by_step, 1e-12)
    if ratio > 2:
        return (
            "It differs more from layer to layer than from step to step: precision per layer pays."
        )
    if ratio < 0.5:
        return "It differs more from step to step than from layer to layer: scales per step pay."
    return "Layers and steps both matter."


def _table(
    opened: Opened,
    shown: np.ndarray,
    kept: Sequence[int],
    rows: Sequence[str],
    title: str,
    note: str,
    chosen: Selection,
) -> Section:
    """The map as a table: a row per input, the chosen step, the spread over all steps."""
    body = []
    raw = []
    times = opened.seen.timesteps
    for label, i, line in zip(rows, kept, shown):
        known = line[np.isfinite(line)]
        entry = opened.seen.inputs[i]
        raw += [
            {"input": entry.name, "block": entry.block, "kind": label.partition(" · ")[2], "step": s, "timestep": t, chosen.statistic: None if math.isnan(v) else float(v)}
            for s, (t, v) in enumerate(zip(times, line))
        ]  # fmt: skip
        where = int(np.nanargmax(np.abs(line))) if known.size else 0
        numbers = (line[chosen.step], *(np.quantile(known, (0, 0.5, 1)) if known.size else [math.nan] * 3))  # fmt: skip
        body.append(
            {
                "cells": [cell(label), *(cell(short(float(v))) for v in numbers), cell(f"step {where}" if known.size else "–")],
                "key": entry.name,
            }
        )  # fmt: skip
    return table(
        f"{title}, as a table",
        (
            Column("Input"),
            Column(f"Step {chosen.step}"),
            Column("Least", "", "smallest over all steps"),
            Column("Median", "", "over all steps"),
            Column("Most", "", "largest over all steps"),
            Column("Farthest from 0 at"),
        ),
        body,
        lede="Choose an input by its button. The CSV has every step.",
        raw=raw,
        source=opened.source(note),
        part=f"{chosen.statistic}-{chosen.branch}-{chosen.stage}-table",
    )
