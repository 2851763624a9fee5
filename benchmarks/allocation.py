"""How long an allocation takes and how good it is proven to be: the exact solver and the one for dragging.

    make allocation                                                          (about 2 minutes)
    .venv/bin/python -m benchmarks.allocation --sites 40 --seeds 2 --out /tmp/allocation

Sites have the shapes of the linear layers of a DiT-XL/2 block, over and over; losses are drawn: a scale over four
orders of magnitude for every cell, fourfold less for every bit, times noise. Bytes and seconds are those of the shapes, seconds
at least (`quant.roofline`, A100, 2 x 8 samples). So times and gaps are measured, plans mean nothing. One process, after
the solver's library was loaded; each problem is built before its time begins. Writes allocation.json and allocation.md into
--out (docs/results).
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy

from dqviz.machine import processor
from quant import lagrangian
from quant.allocation import Allocation, Choice, Item, Key, Label, Pair, Problem, solve
from quant.roofline import DEVICES, site_seconds
from quant.schema import Bits

from .results import written

ROOT = Path(__file__).resolve().parent.parent
WIDTH, ROWS = 1152, 16 * 256
SHAPES = [(WIDTH, WIDTH)] * 4 + [(WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]  # q, k, v, out, fc1, fc2
WEIGHTS, INPUTS = (2, 3, 4, 5, 6, 7, 8), (2, 3, 4, 5, 6, 7, 8, 16)
WINDOWS = 4
GAP, LIMIT = 1e-4, 10.0
TARGETS = {"sites": 2.0, "cells": 10.0, "pairs": 10.0}  # seconds of the exact solver
DRAGGING = 0.1  # seconds of the heuristic, 500 sites


def losses(rng: np.random.Generator, labels: tuple[int, ...]) -> list[float]:
    """Of one cell; none at 16 bits."""
    scale = 10 ** rng.uniform(-4, 0)
    noise = rng.uniform(0.5, 1.5, len(labels))
    return [0.0 if b == 16 else float(scale * 4.0**-b * x) for b, x in zip(labels, noise)]


def of_sites(rng: np.random.Generator, sites: int) -> tuple[Problem, dict[str, float]]:
    """Eight formats for every weight; bytes, and seconds with inputs in 16 bits that reading the weight decides."""
    items, device = [], DEVICES["a100-80gb"]
    for n in range(sites):
        i, o = SHAPES[n % len(SHAPES)]
        uses = [
            {
                "size_bytes": i * o * b / 8 + 4 * o,
                "seconds": site_seconds(device, 1 + n % 64, i, o, _bits(b)),
            }
            for b in INPUTS
        ]
        made = zip(INPUTS, losses(rng, INPUTS), uses)
        items.append(Item(Key(f"s{n}"), tuple(Choice(b, loss, use) for b, loss, use in made)))
    problem = Problem(tuple(items))
    return problem, _between(problem, {"size_bytes": 0.20, "seconds": 0.16})


def of_cells(rng: np.random.Generator, sites: int) -> tuple[Problem, dict[str, float]]:
    """A weight and an input in each window for every site; bytes of the weights, and bits of all that is multiplied."""
    items = []
    for n in range(sites):
        i, o = SHAPES[n % len(SHAPES)]
        chosen = zip(WEIGHTS, losses(rng, WEIGHTS))
        uses = {b: {"size_bytes": i * o * b / 8 + 4 * o, "bits": 1.0 * i * o * b} for b in WEIGHTS}
        items.append(Item(Key(f"s{n}"), tuple(Choice(b, loss, uses[b]) for b, loss in chosen)))
        for window in range(WINDOWS):
            chosen = zip(INPUTS, losses(rng, INPUTS))
            ways = (Choice(b, loss, {"bits": ROWS * i * b / WINDOWS}) for b, loss in chosen)
            items.append(Item(Key(f"s{n}", "activation", window), tuple(ways)))
    problem = Problem(tuple(items))
    return problem, _between(problem, {"size_bytes": 0.35, "bits": 0.30})


def of_pairs(rng: np.random.Generator, sites: int) -> tuple[Problem, dict[str, float]]:
    """The same cells, with bytes of the weights and seconds that weight and input take together."""
    plain, _ = of_cells(rng, sites)
    device = DEVICES["a100-80gb"]
    tables: dict[tuple[int, int], dict[tuple[Label, Label], float]] = {
        shape: {
            (w, a): site_seconds(device, ROWS, *shape, _bits(w, a)) / WINDOWS
            for w in WEIGHTS
            for a in INPUTS
        }
        for shape in set(SHAPES)
    }
    pairs = [
        Pair(
            Key(f"s{n}"), Key(f"s{n}", "activation", k), "seconds", tables[SHAPES[n % len(SHAPES)]]
        )
        for n in range(sites)
        for k in range(WINDOWS)
    ]
    problem = Problem(plain.items, tuple(pairs))
    ends = [
        sum(pair.table[way] for pair in pairs) for way in ((2, 2), (8, 16))
    ]  # least and most seconds
    sizes = _between(problem, {"size_bytes": 0.35})
    return problem, {**sizes, "seconds": ends[0] + 0.25 * (ends[1] - ends[0])}


def _bits(weight: int, activation: int = 16) -> Bits | None:
    if weight == 16:
        return None
    return Bits(weight=weight, activation=None if activation == 16 else activation)


def _between(problem: Problem, shares: dict[str, float]) -> dict[str, float]:
    """Budgets at a share of the way from the least to the most that choices take."""
    budgets = {}
    for name, share in shares.items():
        taken = [
            [c.uses[name] for c in i.choices if name in c.uses] or [0.0] for i in problem.items
        ]
        low, high = sum(map(min, taken)), sum(map(max, taken))
        budgets[name] = low + share * (high - low)
    return budgets


FAMILIES: dict[str, Callable[[np.random.Generator, int], tuple[Problem, dict[str, float]]]] = {
    "sites": of_sites,
    "cells": of_cells,
    "pairs": of_pairs,
}


def timed(run: Callable[[], Allocation]) -> dict[str, Any]:
    """Seconds as they pass and of this process, and what came of it."""
    began, worked = time.perf_counter(), time.process_time()
    found = run()
    return {
        "seconds": time.perf_counter() - began,
        "process_seconds": time.process_time() - worked,
        "gap": found.gap,
        "loss": found.loss,
        "status": found.status,
        "binding": list(found.binding),
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Every family, with every seed."""
    load = os.getloadavg()[0]
    small, budgets = of_sites(np.random.default_rng(0), 6)
    solve(small, budgets, gap=0)  # loads HiGHS
    rows = []
    for family, make in FAMILIES.items():
        for seed in range(given.seeds):
            problem, budgets = make(np.random.default_rng(seed), given.sites)
            quick = timed(lambda p=problem, b=budgets: lagrangian.solve(p, b))
            exact = timed(lambda p=problem, b=budgets: solve(p, b, gap=GAP, seconds=given.limit))
            rows.append(
                {
                    "family": family,
                    "seed": seed,
                    "items": len(problem.items),
                    "choices": max(len(item.choices) for item in problem.items),
                    "pairs": len(problem.pairs),
                    "budgets": list(budgets),
                    "exact": exact,
                    "heuristic": {**quick, "above_exact": quick["loss"] / exact["loss"] - 1},
                }
            )
    return {
        "format": 1,
        "gap": GAP,
        "limit": given.limit,
        "rows": rows,
        "load": [load, os.getloadavg()[0]],
        "device": f"{processor()}, numpy {np.__version__}, scipy {scipy.__version__}",
        "date": datetime.date.today().isoformat(),
    }


