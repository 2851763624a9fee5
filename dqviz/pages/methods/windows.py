"""The window editor: where the steps are cut, what each cut leaves as error, and what the tiers store.

Errors of a window are shown where they were measured, and only there: between measured borders.
Bytes are counted from shapes, so they are called predicted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from quant.schema import fingerprint

from ...plots import windows as plots
from ..view import Section, badge, plot
from .opened import Opened, Probed, View
from .selection import Selection

VIEW = View("windows", "Window editor", 60, "windows", keys=("borders", "tier", "axis", "over"))
PRESETS = (1, 2, 4)
BEST = (2, 3, 4)  # numbers of windows to propose borders for
TIERS = (
    ("A", "faithful", "16-bit weights; codes made anew when a window begins"),
    ("B", "shared", "one transform and one set of codes for all windows"),
    ("C", "stored", "codes of every window"),
)
FIRST_TIER = "C"
CLOSE = 0.01  # errors that differ by so much of themselves are called about the same
HEIGHT = 340

Errors = Mapping[tuple[int, int], float]  # mean squared relative error of the steps [a, b)


def section(opened: Opened, chosen: Selection) -> Section:
    """The editor's figure and tables; the page moves borders without asking again."""
    data = gathered(opened)
    steps = len(data["timesteps"])
    names = [entry["name"] for entry in data["inputs"]]
    over = chosen.one_of("over", ("all", "one"), "all")
    whole = errors_over(data, None)
    own = errors_over(data, chosen.site) if chosen.site in names else None
    errors = own if over == "one" and own is not None else whole
    ways = [(name, cut) for name, cut in presets(steps).items() if level(whole, cut) is not None]
    source = opened.source("windows", f"rows held back, {data['rows']} per step and input")
    figure = plots.figure(
        [
            (_name(name), [(a, b, percent(errors[a, b])) for a, b in itertools.pairwise(cut)])
            for name, cut in ways
        ],
        steps,
    )
    drawn = plot(
        VIEW.title,
        figure,
        alt=_alt(ways, errors),
        height=HEIGHT,
        source=source,
        part="windows",
        lede=(
            "TR-DQ gives every window of steps a transform of its own. Drag a border, or choose one "
            "and press an arrow key; each level is the output error of its window, on rows that its "
            "transform was not found on."
        ),
        badges=[opened.probes["windows"].badge],
        raw=_raw(data),
        narrow={"margin": {"l": 48, "r": 6, "t": 30, "b": 44}},
    )
    options = opened.probes["windows"].manifest.get("method_options") or {}
    return {
        **drawn,
        "kind": "windows",
        "steps": steps,
        "timesteps": list(data["timesteps"]),
        "axes": axes(data),
        "titles": plots.AXES,
        "legend": [[_name(name), plots.DASHES[i], plots.COLOURS[i]] for i, (name, _) in enumerate(ways)],
        "errors": {f"{a}-{b}": error for (a, b), error in errors.items()},
        "presets": presets(steps),
        "best": {str(k): cut for k in BEST if (cut := best(errors, steps, k))},
        "borders": borders(chosen.values.get("borders"), steps, options.get("windows")),
        "tier": chosen.one_of("tier", [t for t, _, _ in TIERS], str(options.get("tier") or FIRST_TIER)),
        "axis": chosen.one_of("axis", list(plots.AXES), "step"),
        "over": over if own is not None else "all",
        "has_input": own is not None,
        "tiers": TIERS,
        "memory": data["memory"],
        "predicted": badge("predicted", "simulated", "bytes counted from shapes; nothing ran"),
        "words": _words(ways, errors),
        "note": "" if len(names) == data["of_inputs"] else f"Measured at {len(names)} of {data['of_inputs']} inputs, evenly over the blocks.",
        "method": opened.method,
        "bits": opened.bits,
        "model": opened.key,
    }  # fmt: skip


def gathered(opened: Opened) -> Mapping[str, Any]:
    """What the latest probe measured, with the intervals of earlier ones like it but for the windows."""
    latest = opened.probes["windows"]
    names = [entry["name"] for entry in latest.data["inputs"]]
    tables = {field: [{} for _ in names] for field in ("error", "alpha")}
    recipes: dict[tuple[int, int], str] = {}
    for probed in (*opened.earlier.get("windows", ()), latest):
        listed = [entry["name"] for entry in probed.data["inputs"]]
        if listed != names or _found_by(probed) != _found_by(latest):
            continue
        intervals = [(int(a), int(b)) for a, b in probed.data["intervals"]]
        recipes |= dict.fromkeys(intervals, fingerprint(dict(probed.manifest)))
        for field, rows in tables.items():
            for row, values in zip(rows, probed.data[field]):
                row.update(zip(intervals, values))
    intervals = sorted(tables["error"][0])
    return {
        **latest.data,
        "intervals": [list(i) for i in intervals],
        "recipes": [recipes[i] for i in intervals],
        **{f: [[row[i] for i in intervals] for row in rows] for f, rows in tables.items()},
    }


def _found_by(probed: Probed) -> tuple[object, ...]:
    """All that the errors depend on, but the windows."""
    options = probed.manifest.get("method_options") or {}
    return probed.manifest.get("calibration"), options.get("alpha"), options.get("block")


