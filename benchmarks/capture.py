"""What capturing costs: time over plain drawing, memory and bytes against the bounds said before.

    make capture                                                    (dit-emoji, 8 samples, 20 steps)
    .venv/bin/python -m benchmarks.capture --rounds 3 --out /tmp/capture

Time: rounds of plain and captured drawing in turn, in one process; the ratio of wall times and of
processor times, per round. Memory: two fresh processes, one that draws and one that captures; what
the second's peak has more is set against the bound. Writes capture.json and capture.md into --out
(docs/results).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from dqviz import machine
from dqviz.planning import load
from dqviz.records import device_name, versions
from dqviz.request import CALIBRATION_SEEDS
from quant.calibration import calibrate
from quant.clock import RecordingClock
from quant.footprint import footprint, input_shapes
from quant.generation import generate
from quant.models import Model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits
from quant.seen_layout import CalibrationOptions
from quant.stages import Stages, stages_by_input, weight_statistics

ROOT = Path(__file__).resolve().parent.parent
BITS = "w4a8"
KINDS = ("plain", "capture", "capture with stages")
LIMIT = 1.5  # of the time of plain drawing


class Bench:
    """One model with what is drawn, and the three ways to draw it."""

    def __init__(self, ref: str, samples: int, steps: int, method: str, device: str) -> None:
        self.model: Model = load(ref, device)
        self.sampler = self.model.sampler(steps)
        self.samples = self.model.samples(CALIBRATION_SEEDS[:samples])
        self.options = CalibrationOptions()
        self.shapes = input_shapes(self.model, self.samples[0], self.sampler)
        self.method = method

    def stages(self) -> Stages:
        """The transforms of the method, calibrated on two samples."""
        seen = calibrate(self.model, self.samples[:2], self.sampler)
        plan = uniform_plan(self.model, parse_bits(BITS), sampler=self.sampler)
        made = quantize(self.model, self.method, plan, {"transform": "both"}, seen)
        return stages_by_input(made.transformer, self.model.sites, {"method": self.method})

    def plain(self) -> None:
        """Draw."""
        generate(self.model, self.samples, self.sampler)
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()

    def capture(self, stages: Stages | None = None, file: Path | None = None) -> float | None:
        """Draw and record; returns the overhead that the capture itself reports."""
        clock = RecordingClock()
        seen = calibrate(
            self.model,
            self.samples,
            self.sampler,
            self.options,
            stages=stages,
            shapes=self.shapes,
            clock=clock,
        )
        if file is not None:
            weights = weight_statistics(self.model.transformer, self.model.sites, stages)
            replace(seen, weights=weights).save(file)
        return clock.overhead_ratio


def timed(function: Callable[[], Any]) -> dict[str, Any]:
    """Wall and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    reported = function()
    return {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
        "reported_ratio": reported,
    }


def ratios(rounds: list[dict[str, dict[str, Any]]], kind: str) -> dict[str, Any]:
    """What one kind of capture takes over plain drawing."""
    found: dict[str, Any] = {"seconds": min(r[kind]["wall"] for r in rounds)}
    for clock in ("wall", "processor"):
        each = [r[kind][clock] / r["plain"][clock] for r in rounds]
        found[clock] = {"median": median(each), "each": each}
    found["reported"] = median(r[kind]["reported_ratio"] for r in rounds)
    return found


