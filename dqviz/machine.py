"""What this machine has: memory, disk, cores; and whether that is enough, said before the start."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from quant.errors import EnvironmentFault

MIB = 2**20
_CGROUP = Path("/sys/fs/cgroup")
_STATUS, _MARK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CPUINFO = Path("/proc/cpuinfo")


def available_memory() -> int:
    """Bytes that a new process may use: free memory, or what is left of the container's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is not None and used is not None:
        free = min(free, max(0, limit - used + _reclaimable()))
    return free


def _reclaimable() -> int:
    """Bytes of the container's file cache, which the kernel gives up when asked for memory."""
    try:
        lines = (_CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


class PeakMemory:
    """The largest resident memory of this process during a block of code.

    `peak_bytes` is None where the system keeps no such mark; where it cannot be set back, it is the
    mark of the whole process so far.
    """

    def __enter__(self) -> PeakMemory:
        with contextlib.suppress(OSError):
            _MARK.write_text("5")
        self.peak_bytes: int | None = None
        return self

    def __exit__(self, *_: object) -> None:
        try:
            status = _STATUS.read_text(encoding="utf-8")
            self.peak_bytes = 1024 * int(status.partition("VmHWM:")[2].split()[0])
        except (OSError, IndexError):
            self.peak_bytes = None


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is, or will be made."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor as a person calls it, with its cores: `AMD EPYC, 2 cores`."""
    name = ""
    if _CPUINFO.is_file():
        names = re.findall(r"^model name\s*:\s*(.+)$", _CPUINFO.read_text(encoding="utf-8"), re.M)
        name = names[0] if names else ""
    name = re.sub(r"\s+", " ", name or platform.processor() or platform.machine()).strip()
    n = cores()
    return f"{name}, {n} core{'' if n == 1 else 's'}"


def with_threads(device: str, threads: int) -> str:
    """A device with how many threads compute on it: `AMD EPYC, 2 cores, 1 thread`."""
    return f"{device}, {threads} thread{'' if threads == 1 else 's'}"


def busy(seconds: float = 2.0) -> float:
    """Per cent of the processor that others use, found by waiting so long."""
    import psutil

    return float(psutil.cpu_percent(interval=seconds))


class Others:
    """What other processes use of the processor, from now on."""

    def __init__(self) -> None:
        self._began = _used()

    def percent(self) -> float:
        """Per cent of the processor since the beginning: what the system used, less what this process did."""
        busy, total, own = (now - then for now, then in zip(_used(), self._began, strict=True))
        return 100 * max(0.0, busy - own) / total if total > 0 else 0.0


def _used() -> tuple[float, float, float]:
    """Seconds of all cores that were busy, and in all; seconds of this process."""
    import psutil

    times = psutil.cpu_times()._asdict()
    total = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)
    return total - times["idle"] - times.get("iowait", 0.0), total, time.process_time()


def rates() -> tuple[float, float, float]:
    """Multiply-adds, numbers through an operation and operations per second: the best of a few rounds."""
    import torch

    a, x, small = torch.ones(512, 512), torch.ones(2**20), torch.ones(8)
    return (
        a.numel() * 512 * _per_second(lambda: a @ a),
        x.numel() * _per_second(lambda: x.mul(2)),
        _per_second(lambda: small.mul(2)),
    )


def _per_second(work: Callable[[], object]) -> float:
    """How often a piece of work runs in a second, by its fastest of some rounds of 5 ms."""
    work()
    best = 0.0
    for _ in range(6):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < 0.005:
            work()
            count += 1
        best = max(best, count / (time.perf_counter() - began))
    return best


def require_memory(
    needed: int, what: str, smaller: str = "a smaller model, --batch-size 1"
) -> None:
    """Stop with numbers when `needed` bytes are not free; `smaller` says what would need less."""
    free = available_memory()
    if needed > free:
        raise EnvironmentFault(
            f"{what} needs about {mib(needed)} of memory and {mib(free)} are free; "
            f"use {smaller}, or a larger machine"
        )


def require_disk(needed: int, folder: Path) -> None:
    """Stop with numbers when `needed` bytes do not fit where `folder` is."""
    free = free_disk(folder)
    if needed > free:
        raise EnvironmentFault(
            f"{folder} needs about {mib(needed)} on disk and {mib(free)} are free; "
            "free some, or write elsewhere with --out"
        )


def mib(count: float) -> str:
    """Bytes as MiB, or GiB from one GiB up."""
    return f"{count / MIB / 1024:.1f} GiB" if count >= 1024 * MIB else f"{count / MIB:.0f} MiB"


def _number(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
