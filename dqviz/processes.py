"""Processes by what they are, not by number alone: a number is given again after its owner died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

STAT = Path("/proc")
# Threads of torch that wait shall sleep, not spin: on two cores that others used as well, five steps of
# dit-emoji took 0.7 to 0.8 s with this and 2.4 to 4.8 s without (three runs each, in turn).
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}


def birth(pid: int) -> str | None:
    """What tells a process from a later one of the same number: None when it is gone or a zombie."""
    if sys.platform == "linux":
        try:
            fields = (STAT / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2]
            boot = (STAT / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        except OSError:
            return None
        state, ticks = fields.split()[0], fields.split()[19]  # since boot, so no clock is involved
        return None if state in "ZX" else f"{boot}:{ticks}"
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None


def is_alive(pid: int | None, born: str | None) -> bool:
    """Whether the process that had this number and this birth still runs."""
    return pid is not None and born is not None and birth(pid) == born


def kill(pid: int, born: str) -> None:
    """End that process at once, and no other that has its number now."""
    if is_alive(pid, born):
        try:
            os.kill(pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        except ProcessLookupError:
            return


def start_worker(root: Path, linger: float) -> subprocess.Popen[bytes]:
    """Start `python -m dqviz.worker`, in a session of its own: it outlives who started it.

    Args:
        root: folder of `jobs.sqlite`.
        linger: seconds that it waits for another job before it ends.
    """
    source = str(Path(__file__).resolve().parents[1])
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "dqviz.worker", str(root.absolute()), "--linger", str(linger)],
        env={**_WAITING, **os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
