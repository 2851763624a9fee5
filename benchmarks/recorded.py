"""Make the study that comes along: `make recorded` (about half an hour on two cores).

    make recorded ARGS="--only capture,precision"       (these parts anew, beside what is there)

Draws dit-emoji in full precision and at several plans, over all its classes, with the yardstick ladder; captures
what viditq does to its inputs; probes what viditq and trdq choose from; measures what rounding every layer costs,
and solves, draws and verifies a plan by that. Settles all of it into assets/studies/dit-emoji. There it is opened
read-only, and every number of it is called recorded: the device, the date and what kind of number it was stand
beside it, and no time is kept, since it would say nothing of the machine that shows it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqviz.events import Event, Stage
from dqviz.files import now
from dqviz.machine import processor
from dqviz.records import versions
from dqviz.study import Study
from dqviz.study_folder import DATABASE, default_folder
from quant.errors import BadInput, DQVizError, unknown

from .settling import forget_plans, settle

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "assets" / "studies" / "dit-emoji"
LARGEST = 3_000_000  # bytes of the whole study
COMPARISON: dict[str, Any] = {
    "model": "dit-emoji",
    "methods": "viditq,viditq,viditq,viditq,rtn,rtn",
    "bits": "w8a8,w6a6,w4a8,w4a4,w4a4,w2a16",
    "seeds": "0-23",
    "backend": "simulate",  # the same numbers on every machine
}
CAPTURE: dict[str, Any] = {
    "model": "dit-emoji",
    "method": "viditq",
    "bits": "w4a8",
    "steps": 4,
    "record": {"reservoir": 8, "row_absmax": 16, "surface_mib": 1},
}
PROBES: tuple[dict[str, Any], ...] = tuple(
    {"model": "dit-emoji", "method": method, "bits": "w4a8"} for method in ("viditq", "trdq")
)
SWEEP: dict[str, Any] = {"model": "dit-emoji", "bits": "3,4,6,8", "seeds": "200000-200003"}
PLAN: dict[str, Any] = {
    "budgets": {"avg_bits": 4, "activation_bits": 6},
    "calibrate": 12,
    "verify": 32,
}


@dataclass(frozen=True)
class Recipe:
    """Requests of the parts of a study."""

    comparison: Mapping[str, Any]
    capture: Mapping[str, Any] | None = None
    probes: Sequence[Mapping[str, Any]] = ()
    sweep: Mapping[str, Any] | None = None
    plan: Mapping[str, Any] | None = None  # under budgets, from the sweep's table


WHOLE = Recipe(COMPARISON, CAPTURE, PROBES, SWEEP, PLAN)


def record(target: Path, recipe: Recipe, only: Collection[str] | None = None) -> int:
    """Make the study, settle it and put it in the place of `target`; returns its bytes.

    Args:
        target: folder of the recorded study; an older one is replaced when the new one is complete.
        recipe: requests of its parts.
        only: parts of `PARTS` that are made anew beside those of the older study; None: a new study.

    Raises BadInput for a study that is too large.
    """
    for part in only or ():
        if part not in PARTS:
            raise unknown("part", part, PARTS, f"They are: {', '.join(PARTS)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".recording-") as scratch:
        os.environ["DQVIZ_HOME"] = (
            scratch  # the default folder: no path of this machine gets into the recipe
        )
        if only is None:
            folder = _compare(recipe)
        else:
            folder = default_folder(str(recipe.comparison["model"]))
            shutil.copytree(target, folder)
        Study.open(folder).comparisons()  # gets the tables of this version
        for part, (make, tables) in PARTS.items():
            if only is None or part in only:
                _forget(folder, tables)
                make(recipe, folder)
        settle(
            folder,
            {
                "device": processor(),
                "date": now()[:10],
                "versions": versions(),
                "by": "make recorded",
            },
        )
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if size > LARGEST:
            raise BadInput(f"the study takes {size} bytes; at most {LARGEST}")
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    return size


def _compare(recipe: Recipe) -> Path:
    from dqviz.comparison import compare
    from dqviz.request import CompareRequest

    return Path(compare(CompareRequest.parse(recipe.comparison), told, previews=False)["study"])


def _capture(recipe: Recipe, folder: Path) -> None:
    from dqviz.capturing import CaptureRequest, capture

    if recipe.capture is not None:
        capture(CaptureRequest.parse(recipe.capture), told)


def _probe(recipe: Recipe, folder: Path) -> None:
    from dqviz.probing import ProbeRequest, probe

    for request in recipe.probes:
        probe(ProbeRequest.parse(request), told)


def _precision(recipe: Recipe, folder: Path) -> None:
    from dqviz.allocating import AllocateRequest, allocate
    from dqviz.sweeping import SweepRequest, sweep

    if recipe.sweep is not None:
        sweep(SweepRequest.parse(recipe.sweep), told)
    if recipe.plan is not None:
        allocate(AllocateRequest.parse({"study": folder, **recipe.plan}), told)


# part -> how it is made, and where its rows and files are
PARTS: dict[str, tuple[Callable[[Recipe, Path], None], tuple[str, ...]]] = {
    "capture": (_capture, ("captures",)),
    "probes": (_probe, ("probes",)),
    "precision": (_precision, ("sensitivities", "calibrations", "allocations", "plan_losses")),
}


def _forget(folder: Path, tables: Sequence[str]) -> None:
    """Remove the rows of a part, and their files."""
    db = sqlite3.connect(folder / DATABASE, isolation_level=None)
    for table in tables:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        for (file,) in db.execute(f"SELECT file FROM {table}" if "file" in columns else "SELECT 1 LIMIT 0"):  # fmt: skip
            for own in (folder / file, (folder / file).with_suffix(".blueprint.json")):
                own.unlink(missing_ok=True)
        db.execute(f"DELETE FROM {table}")
    forget_plans(db)
    db.close()


def told(event: Event) -> None:
    """A line per stage."""
    if isinstance(event, Stage):
        print(f"  {event.text}", file=sys.stderr, flush=True)


def main() -> int:
    """Record, or say what stands in the way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=TARGET, help="folder of the recorded study")
    parser.add_argument("--only", help=f"parts to make anew, of {', '.join(PARTS)}; default: all, and the comparison")  # fmt: skip
    given = parser.parse_args()
    try:
        size = record(given.out, WHOLE, given.only.split(",") if given.only else None)
    except DQVizError as error:
        print(f"recorded: {error}", file=sys.stderr)
        return 2
    print(f"{given.out}: {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
