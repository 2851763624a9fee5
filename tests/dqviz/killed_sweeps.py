"""Sweep again and again in child processes, killing them with SIGKILL at random moments.

    python killed_sweeps.py MODEL FOLDER TIER KILLS SEED

Each attempt is a real process that gets a real SIGKILL; it is forked from one that has swept already, which
saves the seconds of importing torch and loading the model. FOLDER/whole ran through without a kill; FOLDER/cut
was killed KILLS times, then left alone. A moment is so many lines on disk, of cells or of batches, and a part of the next
one, so the kills hit on a fast machine and on a slow one. Prints JSON: how many kills hit, and the cells and samples that
the last attempt took over.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from dqviz import sweep_inputs
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


def lines(folder: Path) -> int:
    """How many cells or batches the unfinished sweep has on disk."""
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*/.*.unfinished.jsonl"))


def ended(pid: int) -> bool:
    """Whether a child is over, without taking its status away."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    """Kill, resume, kill, resume ... and let the sweep end in the end."""
    model, folder, tier = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    kills, seed = map(int, sys.argv[4:])
    chance = random.Random(seed)
    loaded = sweep_inputs.load(model, "cpu")
    sweep_inputs.load = lambda *_, **__: loaded
    sweep(request(model, folder / "warm", tier))
    began = time.monotonic()
    made = sweep(request(model, folder / "whole", tier))
    count = made["cells"] if tier == "exact" else made["samples"]
    one = (time.monotonic() - began) / count
    killed = 0
    for moment in sorted(chance.randrange(count - 2) for _ in range(kills)):
        pid = os.fork()
        if pid == 0:
            sweep(request(model, folder / "cut", tier))
            os._exit(0)
        while lines(folder / "cut") < moment and not ended(pid):
            time.sleep(one / 20)
        time.sleep(chance.random() * one)
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    made = sweep(request(model, folder / "cut", tier))
    resumed = made["resumed_cells"] if tier == "exact" else made["resumed_samples"]
    print(json.dumps({"killed": killed, "resumed": resumed, "lines": count}))


if __name__ == "__main__":
    main()
