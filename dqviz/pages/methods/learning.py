"""Learning curves: the losses over the steps, stage by stage, while a job runs and after."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ...learnings import part_of, stage_label
from ...plots import learning as plots
from ...plots.arrays import short
from ...terminal import duration
from ..exports import Source
from ..view import Column, Section, cell, plot, table
from .learned import Learned, drawn, picked
from .opened import Opened, View
from .selection import Selection

VIEW = View("learning", "Learning curves", 1, None, keys=("run",), learned="")
HEIGHT = 360
LEDE = "What is minimised is the loss; every other line is told beside it. Each stage has its own objective, so compare inside a stage."


def section(opened: Opened, chosen: Selection) -> Section:
    """The curves of one learning; without any, how to learn."""
    found = opened.learned
    if found is None or not found.losses:
        return _empty(opened, found)
    curves = {name: _points(found, name) for name in _names(found)}
    stages = stages_of(found)
    source = found.source(opened.study, "simulated")
    figure = plot(
        VIEW.title,
        plots.losses(curves, parts_of(stages), found.steps, [n for n in curves if n.startswith("hard")]),
        alt=f"Losses of {found.label} over {found.done} of {found.steps} steps in {len(stages)} stages: {', '.join(curves)}",
        height=HEIGHT,
        source=source,
        part="losses",
        raw=[{"step": line["step"], "stage": line["stage"], **line["losses"]} for line in found.losses],
        narrow={"margin": {"l": 48, "r": 6, "t": 8, "b": 44}, "annotations": []},
    )  # fmt: skip
    runs = [(each.name, each.told_apart) for each in reversed(opened.learnings)]
    return drawn(
        VIEW.title,
        LEDE,
        [found.badge("simulated")],
        [figure],
        picks=[picked("run", "Run", runs, found.name)] if len(runs) > 1 else [],
        facts=_facts(found),
        words=_words(found, stages),
        table=_table(found, stages, source),
    )


def stages_of(found: Learned) -> list[tuple[str, int, int]]:
    """Name, first and last logged step of every stage, in order."""
    runs = itertools.groupby(found.losses, key=lambda line: str(line["stage"]))
    spans = [(stage, list(lines)) for stage, lines in runs]
    return [(stage, int(lines[0]["step"]), int(lines[-1]["step"])) for stage, lines in spans]


def parts_of(stages: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The same of what stages work on: losses of one part may be compared."""
    runs = ((part, list(own)) for part, own in itertools.groupby(stages, key=lambda s: part_of(s[0])))  # fmt: skip
    return [(part, own[0][1], own[-1][2]) for part, own in runs]


def _names(found: Learned) -> list[str]:
    """Names of the losses: the one that is minimised, then those of the hard numbers, then others."""
    names = dict.fromkeys(name for line in found.losses for name in line["losses"])
    return sorted(names, key=lambda n: (n != "loss", not n.startswith("hard")))


def _points(found: Learned, name: str) -> list[tuple[int, float]]:
    return [(int(line["step"]), float(line["losses"][name])) for line in found.losses if name in line["losses"]]  # fmt: skip


def _facts(found: Learned) -> list[tuple[str, str, str]]:
    last = found.losses[-1]
    facts = [("steps", str(found.done), f"of {found.steps}, {found.state}"), ("stage", stage_label(str(last["stage"])), "")]  # fmt: skip
    if found.running and found.seconds_left is not None:
        facts.insert(1, ("left", duration(found.seconds_left), "of the whole job"))
    return facts + [(f"last {name.replace('_', ' ')}", short(float(value)), "") for name, value in last["losses"].items()][:3]  # fmt: skip


