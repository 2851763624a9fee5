"""How well the cheap tiers of sensitivity rank what exact flips find, and what each of them takes.

    make sensitivity                                    (dit-emoji as trained, 8 seeds; an hour, and as long for each kind more)
    .venv/bin/python -m benchmarks.sensitivity --seeds 0-1 --sites 4 --kinds plain,drifting --out /tmp/sensitivity

Every cell of every site, weight and activation, 3, 4, 6 and 8 bits, four windows of steps and all steps, by every
tier, rounded to nearest; tier `weight` is weighed by a calibration. `exact` rounds single cells (not all but one),
with the metrics of pictures. Rows are kept in `.sensitivity/` as they are found, with the seconds and evaluations
that they took and the digest of the engine's source: a run that was stopped goes on after its last cell. Writes
sensitivity.json and sensitivity.md into --out (docs/results).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quant.plans import windows_for
from quant.schema import Outliers, fingerprint
from quant.seeds import parse_seeds
from quant.sensitivity import list_tiers
from quant.sensitivity.agreement import agreement
from quant.sensitivity.cells import Row
from quant.sensitivity.floor import floors, noise
from quant.sensitivity.sampling import Counter
from quant.sensitivity.sweep import measure as sweep
from quant.sensitivity.task import Settings

from .peers import versions
from .results import device, written
from .rows import CALIBRATION, SOURCE, Subject

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".sensitivity"
FACTOR = 32.0  # of the outliers, as in docs/results/transforms.md
BITS = "3,4,6,8"
WINDOWS = 4
EXACT = "exact"
JUDGED = ("latent_error", "ssim_loss", "log_prob_loss")  # of tier exact, where the model has them
# Of tier gradient: rank correlation outside the floor, and share of exact's wall time.
TARGET = 0.8
AT_MOST = 1 / 20
COUNTS = ("calls", "evaluations", "backward_calls")


class Kept:
    """Rows of one sweep in a file, a line for each cell with what it took."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: list[dict[str, Any]] = []
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = list(_whole_lines(file)) if file.is_file() else []
        if file.is_file():  # a line that was cut off goes
            file.write_text("".join(whole), encoding="utf-8")
        self.lines = [json.loads(line) for line in whole]

    def add(self, line: dict[str, Any]) -> None:
        """One cell more."""
        self.lines.append(line)
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")

    @property
    def rows(self) -> list[Row]:
        """All of them, in the order of the sweep."""
        return [Row.parse(row, str(self.file)) for line in self.lines for row in line["rows"]]

    def total(self, name: str) -> float:
        """Seconds or evaluations over all cells."""
        return sum(line[name] for line in self.lines)


