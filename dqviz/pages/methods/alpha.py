"""Alpha: how much of the difficulty moves into the weight, what it costs every input, and setting it.

What is set stands in the address as `NAME:ALPHA;..`, where NAME is `*`, a pattern for all inputs of a kind,
or an input: the names that the option alpha of the method takes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ...plots import alphas as plots
from ...plots import heatmap
from ...plots.arrays import short
from ..activations.selection import block_label, kind_label
from ..view import Column, Section, cell, plot, table
from .opened import Opened, View
from .selection import Selection

VIEW = View("alpha", "Error over alpha", 20, "alpha", keys=("alphas", "scope", "split", "curve"))

ROTATIONS = {"hadamard": "Hadamard", "blocks": "greedy blocks"}
KINDS = {  # of a method's option transform: the ways that it leaves open
    "plain": ("plain",),
    "scale": ("scale",),
    "rotate": ("rotate",),
    "both": ("both",),
    "choose": ("plain", "rotate", "scale", "both"),
    "incoherence": ("both",),
}
HEIGHT = 400


@dataclass(frozen=True)
class Setting:
    """One alpha for the inputs that a name fits."""

    name: str
    alpha: float


def section(opened: Opened, chosen: Selection) -> Section:
    """The map of all inputs, the curves of one, what is set, and what comes of it."""
    data = opened.data("alpha")
    alphas = [float(a) for a in data["alphas"]]
    inputs = {str(e["name"]): e for e in data["inputs"]}
    names = [e.name for e in opened.inputs if e.name in inputs]
    site = chosen.site if chosen.site in inputs else names[0]
    shown = chosen.one_of("curve", ("both", "scale"), "both")
    split = chosen.one_of("split", ("on", "off"), "on") == "on"
    settings, problems = read(chosen.values.get("alphas", ""), names, alphas)
    own = value_of(settings, site)
    window = min(chosen.window, len(inputs[site]["windows"]) - 1)
    kinds = KINDS.get(str(opened.options.get("transform", "both")), ("both",))
    rotation = ROTATIONS.get(str(data["rotation"]), str(data["rotation"]))
    names_of = {"both": f"scale + {rotation}", "scale": "scale alone"}
    of_site = f"{opened.labels[site]}{_of_window(opened, window)}"
    source = opened.source("alpha", of_site)
    found = opened.probes["alpha"]
    curves = plot(
        of_site,
        _curve(inputs[site]["windows"][window], alphas, rotation, own, split),
        alt=f"Output error of {of_site} over alpha",
        height=max(HEIGHT, heatmap.height(len(names))),
        source=source,
        part="alpha-curve",
        lede="Click a point to set alpha there." + (" Dotted and dashed: what rounding the weight or the activation alone leaves." if split else ""),
        badges=[found.badge],
        narrow={"margin": {"l": 52, "r": 6, "t": 8, "b": 44}},
    )  # fmt: skip
    return {
        "kind": "alpha",
        "title": VIEW.title,
        "lede": "A small alpha leaves the scale to flatten the weight, a large one to flatten the activation. Every input has its own best.",
        "badges": [found.badge],
        "map": _map(opened, inputs, names, window, alphas, shown, names_of[shown], site),
        "curve": curves,
        "rows": names,
        "alphas": alphas,
        "site": site,
        "row": names.index(site),
        "set_to": own,
        "settings": [{"name": s.name, "alpha": s.alpha, "label": _label(s.name, opened)} for s in settings],
        "scopes": _scopes(opened, names, site),
        "scope": chosen.one_of("scope", ("input", "kind", "all"), "input"),
        "shown": shown,
        "shown_names": list(names_of.items()),
        "split": split,
        "options": options_of(settings),
        "words": [*problems, *_words(opened, inputs, names, site, window, alphas, kinds, settings, names_of)],
        "table": _table(opened, inputs, names, window, alphas, kinds, settings),
        "method": opened.method,
        "bits": opened.bits,
        "model": opened.key,
    }  # fmt: skip


# -- what is set ---------------------------------------------------------------------------------------


def read(
    text: str, names: Sequence[str], alphas: Sequence[float]
) -> tuple[list[Setting], list[str]]:
    """Settings out of an address, names of single inputs first; sentences about what does not fit."""
    settings: list[Setting] = []
    problems: list[str] = []
    for part in filter(None, text.split(";")):
        name, _, value = part.rpartition(":")
        try:
            alpha = round(float(value), 6)
        except ValueError:
            alpha = math.nan
        if alpha not in alphas or not any(fnmatchcase(n, name) for n in names):
            problems.append(f"The link sets alpha for {name[:60]!r} to {value[:12]!r}, which cannot be had here.")  # fmt: skip
            continue
        settings = [s for s in settings if s.name != name] + [Setting(name, alpha)]
    order = {"*": 2}
    return sorted(settings, key=lambda s: order.get(s.name, 0 if s.name in names else 1)), problems


def value_of(settings: Sequence[Setting], name: str) -> float | None:
    """Alpha of an input, as `quant.alphas` resolves it; None where it is searched."""
    exact = [s.alpha for s in settings if s.name == name]
    fitting = [s.alpha for s in settings if fnmatchcase(name, s.name)]
    return next(iter((*exact, *fitting)), None)


def options_of(settings: Sequence[Setting]) -> dict[str, Any]:
    """As options of the method; empty where everything is searched."""
    if not settings:
        return {}
    if [s.name for s in settings] == ["*"]:
        return {"alpha": settings[0].alpha}
    return {"alpha": {s.name: s.alpha for s in settings}}


def pattern_of(name: str, kind: str, kinds: Mapping[str, str]) -> str | None:
    """A pattern that fits exactly the inputs of a kind, from the name of one; None where there is none."""
    parts = name.split(".")
    candidates = [
        ".".join("*" if k == i else part for k, part in enumerate(parts))
        for i, part in enumerate(parts)
        if part.isdigit()
    ]
    for pattern in candidates:
        if {n for n in kinds if fnmatchcase(n, pattern)} == {n for n, k in kinds.items() if k == kind}:  # fmt: skip
            return pattern
    return None


def _scopes(opened: Opened, names: Sequence[str], site: str) -> list[dict[str, Any]]:
    """What a click may set: this input, its kind, all; each with its name and the inputs that it covers."""
    kinds = {n: kind_label(opened.entry(n)) for n in names}
    alike = [n for n in names if kinds[n] == kinds[site]]
    found = [{"key": "input", "label": "this input", "name": site, "covers": [site]}]
    pattern = pattern_of(site, kinds[site], kinds)
    if pattern is not None and len(alike) > 1:
        found.append({"key": "kind", "label": f"all {kinds[site]} ({len(alike)})", "name": pattern, "covers": alike})  # fmt: skip
    return [*found, {"key": "all", "label": f"all inputs ({len(names)})", "name": "*", "covers": list(names)}]  # fmt: skip


def _label(name: str, opened: Opened) -> str:
    return "all inputs" if name == "*" else opened.labels.get(name, name)


# -- figures -------------------------------------------------------------------------------------------


def percent(squared: float) -> float:
    """A mean squared relative error as a relative error in percent."""
    return 100 * math.sqrt(squared)


def _of_window(opened: Opened, window: int) -> str:
    return f", {opened.windows[window].label}" if len(opened.windows) > 1 else ""


def _curve(
    found: Mapping[str, Any], alphas: Sequence[float], rotation: str, own: float | None, split: bool
) -> dict[str, Any]:
    """The figure of one input and window."""

    def parts(kind: str) -> dict[str, list[float]]:
        return {part: [percent(e) for e in values] for part, values in found[kind].items()}

    return plots.curve(
        alphas,
        {
            f"scale + {rotation}": ("var(--run-1)", parts("both")),
            "scale alone": ("var(--run-2)", parts("scale")),
        },
        {
            "plain": ("var(--run-0)", percent(found["plain"]["error"])),
            f"{rotation} alone": ("var(--run-4)", percent(found["rotate"]["error"])),
        },
        own,
        split,
    )


def _map(
    opened: Opened,
    inputs: Mapping[str, Any],
    names: Sequence[str],
    window: int,
    alphas: Sequence[float],
    kind: str,
    title: str,
    site: str,
) -> Section:
    """Inputs x alpha: the error over the least of the row."""
    errors = np.array([inputs[n]["windows"][min(window, len(inputs[n]["windows"]) - 1)][kind]["error"] for n in names])  # fmt: skip
    times = np.sqrt(errors / errors.min(1, keepdims=True))
    labels = [opened.labels[n] for n in names]
    figure = heatmap.sites(
        times,
        labels,
        [block_label(opened.entry(n).block) for n in names],
        [f"{a:g}" for a in alphas],
        "log",
        "× the least of the row",
    )
    figure["data"][0]["xgap"] = 1
    figure["layout"]["xaxis"] |= {"type": "category", "title": {"text": "alpha", "standoff": 8}}
    best = errors.argmin(1)
    figure["data"].append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "least",
            "x": [f"{alphas[k]:g}" for k in best],
            "y": figure["data"][0]["y"],
            "hoverinfo": "skip",
            "showlegend": False,
            "marker": {"symbol": "circle", "size": 6, "color": "#ffffff"},
        }
    )
    return plot(
        "All inputs",
        figure,
        alt=f"Output error of {len(names)} inputs over alpha, over the least of each; {opened.labels[site]} is chosen",
        height=heatmap.height(len(names)),
        source=opened.source("alpha", f"{title}{_of_window(opened, window)}"),
        part=f"alpha-map-{kind}",
        lede=f"{title[:1].upper()}{title[1:]}{_of_window(opened, window)}: error over the least of its row. A dot is that least; click a cell to set alpha there.",
        narrow={
            "margin": {"l": 4, "r": 4, "t": 8, "b": 44},
            "xaxis": {**figure["layout"]["xaxis"], "dtick": 2, "tickangle": 0},
        },
    )


# -- words and table -----------------------------------------------------------------------------------


def left(found: Mapping[str, Any], kinds: Sequence[str], place: int | None) -> float:
    """The least error in one window of the ways that a method leaves open, at one alpha or the best."""
    every = []
    for kind in kinds:
        if kind in ("plain", "rotate"):
            every.append(float(found[kind]["error"]))
        else:
            values = found[kind]["error"]
            every.append(float(min(values) if place is None else values[place]))
    return min(every)


def _mean_left(
    inputs: Mapping[str, Any],
    names: Sequence[str],
    alphas: Sequence[float],
    kinds: Sequence[str],
    settings: Sequence[Setting],
) -> float:
    """Mean over inputs and windows of what is left, in percent."""
    values = []
    for name in names:
        own = value_of(settings, name)
        place = None if own is None else list(alphas).index(own)
        values += [left(found, kinds, place) for found in inputs[name]["windows"]]
    return percent(sum(values) / len(values))


def _words(
    opened: Opened,
    inputs: Mapping[str, Any],
    names: Sequence[str],
    site: str,
    window: int,
    alphas: Sequence[float],
    kinds: Sequence[str],
    settings: Sequence[Setting],
    names_of: Mapping[str, str],
) -> list[str]:
    found = inputs[site]["windows"][window]
    said = []
    for kind, name in names_of.items():
        errors = found[kind]["error"]
        k = min(range(len(alphas)), key=errors.__getitem__)
        said.append(f"{name} {short(percent(errors[k]))} % at alpha {alphas[k]:g}")
    plain = short(percent(found["plain"]["error"]))
    words = [f"{opened.labels[site]}{_of_window(opened, window)}: {', '.join(said)}; plain {plain} %."]  # fmt: skip
    searched = _mean_left(inputs, names, alphas, kinds, ())
    mean = f"Over all {len(names)} inputs"
    if not settings:
        return [*words, f"{mean}, alpha searched for each: {short(searched)} %."]
    chosen = _mean_left(inputs, names, alphas, kinds, settings)
    change = 100 * (chosen / searched - 1)
    verdict = "the same" if abs(change) < 0.05 else f"{abs(change):.1f} % {'more' if change > 0 else 'less'}"  # fmt: skip
    return [*words, f"{mean}: {short(chosen)} % as set, {short(searched)} % with alpha searched for each: {verdict}."]  # fmt: skip


def _table(
    opened: Opened,
    inputs: Mapping[str, Any],
    names: Sequence[str],
    window: int,
    alphas: Sequence[float],
    kinds: Sequence[str],
    settings: Sequence[Setting],
) -> Section:
    """Every input: best alpha of either curve, errors, what is set."""
    rows: list[dict[str, Any]] = []
    raw: list[dict[str, Any]] = []
    for name in names:
        found = inputs[name]["windows"][min(window, len(inputs[name]["windows"]) - 1)]
        own = value_of(settings, name)
        place = None if own is None else list(alphas).index(own)
        best = {
            kind: min(range(len(alphas)), key=found[kind]["error"].__getitem__)
            for kind in ("both", "scale")
        }
        cells = [cell(opened.labels[name])]
        for kind, k in best.items():
            cells.append(cell(f"{short(percent(found[kind]['error'][k]))} %", f"alpha {alphas[k]:g}"))  # fmt: skip
        cells += [cell(f"{short(percent(found[kind]['error']))} %") for kind in ("rotate", "plain")]
        cells.append(cell(f"{short(percent(left(found, kinds, place)))} %", "searched" if own is None else f"alpha {own:g}"))  # fmt: skip
        rows.append({"cells": cells})
        raw += _raw(name, window, found, alphas)
    return table(
        f"Every input{_of_window(opened, window)}",
        (
            Column("Input"),
            Column("Scale + rotation", "", "least over alpha"),
            Column("Scale alone", "", "least over alpha"),
            Column("Rotation alone"),
            Column("Plain"),
            Column("As set", "", "the least of the ways that the method leaves open"),
        ),
        rows,
        note="Relative output error on calibration rows. The CSV has every alpha and part.",
        raw=raw,
        source=opened.source("alpha", "calibration rows"),
        part="alpha-table",
    )


def _raw(
    name: str, window: int, found: Mapping[str, Any], alphas: Sequence[float]
) -> list[dict[str, Any]]:
    """Squared errors of one input in one window, a row per way and alpha."""
    parts = ("error", "weight", "activation")
    rows = [
        {"input": name, "window": window, "way": kind, "alpha": None, **{p: found[kind][p] for p in parts}}
        for kind in ("plain", "rotate")
    ]  # fmt: skip
    for kind in ("scale", "both"):
        rows += [
            {"input": name, "window": window, "way": kind, "alpha": a, **{p: found[kind][p][k] for p in parts}}
            for k, a in enumerate(alphas)
        ]  # fmt: skip
    return rows
