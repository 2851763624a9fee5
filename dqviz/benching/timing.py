"""Seconds of several ways to compute one thing, taken in turn in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

Calls = Mapping[str, Callable[[], object]]


def fastest(
    calls: Calls,
    runs: int,
    device: torch.device | None = None,
    pause: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Seconds of each: the least of interleaved runs after one that is not counted; other work only ever adds.

    On a GPU between two events of its own clock, launches included. `pause` is called between calls, and may raise.
    """
    best = dict.fromkeys(calls, float("inf"))
    for run in range(runs + 1):
        for name, call in calls.items():
            pause()
            taken = _seconds(call, device)
            if run:
                best[name] = min(best[name], taken)
    return best


def columns(seconds: Mapping[str, float], version: str = "triton") -> dict[str, float]:
    """Columns of a table: the seconds of each way, and the gain of a version over the definition."""
    found = {f"seconds_{name}": round(taken, 7) for name, taken in seconds.items()}
    return {**found, "ratio": round(seconds["simulate"] / seconds[version], 3)}


def _seconds(call: Callable[[], object], device: torch.device | None) -> float:
    if device is None or device.type != "cuda":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return 1e-3 * begin.elapsed_time(end)


def able(calls: Calls, out: dict[str, str]) -> dict[str, Callable[[], object]]:
    """Those that run at all; why the others do not goes into `out`."""
    found = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:  # registers and shared memory of a GPU run out in many manners
            said = " ".join(str(error).split())[:300]
            out[name] = said or type(error).__name__
        else:
            found[name] = call
    return found