def _whole_lines(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield line


def run(subject: Subject, tier: str, given: argparse.Namespace) -> Kept:
    """Every cell of one tier, those that are kept aside."""
    settings = Settings(both_ways=False, batch_size=given.batch, probes=given.probes)
    bits, windows = given.bits.split(","), windows_for(subject.sampler, given.windows)
    sites = _sites(subject, given)
    about = subject.depends_on | {
        "tier": tier,
        "sites": sites,
        "bits": bits,
        "windows": given.windows,
        "settings": settings.to_json(),
    }
    kept = Kept(CACHE / f"{fingerprint(about)}.jsonl")
    counter, last = Counter(), [time.perf_counter(), Counter()]

    def keep(rows: list[Row]) -> None:
        now = time.perf_counter()
        took = {n: getattr(counter, n) - getattr(last[1], n) for n in COUNTS}
        said = {"rows": [r.to_json() for r in rows], "seconds": now - last[0], "source": SOURCE}
        kept.add({**said, **took})
        last[:] = [now, replace(counter)]

    sweep(
        tier,
        subject.model,
        sites,
        bits,
        windows,
        subject.samples,
        subject.sampler,
        seen=subject.seen if tier == "weight" else None,
        classifier=subject.classifier,
        settings=settings,
        counter=counter,
        done=[row.cell for row in kept.rows],
        on_rows=keep,
        on_progress=_said(f"{given.model} {tier}"),
    )
    return kept


def _sites(subject: Subject, given: argparse.Namespace) -> list[str]:
    return [s.name for s in subject.model.sites if s.kept_reason is None][: given.sites]


def _said(label: str) -> Any:
    began, next_at = time.perf_counter(), [60.0]

    def said(done: int, total: int) -> None:
        passed = time.perf_counter() - began
        if passed >= next_at[0]:
            print(f"{label}: {done} of {total} in {passed:.0f} s", file=sys.stderr, flush=True)
            next_at[0] = passed + 60

    return said


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Every tier on every kind."""
    seeds = parse_seeds(given.seeds)
    kinds = []
    for name in given.kinds.split(","):
        outliers = None if name == "plain" else Outliers(kind=name, factor=FACTOR)  # type: ignore[arg-type]
        subject = Subject(given.model, seeds, given.steps, outliers)
        found = {tier: run(subject, tier, given) for tier in list_tiers()}
        kinds.append({"kind": name, **_compared(found), "weights": subject.depends_on["weights"]})
        sampler = subject.sampler.to_json()
        sites = _sites(subject, given)
    return {
        "format": 1,
        "model": given.model,
        "factor": FACTOR,
        "seeds": list(seeds),
        "sampler": sampler,
        "calibration_seeds": list(CALIBRATION),
        "sites": sites,
        "bits": given.bits.split(","),
        "windows": given.windows,
        "probes": given.probes,
        "versions": versions(),
        "device": device(),
        "load": os.getloadavg()[1],
        "date": datetime.date.today().isoformat(),
        "kinds": kinds,
    }


def _compared(found: dict[str, Kept]) -> dict[str, Any]:
    """Of one kind: agreement of every tier with exact flips, costs, floors, and the cells themselves."""
    rows = {tier: kept.rows for tier, kept in found.items()}
    exact = rows[EXACT]
    judged = [m for m in JUDGED if any(r.metric == m for r in exact)]
    tiers = []
    for tier, kept in found.items():
        metric = list_tiers()[tier].metrics[0]
        agreements = {
            scope: {
                of: agreement(_scope(exact, scope), _scope(rows[tier], scope), of, metric).to_json()
                for of in judged
            }
            for scope in ("window", "all")
        }
        tiers.append(
            {
                "tier": tier,
                "metric": metric,
                "cells": len(kept.lines),
                "seconds": kept.total("seconds"),
                **{name: int(kept.total(name)) for name in COUNTS},
                "sources": sorted({line["source"] for line in kept.lines}),
                "agreement": agreements,
                "values": _values(rows[tier], metric, intervals=tier == EXACT),
            }
        )
    return {
        "tiers": tiers,
        "floors": [f.to_json() for f in floors(exact).values()],
        "noise": {f"{metric} {bits}": v for (metric, bits), v in noise(exact).items()},
    }


def _scope(rows: Sequence[Row], scope: str) -> list[Row]:
    return [r for r in rows if (r.cell.window is None) == (scope == "all")]


def _values(rows: Sequence[Row], metric: str, intervals: bool) -> dict[str, list[Any]]:
    """What the cells cost, in the order of `cells_of`, with five digits."""
    own = [r for r in rows if r.metric == metric]
    found = {}
    for name in ("value", "lo", "hi") if intervals else ("value",):
        values = [getattr(r, name) for r in own]
        found[name] = [None if v is None else float(f"{v:.5g}") for v in values]
    return found


def markdown(found: dict[str, Any]) -> str:
    """sensitivity.md from sensitivity.json: nothing in it is written by hand."""
    lines = [
        "# Sensitivity: cheap tiers beside exact flips",
        "",
        "Written by `make sensitivity` from `docs/results/sensitivity.json`; do not edit.",
        "",
        f"`{found['model']}`, {len(found['seeds'])} samples, {found['sampler']['steps']} steps, {found['windows']} windows, "
        f"{', '.join(found['bits'])} bits, rounded to nearest, {found['probes']} random directions; {found['device']}; "
        f"torch {found['versions']['torch']}; {found['date']}; the machine's load was {found['load']:.1f} in the end.",
        "Ranks are Spearman's with exact flips of the same cells; the floor is the interval of the median 8-bit cell;",
        "recall is the share of the costliest tenth that a tier finds. Evaluations are of one sample, both guidance branches.",
        "Seconds are wall time: a load above the threads that were used makes them longer, those of the longest tier most.",
        "",
        *targets(found),
    ]
    for kind in found["kinds"]:
        title = "as trained" if kind["kind"] == "plain" else f"{kind['kind']} outliers x{found['factor']:g}"  # fmt: skip
        lines += ["", f"## {title}", "", *_costs(kind)]
        for scope, said in (("window", "cells of windows"), ("all", "cells of all steps")):
            for metric in kind["tiers"][0]["agreement"][scope]:
                lines += ["", f"Against `{metric}`, {said}:", "", *_ranks(kind, scope, metric)]
    return "\n".join([*lines, ""])


def targets(found: dict[str, Any]) -> list[str]:
    """Whether tier gradient is what it is for: the ranks of exact flips, at a small part of their time."""
    lines = ["| tier `gradient` against `exact` | wanted | measured | met |", "|---|---:|---:|---|"]
    for kind in found["kinds"]:
        of = {t["tier"]: t for t in kind["tiers"]}
        for scope, said in (("window", "cells of windows"), ("all", "cells of all steps")):
            rank = of["gradient"]["agreement"][scope]["latent_error"]["spearman_outside"]
            met = "-" if rank is None else "yes" if rank >= TARGET else "no"
            lines.append(
                f"| {kind['kind']}, rank by latent error outside the floor, {said} | >= {TARGET} | {_two(rank)} | {met} |"
            )
        share = of["gradient"]["seconds"] / of[EXACT]["seconds"]
        lines.append(
            f"| {kind['kind']}, share of its wall time | <= 1/{1 / AT_MOST:.0f} | 1/{1 / share:.0f} | {'yes' if share <= AT_MOST else 'no'} |"
        )
    return lines


def _costs(kind: dict[str, Any]) -> list[str]:
    head = ["| tier | cells | seconds | network calls | evaluations | backward passes |", "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    return head + [
        f"| {t['tier']} | {t['cells']} | {t['seconds']:.0f} | {t['calls']} | {t['evaluations']} | {t['backward_calls']} |"
        for t in kind["tiers"]
    ]


def _ranks(kind: dict[str, Any], scope: str, metric: str) -> list[str]:
    head = [
        "| tier | cells | all | outside the floor | inside | at equal bits | recall |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for t in kind["tiers"]:
        a = t["agreement"][scope][metric]
        if t["tier"] != EXACT:
            outside = f"{_two(a['spearman_outside'])} ({a['outside']})"
            head.append(
                f"| {t['tier']} | {a['cells']} | {_two(a['spearman'])} | {outside} | {_two(a['spearman_inside'])} "
                f"| {_two(a['at_equal_bits'])} | {_two(a['recall'])} |"
            )
    return head


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--kinds", default="plain", help="plain, and kinds of outliers")
    parser.add_argument("--bits", default=BITS)
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--seeds", default="0-7")
    parser.add_argument("--sites", type=int, help="the first so many; all of them")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    return written("sensitivity", given.out, lambda: measure(given), markdown)


if __name__ == "__main__":
    sys.exit(main())
