"""The values of one input at one step, and what the levels of a number format do to them."""

from __future__ import annotations

import numpy as np

from ...plots import histogram
from ...plots.arrays import short
from ..view import Column, Section, cell, plot, table
from . import grids
from .cell import SIMULATED, At, percent
from .selection import BRANCHES, COVERS, DIFFERENCE, FORMATS


def limits(at: At) -> dict[str, tuple[float, float]]:
    """Smallest and largest value at the step, and over all steps and branches."""
    index = at.seen.inputs.index(at.entry)
    span = at.seen.summary("range", at.stage)[index].astype(float)  # [steps, branches]
    lean = at.seen.summary("asymmetry", at.stage)[index].astype(float)
    low, high = -span * (1 - lean) / 2, span * (1 + lean) / 2
    here = (at.step, at.branch)
    return {
        "step": (float(low[here]), float(high[here])),
        "all": (float(np.nanmin(low)), float(np.nanmax(high))),
    }


def grid_of(at: At, scale: str) -> grids.Grid | None:
    """The grid of one scale; for one scale per row that of the median sampled row."""
    counts, edges = at.histogram
    share = COVERS[at.chosen.cover]
    if scale == "row":
        if not len(at.rows):
            return None
        middle = at.rows[np.abs(at.rows).max(1).argsort()[len(at.rows) // 2]]
        return grids.grid(float(middle.min()), float(middle.max()), at.chosen.bits, at.chosen.symmetric)  # fmt: skip
    low, high = limits(at)[scale]
    held = counts if scale == "step" else at.all_histograms.sum(0)
    low, high = grids.covered(low, high, held, edges, share)
    return grids.grid(low, high, at.chosen.bits, at.chosen.symmetric)


def values(at: At) -> Section:
    """The histogram with the levels of the chosen format, and what that format does."""
    chosen = at.chosen
    counts, edges = at.histogram
    series = [(BRANCHES[at.branch], counts)]
    if chosen.branch == DIFFERENCE:
        other, _ = at.seen.histogram(at.entry.name, at.step, 1 - at.branch, at.stage)
        series.append((BRANCHES[1 - at.branch], other))
    grid = grid_of(at, chosen.scale)
    levels = grid.levels if grid else np.zeros(0)
    figure = histogram.figure(
        series,
        edges,
        levels,
        grid.zero if grid else (0.0, 0.0),
        grid.ends if grid else (0.0, 0.0),
        chosen.scale != "row",
        chosen.axis == "log",
    )
    sampled = int(at.seen.sampled(at.entry.name)[at.step, at.branch])
    effects = _effects(at)
    whose = " (those of the median row)" if chosen.scale == "row" else ""
    clipped = (
        ", in the red ones they are clipped"
        if chosen.scale != "row" and chosen.cover != "100"
        else ""
    )
    return plot(
        "Values",
        figure,
        alt=f"Histogram of {at.place}",
        height=300,
        source=at.source("simulated"),
        part=at.part("values"),
        lede=f"Lines: the levels of {chosen.bits} bit {FORMATS[chosen.format]}, {grids.SCALES[chosen.scale]}{whose}. In the tinted band values round to 0{clipped}.",
        badges=[at.evidence, SIMULATED],
        count=f"{sampled} rows of {at.entry.channels} values behind the histogram, {len(at.rows)} rows rounded",
        words=_value_words(at, grid, effects),
        facts=_value_facts(grid, effects.get(chosen.scale), at),
        table=_effect_table(at, effects),
    )


def _effects(at: At) -> dict[str, grids.Effect]:
    """What each scale does to the sampled rows of this step."""
    if not len(at.rows):
        return {}
    found: dict[str, grids.Effect] = {}
    for scale in grids.SCALES:
        fixed = None if scale == "row" else grid_of(at, scale)
        found[scale] = grids.effect(at.rows, at.chosen.bits, at.chosen.symmetric, fixed)
    return found


def _value_facts(
    grid: grids.Grid | None, effect: grids.Effect | None, at: At
) -> list[tuple[str, str]]:
    """The numbers that a reader looks for first."""
    if grid is None or effect is None:
        return []
    return [
        ("round to 0", percent(effect.zero)),
        ("clipped", percent(effect.clipped)),
        ("levels used", percent(effect.used)),
        ("level spacing", short(grid.step)),
        ("signal to error", "no error" if effect.sqnr_db is None else f"{effect.sqnr_db:.1f} dB"),
    ]  # fmt: skip


def _value_words(at: At, grid: grids.Grid | None, effects: dict[str, grids.Effect]) -> list[str]:
    counts, edges = at.histogram
    low, high = limits(at)["step"]
    reach = max(-low, high)
    most, _ = grids.covered(-reach, reach, counts, edges, 0.99)
    words = [f"99 % of the values lie within ±{short(-most)}; the farthest reaches {short(reach if high >= -low else low)}."]  # fmt: skip
    effect = effects.get(at.chosen.scale)
    if grid is None or effect is None:
        return [*words, "No row of this step is in the sample, so that no rounding can be shown."]
    words.append(
        f"With {grid.count} levels {short(grid.step)} apart, {percent(effect.zero)} of the values round to 0"
        f" and {percent(effect.used)} of the levels hold values."
    )
    if {"row", "all"} <= set(effects):
        row, fixed = effects["row"].sqnr_db, effects["all"].sqnr_db
        if row is not None and fixed is not None:
            gain = row - fixed
            if gain >= 1:
                words.append(f"A scale per row is {gain:.1f} dB better here than one scale for all steps.")  # fmt: skip
            elif gain > -1:
                words.append("A scale per row gains little here over one scale for all steps.")
            else:
                words.append(f"Here one clipped scale for all steps is {-gain:.1f} dB better than a scale per row.")  # fmt: skip
    negative = float(counts[: len(counts) // 2].sum() / max(int(counts.sum()), 1))
    if at.chosen.symmetric and (negative < 0.02 or negative > 0.98 or min(-low, high) < 0.15 * reach):  # fmt: skip
        words.append(
            "Nearly all of the range is on one side of 0: half of a symmetric grid is idle."
        )
    return words


def _effect_table(at: At, effects: dict[str, grids.Effect]) -> Section | None:
    """The three scales beside one another."""
    if not effects:
        return None
    rows = []
    raw = []
    for scale, effect in effects.items():
        rows.append(
            {
                "cells": [
                    cell(grids.SCALES[scale]),
                    cell("exact" if effect.sqnr_db is None else f"{effect.sqnr_db:.1f}"),
                    cell(percent(effect.zero)),
                    cell(percent(effect.clipped)),
                    cell(percent(effect.used)),
                ],
                "mark": "" if scale == at.chosen.scale else "rung",
            }
        )
        raw.append({"scale": scale, "bits": at.chosen.bits, "format": at.chosen.format, "cover": at.chosen.cover, **vars(effect)})  # fmt: skip
    return table(
        "Scales compared",
        (
            Column("Scale"),
            Column("Signal", "dB", "energy of the values over that of the rounding error"),
            Column("To 0", "", "values that round to zero"),
            Column("Clipped", "", "values beyond the outermost level"),
            Column("Levels", "", "levels that hold at least one value in 10 000"),
        ),
        rows,
        raw=raw,
        source=at.source("simulated"),
        part=at.part("scales"),
    )