def _words(found: Learned, stages: Sequence[tuple[str, int, int]]) -> list[str]:
    words = []
    if found.state == "stopped" and found.why:
        words.append(f"It failed after step {found.done} of {found.steps}: {found.why}.")
    elif found.state == "stopped":
        words.append(f"It stopped after step {found.done} of {found.steps}; resume its job on the Runs page, or give its command again, and it {_again(found)}.")  # fmt: skip
    for stage, first, last in stages if len(stages) <= 4 else ():
        if compared := _ends(found, first, last):
            *ends, what = compared
            early, late = (sum(part) / len(part) for part in ends)
            change = f"{short(100 * abs(late / early - 1), 2)} % {'less' if late < early else 'more'}" if early else "-"  # fmt: skip
            words.append(f"{stage_label(stage)}: the loss is {short(early)} on average in the first {what} of the stage and {short(late)} in the last, {change}.")  # fmt: skip
    if any(n.startswith("hard") for n in _names(found)):
        words.append("While codes are soft, the loss flatters; the hard line is the error with the codes as they would be stored.")  # fmt: skip
    return words


def _again(found: Learned) -> str:
    """Where it would go on: its state is written now and then, so one that was killed has lost steps."""
    if not found.kept:
        return "begins anew: there is no state to go on from"
    return "goes on from there" if found.kept >= found.done else f"goes on from step {found.kept}, the last whose state was kept"  # fmt: skip


def _ends(found: Learned, first: int, last: int) -> tuple[Sequence[float], Sequence[float], str] | None:  # fmt: skip
    """Losses at both ends of a stage that may be compared, and what those ends are.

    Along trajectories the loss depends on the noise level more than on what was learned, so the ends are
    whole trajectories, logged step by step; elsewhere they are quarters.
    """
    points = {k: v for k, v in _points(found, "loss") if first <= k <= last}
    length = _trajectory(found)
    if not length:
        values, count = list(points.values()), len(points) // 4
        return (values[:count], values[-count:], "quarter") if count else None
    offset = found.steps % length  # learning ends with a trajectory
    begins = range(first + (offset - first) % length, last + 2 - length, length)
    whole = [[points[k] for k in range(b, b + length)] for b in begins if all(k in points for k in range(b, b + length))]  # fmt: skip
    return (whole[0], whole[-1], f"trajectory ({length} steps)") if len(whole) > 1 else None


def _trajectory(found: Learned) -> int:
    """Steps of a trajectory where all blocks are learned along one after another; else 0."""
    walks = found.option("order") == "trajectory" and found.option("block_input") != "teacher"
    return int(found.option("steps")) if walks else 0


def _table(found: Learned, stages: Sequence[tuple[str, int, int]], source: Source) -> Section:
    names = _names(found)
    rows, raw = [], []
    for stage, first, last in stages:
        cells = [cell(stage_label(stage)), cell(f"{first}–{last}")]
        kept: dict[str, object] = {"stage": stage, "first_step": first, "last_step": last}
        for name in names:
            values = [v for k, v in _points(found, name) if first <= k <= last]
            cells.append(cell(f"{short(values[0])} → {short(values[-1])}", f"least {short(min(values))}") if values else cell("–"))  # fmt: skip
            if values:
                kept |= {f"{name}_first": values[0], f"{name}_last": values[-1], f"{name}_least": min(values)}  # fmt: skip
        rows.append({"cells": cells})
        raw.append(kept)
    return table(
        "Stages, as a table",
        (Column("Stage"), Column("Steps"), *(Column(name.replace("_", " "), "", "first and last of the stage") for name in names)),
        rows,
        raw=raw,
        source=source,
        part="losses-stages",
    )  # fmt: skip


def _empty(opened: Opened, found: Learned | None) -> Section:
    text = f"This study holds no learning of {opened.method_title} at {opened.bits} yet. A comparison with the method learns, and its curves stand here while it does."
    if found is not None:
        text = f"{found.label} has begun; its first step is not written down yet."
        if not found.running:
            text += (
                " If it was stopped, resume its job on the Runs page, or give its command again."
            )
    learn = {} if found is not None else dict(opened.to_learn)
    return drawn(VIEW.title, "", [], [], words=[], empty=text, learn=learn)
