"""python -m benchmarks.gpu: see `benchmarks/gpu/__init__.py`; what a person does with it: docs/gpu.md."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .rows import Rows
from .supervise import supervise


def main() -> int:
    """Read the command line, and keep a worker going."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measure on a GPU; call it again to go on.")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--minutes", type=float, default=28, help="it stops by itself before")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU; results refuse it")
    parser.add_argument(
        "--only", action="append", default=[], metavar="STAGE", help="after the checks"
    )
    given = parser.parse_args()
    if not given.minutes > 0:
        parser.error(f"--minutes is {given.minutes:g}; it must be above 0")
    until = time.time() + 60 * given.minutes
    command = [sys.executable, "-m", "benchmarks.gpu.work", "--out", str(given.out), "--until", repr(until)]  # fmt: skip
    command += ["--dry-run"] if given.dry_run else []
    for name in given.only:
        command += ["--only", name]
    marks = {"dry_run": True} if given.dry_run else {}
    return supervise(Rows(given.out), command, until, marks)


if __name__ == "__main__":
    sys.exit(main())
