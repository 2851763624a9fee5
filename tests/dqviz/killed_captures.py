"""Capture again and again in child processes, killing them with SIGKILL at random moments.

    python killed_captures.py MODEL FOLDER KILLS SEED

Prints JSON: how many attempts were killed, how many captures were completed after that, and in how
many attempts. Each attempt is a real process that gets a real SIGKILL; it is forked from one that has
made a capture already, which saves the seconds of importing torch and loading the model. FOLDER/whole ran through without
a kill; FOLDER/0, FOLDER/1, ... are complete in the end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from dqviz import capturing
from dqviz.capturing import CaptureRequest, capture


def request(model: str, folder: Path) -> CaptureRequest:
    """16 samples one by one, so that there are many batches to be killed between and within."""
    return CaptureRequest.parse(
        {"model": model, "out": folder, "seeds": "100-115", "batch_size": 1, "device": "cpu"}
    )


def child(model: str, folder: Path) -> int:
    """Start an attempt; returns its process id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            made = capture(request(model, folder))
            print(json.dumps({"resumed": made["resumed_samples"]}), file=sys.stderr, flush=True)
            code = 0
        finally:
            os._exit(code)
    return pid


def main() -> None:
    """Kill, resume, kill, resume ... and let every capture end in the end."""
    model, folder, kills, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    loaded = capturing.load(model, "cpu")
    capturing.load = lambda *_, **__: loaded
    capture(request(model, folder / "warm"))
    began = time.monotonic()
    capture(request(model, folder / "whole"))
    whole = time.monotonic() - began
    killed, studies, attempts, failures = 0, 0, 0, 0
    while killed < kills:
        done = False
        while not done:
            attempts += 1
            pid = child(model, folder / str(studies))
            # The last attempts are left alone.
            if killed < kills:
                time.sleep(chance.uniform(0.1, 0.9) * whole)
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            killed += os.WIFSIGNALED(status)
            done = os.WIFEXITED(status)
            failures += done and os.WEXITSTATUS(status) != 0
        studies += 1
    report = {"killed": killed, "studies": studies, "attempts": attempts, "failures": failures}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
