"""A study held against bounds, for continuous integration.

A bound is met when the whole 95 % interval of the mean meets it: of a metric that is better when it is
higher, the lower end decides; of one that is better when it is lower, the upper end. So more samples make
a gate easier to pass, never a lucky mean. A single sample has no interval, and sizes are exact: there the
value decides. Samples that are identical to full precision meet every quality bound.

Against another run the samples are paired. The bound is missed where the run is shown to be worse: where
the whole interval of the difference lies on the bad side of 0. Too few samples show little; of a single one the
difference itself decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quant.errors import BadInput, unknown
from quant.metrics import MetricCard, list_metrics

from .study import Study
from .study_folder import MANIFEST

SIZE = "size_mb"  # 10^6 bytes of the transformer on disk
PRIMARY = "latent_rel_error"  # what a run is compared by where no bound names a metric
FULL_PRECISION = "full-precision"


@dataclass(frozen=True)
class Verdict:
    """One bound on one run."""

    name: str  # of the metric, or "METRIC against RUN"
    bound: float
    value: float | None  # None: identical to full precision
    lo: float | None
    hi: float | None
    passed: bool
    run: str
    study: str

    def sentence(self) -> str:
        """`viditq-w4a8: psnr_db 24.1 [22.0, 26.3] misses the bound 25`."""
        value = "identical" if self.value is None else f"{self.value:.4g}"
        if self.lo is not None and self.hi is not None:
            value += f" [{self.lo:.4g}, {self.hi:.4g}]"
        word = "meets" if self.passed else "misses"
        return f"{self.run}: {self.name} {value} {word} the bound {self.bound:g}"


def judge(
    folder: Path,
    bounds: Mapping[str, float],
    *,
    run: str | None = None,
    against: str | None = None,
) -> dict[str, Any]:
    """Hold the runs of a study against bounds; what `dqviz gate` prints.

    Args:
        folder: a study, or a folder whose subfolders are studies; those among them that nothing was ever compared in
            are left out, and listed under `skipped`.
        bounds: by key of a paired metric (`quant.metrics`), and "size_mb". Whether a bound is a least or a
            greatest value follows from the metric's direction.
        run: name of the run that is judged; by default every quantized run of the latest comparison.
        against: name of a run that those may not be shown to be worse than, by each metric that has a
            bound, or by the relative latent error.

    Raises:
        BadInput: no bound at all, an unknown metric or run, a metric that a run does not have, a
            comparison that was not finished, runs of other samples than those they are held against.
    """
    cards = _cards(bounds)
    if not bounds and against is None:
        raise BadInput(
            "a gate needs a bound, e.g. --min-psnr 30, or a run to hold against: --against"
        )
    verdicts = []
    studies, skipped = _studies(folder)
    for study in studies:
        for record in _judged(study, run, against):
            verdicts += [_verdict(study, record, cards, n, b) for n, b in bounds.items()]
            if against is not None:
                compared = [n for n in bounds if n != SIZE] or [PRIMARY]
                verdicts += [_against(study, record, study.run(against), n) for n in compared]
    return {
        "passed": all(verdict.passed for verdict in verdicts),
        "bounds": [asdict(verdict) for verdict in verdicts],
        "missed": [verdict.sentence() for verdict in verdicts if not verdict.passed],
        "met": [verdict.sentence() for verdict in verdicts if verdict.passed],
        "skipped": [str(study.folder) for study in skipped],
    }


def bounds_of(
    options: Mapping[str, float | None], others: Mapping[str, object]
) -> dict[str, float]:
    """Bounds by metric, from options that may be absent and `METRIC=X` pairs; BadInput for no number."""
    bounds = {name: bound for name, bound in options.items() if bound is not None}
    for name, bound in others.items():
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise BadInput(f"bound {name}={bound} is not a number; e.g. --bound {name}=0.1")
        if name in bounds:
            raise BadInput(f"{name} has two bounds, {bounds[name]:g} and {bound:g}; give one")
        bounds[name] = float(bound)
    return bounds


def _cards(bounds: Mapping[str, float]) -> dict[str, MetricCard]:
    """Every metric's card; BadInput for a bound that no metric has, or that is no number."""
    cards = list_metrics()
    for name, bound in bounds.items():
        if name not in cards and name != SIZE:
            raise unknown("metric", name, [*cards, SIZE])
        if not math.isfinite(bound):
            raise BadInput(f"bound {name}={bound} is not a number that a value can meet; e.g. 0.1")
    return cards


