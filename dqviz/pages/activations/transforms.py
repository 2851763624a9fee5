"""One input before and after each transform of a method, and the weights that read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quant.summaries import STATISTICS

from ...plots import profile
from ...plots.arrays import short
from ..view import Column, Section, cell, plot, table
from . import grids
from .cell import SIMULATED, At, outliers
from .opened import stage_label


def before_and_after(at: At) -> Section:
    """The channels before and after each transform, side by side; without any, how to get them."""
    if len(at.entry.stages) < 2:
        return _no_stages(at)
    profiles = []
    for stage in at.entry.stages:
        found = at.seen.channels(at.entry.name, at.step, at.branch, stage)
        profiles.append(("before" if stage == "input" else stage, found, outliers(found)))
    index = at.seen.inputs.index(at.entry)
    keys = ("incoherence", "absmax", "channel_imbalance", "kurtosis", "row_spread")
    numbers = {s: {k: float(at.seen.summary(k, s)[index, at.step, at.branch]) for k in keys} for s in at.entry.stages}  # fmt: skip
    chain = " → ".join(short(numbers[s]["incoherence"]) for s in at.entry.stages)
    first, last = (numbers[s]["incoherence"] for s in (at.entry.stages[0], at.entry.stages[-1]))
    verdict = f"{short(first / last)} times less" if last < first * 0.95 else "no less than before" if last > first * 0.95 and last < first * 1.05 else f"{short(last / first)} times more"  # fmt: skip
    effects = {s: _stage_effect(at, s) for s in at.entry.stages}
    words = [f"Incoherence (largest over mean magnitude): {chain}, {verdict}."]
    db = [e.sqnr_db for e in (effects[at.entry.stages[0]], effects[at.entry.stages[-1]]) if e]
    if len(db) == 2 and db[0] is not None and db[1] is not None:
        gain = db[1] - db[0]
        words.append(
            f"At {at.chosen.bits} bit with a scale per row, the signal stands {abs(gain):.1f} dB "
            f"{'higher' if gain >= 0 else 'lower'} above the rounding error than without transforms."
        )
    heads = [STATISTICS[k].title for k in keys]
    return plot(
        "Before and after",
        profile.stages(profiles),
        alt=f"Channels of {at.label} at step {at.step} before and after each transform",
        height=300,
        source=at.source("simulated"),
        part=at.part("stages"),
        lede="The same channels on one scale: smallest to largest value, before and after each transform of the method. Rings: outlier channels.",
        badges=[at.evidence, SIMULATED],
        words=words,
        wide=True,
        table=table(
            "Stages compared",
            (Column("Stage"), *(Column(h) for h in heads), Column("Signal", "dB", "a scale per row, chosen bits")),
            [
                {"cells": [cell(stage_label(s)), *(cell(short(v)) for v in numbers[s].values()), cell(_decibels(effects[s]))]}
                for s in at.entry.stages
            ],
            raw=[{"stage": s, **numbers[s], "sqnr_db": e.sqnr_db if (e := effects[s]) else None} for s in at.entry.stages],
            source=at.source("simulated"),
            part=at.part("stages-table"),
        ),
    )  # fmt: skip


def _no_stages(at: At) -> Section:
    """Why there is nothing to compare, and what would change that."""
    hint: Section = {"kind": "hint", "title": "Before and after", "wide": True}
    if len(at.seen.stages) > 1:
        return {**hint, "text": "The method of this capture does not transform this input."}
    return {
        **hint,
        "text": "This capture holds the untransformed inputs. With a method, it also holds what each of its transforms makes of them:",
        "command": f"dqviz capture {at.opened.key} --method viditq --bits w4a8",
    }


def _stage_effect(at: At, stage: str) -> grids.Effect | None:
    rows, steps, branches = at.seen.rows(at.entry.name, stage)
    own = rows[(steps == at.step) & (branches == at.branch)]
    return grids.effect(own, at.chosen.bits, at.chosen.symmetric, None) if len(own) else None


def _decibels(effect: grids.Effect | None) -> str:
    return "–" if effect is None or effect.sqnr_db is None else f"{effect.sqnr_db:.1f}"


def weights(at: At) -> Section | None:
    """Largest weight per input channel, of every layer that reads this input, before and after."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    window = at.seen.window(at.step)
    for site in at.entry.sites:
        for stage in at.entry.stages:
            try:
                found.append((site, stage, at.seen.weights(site, stage, window)))
            except KeyError:
                continue
    if not found:
        return None
    single = len(at.entry.sites) == 1
    shown = at.stage if any(stage == at.stage for _, stage, _ in found) else "input"
    series = []
    for i, (site, stage, read) in enumerate((s, g, r) for s, g, r in found if single or g == shown):
        name = stage_label(stage) if single else site.rpartition(".")[2]
        series.append((name, read["in_absmax"], f"var(--run-{i % 6 + 1})"))
    rows = [
        {"cells": [cell(site), cell(stage_label(stage)), cell(short(read["incoherence"])), *(cell(short(v)) for v in _weight_numbers(read))]}
        for site, stage, read in found
    ]  # fmt: skip
    return plot(
        "Weights",
        profile.magnitudes(series, "input channel"),
        alt=f"Largest weight per input channel of the layers that read {at.label}",
        height=280,
        source=at.source(),
        part=at.part("weights"),
        lede="The largest |w| per input channel of the layers that read this input: what a channel scale moves here from the activation."
        + (f" After transforms: of window {window + 1} of {len(at.seen.windows)}, that of this step." if at.seen.windows else ""),
        badges=[at.evidence],
        words=_weight_words(found),
        wide=True,
        table=table(
            "Weights compared",
            (
                Column("Layer"),
                Column("Stage"),
                Column("Incoherence", "", "largest over mean |w|"),
                Column("Largest |w|"),
                Column("Input channels", "", "largest over median of the channels' largest |w|"),
                Column("Output rows", "", "largest over median of the rows' largest |w|"),
            ),
            rows,
            raw=[
                {"site": site, "stage": stage, "incoherence": read["incoherence"], **dict(zip(("absmax", "in_imbalance", "out_imbalance"), _weight_numbers(read)))}
                for site, stage, read in found
            ],
            source=at.source(),
            part=at.part("weights-table"),
        ),
    )  # fmt: skip


def _weight_numbers(read: dict[str, Any]) -> list[float]:
    """Largest |w|, and how far the largest input channel and output row stand above the median one."""
    into, out = read["in_absmax"], read["out_absmax"]
    return [
        float(into.max()),
        *(float(a.max()) / max(float(np.median(a)), 1e-12) for a in (into, out)),
    ]


def _weight_words(found: Sequence[tuple[str, str, dict[str, Any]]]) -> list[str]:
    site, stage, read = max(found, key=lambda f: f[2]["incoherence"] if f[1] == "input" else -1.0)
    top = int(read["in_absmax"].argmax())
    words = [f"{site}: input channel {top} holds the largest weights; incoherence {short(read['incoherence'])}."]  # fmt: skip
    after = [r for s, g, r in found if s == site and g != stage]
    if after:
        last = after[-1]["incoherence"]
        change = "up" if last > read["incoherence"] * 1.05 else "down" if last < read["incoherence"] * 0.95 else "unchanged"  # fmt: skip
        words.append(f"After the transforms it is {change}{'' if change == 'unchanged' else f' to {short(last)}'}.")  # fmt: skip
    return words
