"""Incoherence of every input over the steps, before and after each transform, and what to balance.

    psi(g) = max |g| / mean |g|        of a row g; mean over the sampled rows of a step

A Gaussian row of width c has psi = E max |z| / E |z| over c normal z: nothing can be lower for long.
Inputs to balance, as ViDiT-Q's authors say in words (second-hand), with our numbers: the largest psi over
the steps above 8, or the largest over the smallest above 1.5.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from quant.cards import methods

from ...plots import steps as plots
from ...plots.arrays import short
from ...seen_file import SeenFile
from ..activations.opened import Opened as Captured
from ..activations.opened import stage_label
from ..activations.selection import labels, ordered
from ..view import Column, Section, cell, plot, table
from .opened import Opened, View
from .selection import Selection

VIEW = View("incoherence", "Incoherence over the steps", 10, None, keys=("psi", "change"))

PSI, CHANGE = 8.0, 1.5  # above them an input is to be balanced, as `quant.balancing` has them
OPTIONS = {"transform", "psi", "change"}  # of a method that balances by these numbers
HEIGHT, NARROW = 360, 230  # pixels: of a row of panels, of each where they are stacked


def section(opened: Opened, chosen: Selection) -> Section:
    """Lines over the steps with a threshold; without a capture, how to get one."""
    if opened.captured is None:
        return {
            "kind": "incoherence",
            "title": VIEW.title,
            "empty": "This study has no capture yet. A capture records every input over the steps, and with a method what each of its transforms makes of it.",
        }
    captured = opened.captured
    seen = captured.seen
    order = ordered(seen)
    named = [labels(seen)[i] for i in order]
    every = {stage: of_rows(seen.path, stage)[order] for stage in seen.stages}
    at = next((k for k, i in enumerate(order) if seen.inputs[i].name == chosen.site), 0)
    floor = gaussian_floor(seen.inputs[order[at]].channels)
    titles = {stage_label(stage): values for stage, values in every.items()}
    figure = plots.panels(titles, named, seen.timesteps, floor, "incoherence")
    before = every[seen.stages[0]]
    psi, change = chosen.number("psi", PSI, 1, 1000), chosen.number("change", CHANGE, 1, 100)
    inputs = [
        {"name": seen.inputs[i].name, "label": label, **_extremes(line)}
        for i, label, line in zip(order, named, before)
    ]
    return plot(
        VIEW.title,
        figure,
        alt=f"Incoherence of {len(named)} inputs over {seen.steps} steps, at {len(seen.stages)} stages",
        height=HEIGHT,
        source=captured.source("incoherence, mean over sampled rows"),
        part="incoherence-steps",
        lede="Largest over mean |x| of a row, averaged over the sampled rows: one line per input. One scale must cover both, so what is high wastes bits. "
        f"From the capture {captured.name}.",
        badges=[captured.badge],
        words=_words(every, named, at, floor, captured),
        narrow=plots.stacked(list(titles), seen.steps, list(every.values()), floor, "incoherence"),
        narrow_height=NARROW * len(every) + 60,
        table=_table(captured, every, named, inputs),
        inputs=inputs,
        at=at,
        thresholds={"psi": psi, "change": change},
        defaults={"psi": PSI, "change": CHANGE},
        highest=max((e["psi"] or 0.0 for e in inputs), default=0.0),
        settable={option.name for option in methods()[opened.method].options} >= OPTIONS,
        method=opened.method,
        bits=opened.bits,
        model=opened.key,
        without_stages=len(seen.stages) < 2,
    ) | {"kind": "incoherence"}


def _extremes(line: np.ndarray) -> dict[str, float | None]:
    known = line[np.isfinite(line)]
    if not known.size:
        return {"psi": None, "change": None}
    return {"psi": float(known.max()), "change": float(known.max() / max(known.min(), 1e-12))}


@lru_cache(maxsize=24)
def _of_file(path: Path, stamp: tuple[int, int], stage: str) -> np.ndarray:
    seen = SeenFile(path)
    found = np.full((len(seen.inputs), seen.steps), np.nan)
    for index, entry in enumerate(seen.inputs):
        if stage not in entry.stages:
            continue
        rows, steps, _ = seen.rows(entry.name, stage)
        size = np.abs(rows)
        mean = size.mean(1)
        psi = np.where(mean > 0, size.max(1) / np.where(mean > 0, mean, 1), 1.0)
        total = np.bincount(steps, psi, minlength=seen.steps)
        count = np.bincount(steps, minlength=seen.steps)
        found[index] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return found


def of_rows(path: Path, stage: str) -> np.ndarray:
    """psi, mean over the sampled rows of both branches: [inputs, steps]; NaN where there is no row."""
    facts = path.stat()
    return _of_file(path, (facts.st_mtime_ns, facts.st_size), stage)


@lru_cache(maxsize=64)
def gaussian_floor(width: int) -> float:
    """E max |z| / E |z| of `width` independent standard normal z."""
    z = np.linspace(0, 8, 8001)
    below = np.vectorize(math.erf)(z / math.sqrt(2))  # P(|z| < .)
    highest = float(np.trapezoid(1 - below**width, z))
    return highest / math.sqrt(2 / math.pi)


def _words(
    every: dict[str, np.ndarray], named: list[str], at: int, floor: float, captured: Captured
) -> list[str]:
    chain = ", ".join(
        f"{stage_label(stage)} {short(float(np.nanmedian(v)))}" for stage, v in every.items()
    )
    words = [f"The middle input and step: {chain}; a Gaussian row of {named[at]}'s width has {short(floor)}."]  # fmt: skip
    line = next(iter(every.values()))[at]
    if np.isfinite(line).any():
        low, high = int(np.nanargmin(line)), int(np.nanargmax(line))
        words.append(f"{named[at]}: {short(float(line[high]))} at step {high}, {short(float(line[low]))} at step {low}.")  # fmt: skip
    last = list(every.values())[-1]
    if len(every) > 1 and np.isfinite(last).any():
        row, step = np.unravel_index(np.nanargmax(last), last.shape)
        words.append(f"Highest after the transforms: {named[int(row)]}, {short(float(last[row, step]))} at step {step}.")  # fmt: skip
    if len(every) < 2:
        method = captured.record.get("method")
        words.append(
            f"{method} transforms nothing here." if method else "This capture was made without a method, so nothing is known of its transforms."
        )  # fmt: skip
    return words


def _table(
    captured: Captured,
    every: dict[str, np.ndarray],
    named: list[str],
    inputs: list[dict[str, Any]],
) -> Section:
    rows, raw = [], []
    for i, label in enumerate(named):
        cells = [cell(label)]
        for stage, values in every.items():
            line = values[i]
            known = line[np.isfinite(line)]
            cells.append(cell(short(float(known.max())) if known.size else "–"))
            raw += [
                {"input": inputs[i]["name"], "stage": stage, "step": s, "incoherence": None if math.isnan(v) else float(v)}
                for s, v in enumerate(line)
            ]  # fmt: skip
        change = inputs[i]["change"]
        rows.append({"cells": [*cells, cell("–" if change is None else short(change))]})
    return table(
        "Every input",
        (
            Column("Input"),
            *(Column(stage_label(s), "", "largest over the steps") for s in every),
            Column("Largest / smallest", "", "over the steps, before transforms"),
        ),
        rows,
        raw=raw,
        source=captured.source("incoherence, mean over sampled rows"),
        part="incoherence-table",
    )
