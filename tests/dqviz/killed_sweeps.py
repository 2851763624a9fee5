"""Sweep again and again in child processes, killing them with SIGKILL at random moments.

    python killed_sweeps.py MODEL FOLDER KILLS SEED

Each attempt is a real process that gets a real SIGKILL; it is forked from one that has swept already, which
saves the seconds of importing torch and loading the model. FOLDER/whole ran through without a kill; FOLDER/cut
was killed KILLS times, then left alone. A moment is so many cells on disk and a part of the next one, so the kills
hit on a fast machine and on a slow one. Prints JSON: how many kills hit, and the cells that the last attempt took over.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from dqviz import sweeping
from dqviz.sweeping import SweepRequest, sweep


def request(model: str, folder: Path) -> SweepRequest:
    """Exact flips of two layers, drawn cell by cell, so that there are many moments between and within."""
    return SweepRequest.parse(
        {
            "model": model,
            "out": folder,
            "tier": "exact",
            "bits": "4,8",
            "windows": 2,
            "sites": "attn1.to_q",
            "seeds": "300-301",
            "pictures": False,
            "device": "cpu",
        }
    )


def cells(folder: Path) -> int:
    """How many cells the unfinished sweep has on disk."""
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*/.*.unfinished.jsonl"))


def ended(pid: int) -> bool:
    """Whether a child is over, without taking its status away."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    """Kill, resume, kill, resume ... and let the sweep end in the end."""
    model, folder, kills, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    loaded = sweeping.load(model, "cpu")
    sweeping.load = lambda *_, **__: loaded
    sweep(request(model, folder / "warm"))
    began = time.monotonic()
    made = sweep(request(model, folder / "whole"))
    one = (time.monotonic() - began) / made["cells"]
    killed = 0
    for moment in sorted(chance.randrange(made["cells"] - 2) for _ in range(kills)):
        pid = os.fork()
        if pid == 0:
            sweep(request(model, folder / "cut"))
            os._exit(0)
        while cells(folder / "cut") < moment and not ended(pid):
            time.sleep(one / 20)
        time.sleep(chance.random() * one)
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    made = sweep(request(model, folder / "cut"))
    print(json.dumps({"killed": killed, "resumed": made["resumed_cells"], "cells": made["cells"]}))


if __name__ == "__main__":
    main()
