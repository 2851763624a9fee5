"""Keeps a run going: a kernel that kills the process that launched it costs one row, not the run."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from .rows import Rows

SETTLED = (0, 2, 3)  # ended by itself: done or out of time, bad input, nothing to run on


def supervise(
    rows: Rows, command: Sequence[str], until: float, marks: dict[str, bool], clock: Callable[[], float] = time.time
) -> int:  # fmt: skip
    """Run `command` until it ends by itself; where it died in a row, write that down and start it again.

    Returns its exit status. `marks` go into the rows that are written here.
    """
    while True:
        try:
            status = subprocess.call(list(command))
        except KeyboardInterrupt:
            return 130
        key = rows.begun()
        if status in SETTLED or key is None:
            return status
        rows.open()
        rows.append({"key": key, "error": f"the process ended in this row: {said(status)}", **marks})  # fmt: skip
        if clock() >= until:
            return status


def said(status: int) -> str:
    """An exit status in words."""
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"exit status {status}, a lost device or a row that hung"