TITLES = {
    "sites": "weights; bytes and seconds",
    "cells": "weights, and inputs in four windows; bytes and bits",
    "pairs": "the same; bytes, and seconds that weight and input take together",
}


def markdown(found: dict[str, Any]) -> str:
    """allocation.md from allocation.json: nothing in it is written by hand."""
    families = {f: [r for r in found["rows"] if r["family"] == f] for f in FAMILIES}
    seeds = len(found["rows"]) // len(families)
    lines = [
        "# Time and gap of an allocation",
        "",
        "Written by `make allocation` from `docs/results/allocation.json`; do not edit.",
        "",
        f"{found['device']}; {found['date']}; the machine's load was {found['load'][0]:.1f} before and {found['load'][1]:.1f} after.",
        f"Measured, {seeds} drawn problems of each kind: median, and the slowest or worst in brackets. Losses are drawn, so the plans mean",
        f"nothing. The exact solver (`quant/allocation.py`) is asked for a gap of {found['gap']:g} within {found['limit']:g} s; the heuristic (`quant/lagrangian.py`) is",
        "what a slider calls. A gap is proven: the loss is at most so much above the least possible one.",
        "",
        "| decisions | choices | what | exact, s | gap | heuristic, ms | gap | above exact |",
        "|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for family, rows in families.items():
        exact, quick = [r["exact"] for r in rows], [r["heuristic"] for r in rows]
        cells = [
            f"{rows[0]['items']:,}",
            str(rows[0]["choices"]),
            TITLES[family],
            _spread(exact, "seconds", "{:.2f}"),
            _spread(exact, "gap", "{:.1e}"),
            _spread(quick, "seconds", "{:.0f}", 1e3),
            _spread(quick, "gap", "{:.1e}"),
            _spread(quick, "above_exact", "{:.1e}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for family, rows in families.items():
        slowest = max(r["exact"]["seconds"] for r in rows)
        reached = all(r["exact"]["gap"] <= found["gap"] for r in rows)
        within = "within" if slowest <= TARGETS[family] else "beyond"
        gap = "every gap reached" if reached else "not every gap reached"
        lines.append(
            f"- {rows[0]['items']:,} decisions, {TITLES[family]}: slowest {slowest:.2f} s, {within} {TARGETS[family]:g} s; {gap}."
        )
    slowest = max(r["heuristic"]["seconds"] for r in families["sites"])
    within = "within" if slowest <= DRAGGING else "beyond"
    lines.append(
        f"- Heuristic, {families['sites'][0]['items']:,} decisions: slowest {1e3 * slowest:.0f} ms, {within} {1e3 * DRAGGING:.0f} ms."
    )
    return "\n".join([*lines, ""])


def _spread(rows: list[dict[str, Any]], name: str, form: str, factor: float = 1.0) -> str:
    values = [factor * row[name] for row in rows]
    return f"{form.format(median(values))} ({form.format(max(values))})"


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sites", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=LIMIT)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    return written("allocation", given.out, lambda: measure(given), markdown)


if __name__ == "__main__":
    sys.exit(main())
