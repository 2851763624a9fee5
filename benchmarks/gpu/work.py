"""The process that does the rows, one after another, until none is left or the time is up.

First each stage has its minutes, in order; then what they left has the rest. An error is a row too. When the device itself
fails, this process ends, and `supervise.py` starts another behind the row that it failed in.
"""

from __future__ import annotations

import argparse
import faulthandler
import platform
import sys
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .place import Place
from .rows import Rows
from .stage import Row, StageModule, stages
from .timing import line

FIRST = "correctness"  # the stage that the others' times depend on
PACKAGES = ("torch", "triton", "numpy", "diffusers", "torchao")
PATIENCE = 4  # a row that takes so many times what was guessed, and a minute more, hangs


def work(
    place: Place,
    chosen: Mapping[str, StageModule],
    until: float,
    clock: Callable[[], float] = time.time,
    watched: bool = False,
) -> dict[str, list[str]]:
    """Do what is not there yet; returns what is left, by stage.

    `until` is a time of `clock`. `watched`: a row that hangs ends the process.
    """
    place.rows.open()
    place.rows.append(header(place))
    for share_only in (True, False):
        for name, module in chosen.items():
            missing = module.STAGE.missing
            if missing:
                if share_only:
                    say(f"{name}: left out, not installed: {', '.join(missing)}")
                continue
            begun = spent = seconds_of(place.rows, name)
            done = place.rows.keys()
            for row in module.rows(place):
                if row.key in done:
                    continue
                if share_only and spent + row.seconds > 60 * module.STAGE.minutes:
                    break
                if clock() + row.seconds > until:
                    continue
                spent += made(place, row, watched)
            if spent > begun:
                place.forget()
    return left(place, chosen)


def made(place: Place, row: Row, watched: bool) -> float:
    """Make one row and keep it; the seconds it took."""
    place.rows.begin(row.key)
    began = time.perf_counter()
    if watched:
        faulthandler.dump_traceback_later(PATIENCE * row.seconds + 60, exit=True)
    try:
        found = row.measure()
        place.synchronize()
    except Exception as error:  # whatever it is, the next rows are to be made too
        found = {"error": line(error)}
        place.synchronize()
    if watched:
        faulthandler.cancel_dump_traceback_later()
    seconds = round(time.perf_counter() - began, 2)
    clock = {} if place.dry else {"sm_clock": place.clocks().get("clocks.sm")}
    place.rows.append({"key": row.key, "seconds": seconds, **found, **clock, **dry_mark(place.dry)})
    say(f"{row.key}: {seconds:.1f} s{', ' + found['error'] if 'error' in found else ''}")
    return seconds


def left(place: Place, chosen: Mapping[str, StageModule]) -> dict[str, list[str]]:
    """Keys without a row, by stage."""
    done = place.rows.keys()
    missing = {
        name: [row.key for row in module.rows(place) if row.key not in done]
        for name, module in chosen.items()
    }
    return {name: keys for name, keys in missing.items() if keys}


def seconds_of(rows: Rows, stage: str) -> float:
    """What the rows of a stage took, in all calls."""
    return sum(row.get("seconds", 0.0) for row in rows if row["key"].startswith(f"{stage}/"))


def header(place: Place) -> dict[str, Any]:
    """What every call says first: the device, versions and the date."""
    calls = sum(row["key"].startswith("call ") for row in place.rows)
    return {
        "key": f"call {calls + 1}",
        "date": datetime.now(UTC).date().isoformat(),
        **identity(place),
        "clocks": place.clocks(),
        **({"lacks_floats": place.lacks_floats} if place.lacks_floats else {}),
        **dry_mark(place.dry),
    }


def identity(place: Place) -> dict[str, Any]:
    """Device and versions: rows of one folder have one."""
    found: dict[str, Any] = {"device": platform.machine(), "architecture": place.architecture}
    if not place.dry:
        properties = torch.cuda.get_device_properties(place.device)
        found["device"] = properties.name
        found["memory_bytes"] = properties.total_memory
        found["multiprocessors"] = properties.multi_processor_count
        found["cuda"] = torch.version.cuda or torch.version.hip
    return {**found, "versions": {"python": platform.python_version(), **versions()}}


def versions() -> dict[str, str]:
    """Of what is installed among `PACKAGES`."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def stranger(place: Place) -> str | None:
    """Why rows of this place cannot stand beside those of the folder, or None."""
    own = identity(place) | dry_mark(place.dry)
    for row in place.rows:
        if row["key"].startswith("call "):
            for name in (*own, "dry_run"):
                if row.get(name) != own.get(name):
                    return f"{place.rows.folder} has rows with {name} {row.get(name)}, here it is {own.get(name)}; use another --out"
    return None


def dry_mark(dry: bool) -> dict[str, bool]:
    """What every row of a dry run bears."""
    return {"dry_run": True} if dry else {}


def chosen_stages(only: Collection[str]) -> dict[str, StageModule]:
    """All, or the named ones behind the first."""
    return {n: m for n, m in stages().items() if not only or n == FIRST or n in only}


def say(text: str) -> None:
    """On stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """What `supervise.py` starts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True, help="seconds since 1970")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--only", action="append", default=[], choices=stages())
    given = parser.parse_args()
    if not given.dry_run and not torch.cuda.is_available():
        say("error: no CUDA device; on the CPU there is --dry-run, whose times mean nothing")
        return 3
    device = torch.device("cpu" if given.dry_run else "cuda:0")
    place = Place(device, Rows(given.out), given.dry_run)
    strange = stranger(place)
    if strange:
        say(f"error: {strange}")
        return 2
    chosen = chosen_stages(given.only)
    with torch.no_grad():
        rest = work(place, chosen, given.until, watched=True)
    for name, keys in rest.items():
        say(f"left of {name}: {len(keys)}, the first is {keys[0]}")
    say("left: nothing" if not rest else "the same command goes on there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
