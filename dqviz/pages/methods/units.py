"""Units learned one after another: the error of each with its codes as they are stored, before and now, and of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...plots import learning as plots
from ...plots.arrays import short
from ..view import Column, Section, cell, plot, table
from .learned import Learned, drawn, label_of, picked
from .opened import Opened, View
from .selection import Selection

VIEW = View("units", "Units, as stored", 15, None, keys=("against",), learned="units")
LEDE = "Squared error of a unit's output with hard codes, the ones that are stored: from rounding to nearest to what was learned. The soft error is what learning saw; the gap to it is the price of deciding."
NONE = "-"
TITLE = "hard squared error"
UNDECIDED = {
    "running": "Undecided so far",
    "stopped": "Undecided where it stopped",
    "done": "Still undecided at the end",
}


def section(opened: Opened, chosen: Selection) -> Section:
    """Every unit from before to now; with another run, the two beside one another."""
    found = opened.learned
    assert found is not None
    units = by_unit(found)
    source = found.source(opened.study, "simulated")
    labels = [label_of(name) for name in units]
    figure = plots.moved(labels, _of(units, "hard_before"), _of(units, "hard_now"), ("nearest", "learned"), TITLE, log=True)  # fmt: skip
    soft = [u.get("soft") for u in units.values()]
    if any(v is not None for v in soft):
        figure["data"].append({"type": "scatter", "mode": "markers", "name": "learned, soft", "y": figure["data"][1]["y"], "x": soft, "marker": {"color": "var(--dq-muted)", "symbol": "x-thin", "size": 7, "line": {"width": 2, "color": "var(--dq-muted)"}}, "hovertemplate": "%{y}<br>soft: <b>%{x:.3g}</b><extra></extra>"})  # fmt: skip
    figures = [
        plot(
            "From nearest to learned",
            figure,
            alt=f"{TITLE} of {len(units)} units, rounded to nearest and learned: {_mean_change(units)}",
            height=plots.rows_height(len(units)),
            source=source,
            part="units",
            raw=[dict(u) for u in units.values()],
            **plots.small(figure, plots.rows_height(len(units))),
        )
    ]  # fmt: skip
    others = {each.name: each for each in opened.learnings if each.name != found.name and each.has("units")}  # fmt: skip
    other = others.get(chosen.values.get("against", ""), next(reversed(others.values()), None))
    if chosen.values.get("against") == NONE:
        other = None
    words = _words(found, units)
    if other is not None:
        made, said = _beside(found, other, units, opened)
        figures.append(made)
        words.append(said)
    runs = [(NONE, "nothing"), *((name, each.told_apart) for name, each in others.items())]
    return drawn(
        VIEW.title,
        LEDE,
        [found.badge("simulated")],
        figures,
        picks=[picked("against", "Beside", runs, NONE if other is None else other.name)] if others else [],
        words=words,
        table=_table(units, source),
        beside=other is not None,
    )  # fmt: skip


def by_unit(found: Learned) -> dict[str, Mapping[str, Any]]:
    """The latest that is known of every unit that was begun, in order; a mode is told where the method has several."""
    left_out = () if found.option("mode") else ("mode",)
    told = ({k: v for k, v in u.items() if k not in left_out} for u in found.last("units"))
    return {str(u["unit"]): u for u in told if u.get("hard_now") is not None}


def _of(units: Mapping[str, Mapping[str, Any]], key: str) -> list[float]:
    return [float(u[key]) for u in units.values()]


def _ratio(units: Mapping[str, Mapping[str, Any]]) -> float:
    """Geometric mean of the error now over the error before."""
    pairs = [(a, b) for a, b in zip(_of(units, "hard_now"), _of(units, "hard_before"), strict=True) if a > 0 and b > 0]  # fmt: skip
    return float(np.exp(np.mean([np.log(a / b) for a, b in pairs]))) if pairs else 1.0


def _mean_change(units: Mapping[str, Mapping[str, Any]]) -> str:
    return f"{_less(_ratio(units))} error than rounding to nearest on average"


def _less(ratio: float) -> str:
    """`20 % less`."""
    return f"{short(100 * abs(ratio - 1), 3)} % {'less' if ratio < 1 else 'more'}"


def _called(found: Learned) -> str:
    """What a run is called: by its mode where its method has several, else by the run itself."""
    return str(found.option("mode") or found.label)


def _words(found: Learned, units: Mapping[str, Mapping[str, Any]]) -> list[str]:
    better = sum(a < b for a, b in zip(_of(units, "hard_now"), _of(units, "hard_before"), strict=True))  # fmt: skip
    words = [f"{_called(found)}: {_mean_change(units)} (geometric mean), and less in {better} of {len(units)} units."]  # fmt: skip
    undecided = {n: float(u["undecided"]) for n, u in units.items() if u.get("undecided") is not None}  # fmt: skip
    if undecided:
        most = max(undecided, key=lambda n: undecided[n])
        words.append(f"{UNDECIDED[found.state]}: {short(100 * undecided[most])} % of the weights at most, in {label_of(most)}.")  # fmt: skip
    return words


def _beside(
    found: Learned, other: Learned, units: Mapping[str, Mapping[str, Any]], opened: Opened
) -> tuple[Section, str]:
    """Two runs over the units that both have: the figure, and who leaves less."""
    theirs = by_unit(other)
    shared = [name for name in units if name in theirs]
    ours = [float(units[n]["hard_now"]) for n in shared]
    them = [float(theirs[n]["hard_now"]) for n in shared]
    names = (_called(other), _called(found))
    if names[0] == names[1]:
        names = (other.name, found.name)
    ratio = float(np.exp(np.mean(np.log(np.array(ours) / np.array(them))))) if shared and min(ours + them) > 0 else 1.0  # fmt: skip
    figure = plots.moved([label_of(n) for n in shared], them, ours, names, TITLE, log=True)
    made = plot(
        f"Beside {other.told_apart}",
        figure,
        alt=f"{TITLE} of {len(shared)} units: {names[0]} and {names[1]}, mean ratio {short(ratio)}",
        height=plots.rows_height(len(shared)),
        source=found.source(opened.study, "simulated", f"{found.name} beside {other.name}"),
        part="units-beside",
        raw=[{"unit": n, names[0]: a, names[1]: b} for n, a, b in zip(shared, them, ours, strict=True)],
        **plots.small(figure, plots.rows_height(len(shared))),
    )  # fmt: skip
    less = sum(a < b for a, b in zip(ours, them, strict=True))
    said = f"{names[1]} leaves {_less(ratio)} error than {names[0]} on average over {len(shared)} units, and less in {less} of them."  # fmt: skip
    return made, said


def _table(units: Mapping[str, Mapping[str, Any]], source: Any) -> Section:
    def number(value: Any, share: bool = False) -> dict[str, Any]:
        text = "–" if value is None else f"{short(100 * float(value))} %" if share else short(float(value))  # fmt: skip
        return cell(text)

    rows = [
        {
            "cells": [
                cell(label_of(n), str(u.get("mode") or "")),
                *(number(u.get(key)) for key in ("hard_before", "hard_now", "soft")),
                number(u.get("undecided"), share=True),
            ]
        }
        for n, u in units.items()
    ]
    columns: Sequence[Column] = (
        Column("Unit"),
        Column("Nearest", "", "squared error of the output, rounded to nearest"),
        Column("Learned", "", "with the learned codes, as they are stored"),
        Column("Soft", "", "with the soft codes that learning saw"),
        Column("Undecided", "", "weights between two codes"),
    )
    return table("Units, as a table", columns, rows, raw=[dict(u) for u in units.values()], source=source, part="units-table")  # fmt: skip