def peak(arguments: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Peak memory of a fresh process that draws, or captures and saves; and the bytes it wrote."""
    command = [sys.executable, "-m", "benchmarks.capture", "--only", kind]
    for name in ("model", "samples", "steps", "method", "device"):
        command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def alone(arguments: argparse.Namespace) -> None:
    """Inside such a process: print its peak as JSON."""
    bench = make(arguments)
    stages = bench.stages() if arguments.only == KINDS[2] else None
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, machine.PeakMemory() as memory:
        if arguments.only == "plain":
            bench.plain()
        else:
            file = Path(folder) / "seen.safetensors"
            bench.capture(stages, file)
            bound = footprint(bench.model, bench.sampler, bench.options, bench.shapes, stages)
            found = {
                "bytes": file.stat().st_size,
                "predicted": {"bytes": bound.file_bytes, "memory_bytes": bound.memory_bytes},
            }
    print(json.dumps({**found, "peak_bytes": memory.peak_bytes}))


def make(arguments: argparse.Namespace) -> Bench:
    """The model and what is drawn."""
    return Bench(
        arguments.model, arguments.samples, arguments.steps, arguments.method, arguments.device
    )


def results(arguments: argparse.Namespace) -> dict[str, Any]:
    """All that the files hold."""
    bench = make(arguments)
    stages = bench.stages()
    ways: dict[str, Callable[[], Any]] = {
        "plain": bench.plain,
        "capture": bench.capture,
        "capture with stages": lambda: bench.capture(stages),
    }
    rounds = []
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    for number in range(arguments.rounds + 1):
        found = {kind: timed(way) for kind, way in ways.items()}
        print(f"round {number}: " + ", ".join(f"{k} {v['wall']:.2f} s" for k, v in found.items()))
        if number:  # the first warms up
            rounds.append(found)
    memory = {kind: peak(arguments, kind) for kind in KINDS}
    for kind in KINDS[1:]:
        memory[kind]["added_bytes"] = memory[kind]["peak_bytes"] - memory["plain"]["peak_bytes"]
    on_cpu = bench.model.device.type == "cpu"
    return {
        "model": bench.model.key,
        "samples": len(bench.samples),
        "steps": bench.sampler.steps,
        "inputs": len(bench.shapes),
        "branches": bench.model.branches(bench.sampler.guidance),
        "method": f"{arguments.method} {BITS}",
        "stages": list(stages.names),
        "device": machine.processor() if on_cpu else device_name(bench.model),
        "threads": torch.get_num_threads(),
        "load_before": load_before,
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "evidence": "measured",
        "rounds": len(rounds),
        "plain_seconds": min(r["plain"]["wall"] for r in rounds),
        "time": {kind: ratios(rounds, kind) for kind in KINDS[1:]},
        "memory": memory,
        "limit": LIMIT,
    }


def page(found: dict[str, Any]) -> str:
    """The same as Markdown."""
    versions_text = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    shared = ""
    if found["load_before"] is not None and found["load_before"] > 0.5:
        shared = (
            f" Other work kept the cores busy (load {found['load_before']:.1f} before the start): wall "
            "times are longer and their ratios vary more than on an idle machine; processor times do not "
            "count what others used."
        )
    rows, sizes = [], []
    for kind in KINDS[1:]:
        t, m = found["time"][kind], found["memory"][kind]
        each = t["wall"]["each"]
        rows.append(
            f"| {kind} | {t['seconds']:.2f} | {t['wall']['median']:.2f} ({min(each):.2f} to {max(each):.2f}) "
            f"| {t['processor']['median']:.2f} | {t['reported']:.2f} |"
        )
        mib = [machine.mib(v) for v in (m["bytes"], m["predicted"]["bytes"])]
        mib += [machine.mib(v) for v in (m["added_bytes"], m["predicted"]["memory_bytes"])]
        sizes.append(f"| {kind} | {' | '.join(mib)} |")
    return f"""# What capturing costs

Written by `make capture` from `docs/results/capture.json`; do not edit.

Model `{found["model"]}`, {found["samples"]} samples in one batch, {found["steps"]} steps, {found["branches"]} guidance branches, {found["inputs"]} inputs. {machine.with_threads(found["device"], found["threads"])}; {versions_text}; {found["date"]}. Measured, {found["rounds"]} rounds of plain and captured drawing in turn.{shared}

Plain drawing takes {found["plain_seconds"]:.2f} s (fastest round). "With stages" also records what each transform of {found["method"]} makes of every input ({", ".join(found["stages"])}).

| | seconds, fastest | x plain, wall: median (range) | x plain, processor: median | x plain, as the capture reports it |
|---|---:|---:|---:|---:|
{chr(10).join(rows)}

Memory is what the peak of a fresh process that captures and saves has more than that of one that draws; its bound and that of
the file are said before a capture starts (predicted).

| | file | bound | memory added | bound |
|---|---:|---:|---:|---:|
{chr(10).join(sizes)}
"""


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(description="What capturing costs.")
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--method", default="viditq", help="whose stages are recorded")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--only", choices=KINDS, help="inside: one way, its peak memory as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        alone(arguments)
        return
    found = results(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, allow_nan=False)
    (arguments.out / "capture.json").write_text(text + "\n", encoding="utf-8")
    (arguments.out / "capture.md").write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
