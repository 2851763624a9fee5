"""Times of several ways to compute one thing, taken in turn in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import quantiles
from typing import Any

import torch

from .place import Place

RUNS = 60
WARM_UP = 3


def interleaved(
    place: Place, ways: Mapping[str, Callable[[], object]], runs: int = RUNS, cold: bool = True
) -> dict[str, dict[str, Any]]:
    """Of each way `median_us`, `low_us` and `high_us` (first and last decile) and `runs`, or its `error`.

    Between two CUDA events; in turn, each round beginning with another way; `cold`: caches are emptied before each call.
    In a dry run the times are the processor's and mean nothing.
    """
    found: dict[str, dict[str, Any]] = {}
    able: list[str] = []
    for name, way in ways.items():
        try:
            for _ in range(WARM_UP):
                way()
            place.synchronize()
        except (
            Exception
        ) as error:  # another's way may fail in any manner; a dead device raises below
            found[name] = {"error": line(error)}
            place.synchronize()
        else:
            able.append(name)
    taken: dict[str, list[Any]] = {name: [] for name in able}
    for run in range(runs if able else 0):
        first = run % len(able)
        for name in able[first:] + able[:first]:
            if cold:
                place.cool_caches()
            taken[name].append(_timed(place, ways[name]))
    place.synchronize()
    for name, pairs in taken.items():
        found[name] = _spread([pair() for pair in pairs])
    return {name: found[name] for name in ways}


def line(error: BaseException) -> str:
    """An error in one line."""
    said = next((part.strip() for part in str(error).splitlines() if part.strip()), "")
    return f"{type(error).__name__}: {said[:300]}"


def ratio(found: Mapping[str, Mapping[str, Any]], peer: str, ours: str) -> float | None:
    """Time of the peer over ours: above 1 where ours is faster."""
    if not all("median_us" in found.get(name, {}) for name in (peer, ours)):
        return None
    return round(found[peer]["median_us"] / found[ours]["median_us"], 4)


def _timed(place: Place, way: Callable[[], object]) -> Callable[[], float]:
    """Run it; what is returned gives the microseconds once the device is done."""
    if place.dry:
        began = time.perf_counter()
        way()
        taken = 1e6 * (time.perf_counter() - began)
        return lambda: taken
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    way()
    end.record()
    return lambda: 1e3 * begin.elapsed_time(end)


def _spread(taken: list[float]) -> dict[str, Any]:
    tenths = quantiles(taken, n=10, method="inclusive")
    values = {"median_us": tenths[4], "low_us": tenths[0], "high_us": tenths[8]}
    return {name: round(value, 3) for name, value in values.items()} | {"runs": len(taken)}
