"""Sweep again and again in child processes, killing them with SIGKILL at random moments.

    python killed_sweeps.py MODEL FOLDER TIER KILLS SEED

Each attempt is a real process that gets a real SIGKILL; it is forked from one that has swept already, which
saves the seconds of importing torch and loading the model. FOLDER/whole ran through without a kill; FOLDER/cut
was killed KILLS times, then left alone. A moment is so many lines on disk, of cells or of batches, and a part of the next
one: no clock is asked, so every kill hits on any machine. Prints JSON: how many kills hit, and the cells and samples that
the last attempt took over.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from dqviz import sweep_inputs
from dqviz.line_log import LineLog
from dqviz.sweeping import SweepRequest, sweep


def request(model: str, folder: Path, tier: str) -> SweepRequest:
    """Two layers, cell by cell or sample by sample, so that there are many moments between and within."""
    return SweepRequest.parse(
        {
            "model": model,
            "out": folder,
            "tier": tier,
            "bits": "4,8",
            "windows": 2,
            "sites": "attn1.to_q",
            "seeds": "300-301" if tier == "exact" else "300-309",
            "batch_size": 8 if tier == "exact" else 1,
            "probes": 2,
            "pictures": False,
            "device": "cpu",
        }
    )


def die(at: int, part: float) -> None:
    """Let this process be killed where line `at` is being written, when a part of it is on disk."""
    append = LineLog.append

    def dying(log: LineLog, line: dict[str, Any]) -> None:
        before = log.file.read_bytes() if log.file.is_file() else b""
        append(log, line)
        if before.count(b"\n") >= at:
            written = log.file.stat().st_size - len(before)
            os.truncate(log.file, len(before) + round(part * written))
            os.kill(os.getpid(), signal.SIGKILL)

    LineLog.append = dying


def main() -> None:
    """Kill, resume, kill, resume ... and let the sweep end in the end."""
    model, folder, tier = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    kills, seed = map(int, sys.argv[4:])
    chance = random.Random(seed)
    loaded = sweep_inputs.load(model, "cpu")
    sweep_inputs.load = lambda *_, **__: loaded
    made = sweep(request(model, folder / "whole", tier))
    count = made["cells"] if tier == "exact" else made["samples"]
    killed = 0
    for moment in sorted(chance.randrange(count - 2) for _ in range(kills)):
        part = chance.random()
        pid = os.fork()
        if pid == 0:
            die(moment, part)
            sweep(request(model, folder / "cut", tier))
            os._exit(0)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    made = sweep(request(model, folder / "cut", tier))
    resumed = made["resumed_cells"] if tier == "exact" else made["resumed_samples"]
    print(json.dumps({"killed": killed, "resumed": resumed, "lines": count}))


if __name__ == "__main__":
    main()