def _studies(folder: Path) -> tuple[list[Study], list[Study]]:
    """What is judged, and what holds nothing to judge: sweeps, captures, plans."""
    inside = sorted(f.parent for f in folder.glob(f"*/{MANIFEST}")) if folder.is_dir() else []
    if (folder / MANIFEST).is_file() or not inside:
        return [Study.open(folder, read_only=True)], []
    found = [Study.open(path, read_only=True) for path in inside]
    compared = [study for study in found if study.comparisons()]
    if not compared:
        raise BadInput(
            f"none of the studies in {folder} holds a comparison to judge; make one: dqviz compare"
        )
    return compared, [study for study in found if study not in compared]


def _judged(study: Study, run: str | None, against: str | None) -> Sequence[Mapping[str, Any]]:
    """Records of the runs that are judged; at least one."""
    if run is not None:
        found = [study.run(run)]
    else:
        latest = study.result()
        if latest["status"] != "done":
            raise BadInput(
                f"comparison {latest['comparison']} of study {study.folder} is {latest['status']}, not "
                "done; finish it, or name a finished run: --run NAME"
            )
        found = latest["runs"]
    judged = [r for r in found if r["method"] != FULL_PRECISION and r["name"] != against]
    if not judged:
        raise BadInput(
            f"study {study.folder} has no run to judge"
            + (f" beside {against}" if against else "")
            + "; name a quantized one: --run NAME"
        )
    return judged


def _verdict(
    study: Study,
    record: Mapping[str, Any],
    cards: Mapping[str, MetricCard],
    name: str,
    bound: float,
) -> Verdict:
    of = {"name": name, "bound": bound, "run": record["name"], "study": str(study.folder)}
    if name == SIZE:
        value = record["size_bytes"] / 1e6
        return Verdict(**of, value=value, lo=None, hi=None, passed=value <= bound)
    summary = _summary(record, name)
    value, lo, hi = summary["mean"], summary["lo"], summary["hi"]
    if value is None:
        return Verdict(**of, value=None, lo=None, hi=None, passed=True)
    if cards[name].better == "higher":
        passed = (value if lo is None else lo) >= bound
    else:
        passed = (value if hi is None else hi) <= bound
    return Verdict(**of, value=value, lo=lo, hi=hi, passed=passed)


def _summary(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A metric of a run; one without a mean is of pictures that are identical."""
    summary = record.get(name)
    if summary is not None and (summary["mean"] is not None or summary["identical"]):
        return summary
    why = record.get("unavailable", {}).get(name, "it was not measured")
    raise BadInput(f"run {record['name']} has no {name}: {why}; leave the bound away")


def _against(
    study: Study, record: Mapping[str, Any], other: Mapping[str, Any], name: str
) -> Verdict:
    """The paired difference run - other of one metric; missed where its interval is all on the bad side."""
    from quant.intervals import paired_difference

    ours, theirs = (_sample_values(study, r, name) for r in (record, other))
    if list(ours) != list(theirs) or _drawn(study, record) != _drawn(study, other):
        raise BadInput(
            f"runs {record['name']} and {other['name']} were not drawn from the same samples; compare "
            "them in one comparison"
        )
    better = list_metrics()[name].better
    found = paired_difference(list(ours.values()), list(theirs.values()), better)
    difference = found.diff
    lo, hi, worse = None, None, False
    if difference is not None:
        lo, hi = difference.lo, difference.hi
        least, most = (lo, hi) if lo is not None and hi is not None else (difference.mean,) * 2
        worse = most < 0 if better == "higher" else least > 0
    return Verdict(
        name=f"{name} against {other['name']}",
        bound=0.0,
        value=None if difference is None else difference.mean,
        lo=lo,
        hi=hi,
        passed=not worse,
        run=record["name"],
        study=str(study.folder),
    )


def _sample_values(study: Study, record: Mapping[str, Any], name: str) -> dict[int, float | None]:
    """One metric of a run by seed."""
    _summary(record, name)
    return study.metric(record["name"], name)


def _drawn(study: Study, record: Mapping[str, Any]) -> tuple[Any, Any]:
    recipe = study.recipe(record["name"])
    return recipe["sampler"], recipe["samples"]