def errors_over(data: Mapping[str, Any], site: str | None) -> Errors:
    """Errors of every measured interval: of one input, or the mean over all."""
    intervals = [(int(a), int(b)) for a, b in data["intervals"]]
    rows = [
        row
        for entry, row in zip(data["inputs"], data["error"])
        if site is None or entry["name"] == site
    ]
    return {i: sum(row[k] for row in rows) / len(rows) for k, i in enumerate(intervals)}


def presets(steps: int) -> dict[str, list[int]]:
    """Edges of equal windows by the name of the choice: first steps of all windows, then the end."""
    counts = {str(k): k for k in PRESETS if k <= steps} | {"step": steps}
    return {name: [steps * k // n for k in range(n + 1)] for name, n in counts.items()}


def level(errors: Errors, cut: Sequence[int]) -> float | None:
    """Mean over all steps of the error of windows with these edges; None where one was not measured."""
    windows = list(itertools.pairwise(cut))
    if any(w not in errors for w in windows):
        return None
    return sum(errors[a, b] * (b - a) for a, b in windows) / (cut[-1] - cut[0])


def best(errors: Errors, steps: int, count: int) -> list[int]:
    """Edges of `count` measured windows with the least error over all steps; empty where there are none."""
    # sums[k][b]: least sum over steps 0 .. b-1 in k windows, with the edges that give it
    sums: list[dict[int, tuple[float, list[int]]]] = [{0: (0.0, [0])}]
    for _ in range(count):
        found: dict[int, tuple[float, list[int]]] = {}
        for (a, b), error in errors.items():
            if a in sums[-1]:
                before, cut = sums[-1][a]
                way = (before + error * (b - a), [*cut, b])
                found[b] = min(found.get(b, way), way)
        sums.append(found)
    return sums[count][steps][1] if steps in sums[count] else []


def borders(text: str | None, steps: int, probed: Any = None) -> list[int]:
    """First steps of the later windows: as an address says, `3.8.14`, else as the method was probed, else 4 windows."""
    if text is not None:
        wanted = [int(part) for part in text.split(".") if part.isascii() and part.isdigit()]
        return sorted({b for b in wanted if 0 < b < steps})
    if isinstance(probed, list):
        return sorted({int(b) for b in probed if isinstance(b, int) and 0 < b < steps})
    known = presets(steps)
    return known.get(str(probed), known.get("4", [0, steps]))[1:-1]


def axes(data: Mapping[str, Any]) -> dict[str, list[float]]:
    """Where every step lies, by axis, from left to right; log-SNR only where it is known at every step."""
    times = [float(t) for t in data["timesteps"]]
    found = {"step": [float(i) for i in range(len(times))], "timestep": [-t for t in times]}
    snr = [float(v) for v in data["log_snr"] if v is not None]
    if len(snr) == len(times) and all(a < b for a, b in itertools.pairwise(snr)):
        found["snr"] = snr
    return {name: plots.edges(places) for name, places in found.items()}


def percent(squared: float) -> float:
    """A mean squared relative error as a relative error in percent."""
    return 100 * math.sqrt(squared)


def _name(preset: str) -> str:
    return "one window" if preset == "1" else "a window per step" if preset == "step" else f"{preset} equal windows"  # fmt: skip


def _alt(ways: Sequence[tuple[str, list[int]]], errors: Errors) -> str:
    said = [f"{_name(n)} {percent(level(errors, cut) or 0):.2f} %" for n, cut in ways]
    return f"Output error over the steps by windows: {', '.join(said)}."


def _words(ways: Sequence[tuple[str, list[int]]], errors: Errors) -> list[str]:
    levels = {name: percent(level(errors, cut) or 0.0) for name, cut in ways}
    one = levels.get("1")
    if not one or len(levels) == 1:
        return []
    name = min(levels, key=lambda n: levels[n])
    if name == "1":
        return [f"No equal cut leaves less than one window, {one:.2f} %."]
    verb = "leaves" if name == "step" else "leave"
    words = [
        f"Of the equal cuts, {_name(name)} {verb} the least: {levels[name]:.2f} % against {one:.2f} % "
        f"in one window, {100 * (1 - levels[name] / one):.1f} % less."
    ]
    fewest = next(n for n in levels if levels[n] <= (1 + CLOSE) * levels[name])
    if fewest != name:
        more = 100 * (levels[fewest] / levels[name] - 1)
        words.append(f"{_name(fewest).capitalize()} do about as well, within {more:.1f} %.")
    elif levels.get("step", 0.0) > (1 + CLOSE) * levels[name]:
        words.append(
            f"A window per step leaves {levels['step']:.2f} %: fewer rows to find each transform on "
            "cost more than nearness to the step brings."
        )
    return words


def _raw(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"input": entry["name"], "first_step": a, "last_step": b - 1, "squared_error": error, "alpha": alpha, "recipe": recipe}
        for entry, errors, alphas in zip(data["inputs"], data["error"], data["alpha"])
        for (a, b), error, alpha, recipe in zip(data["intervals"], errors, alphas, data["recipes"])
    ]  # fmt: skip
