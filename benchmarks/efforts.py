"""How long calibrating and quantizing take, beside what was predicted; bytes of every tier of TR-DQ.

    make efforts                                          (dit-emoji, 8 samples, 20 steps; about 3 minutes)
    .venv/bin/python -m benchmarks.efforts --methods trdq --out /tmp/efforts

Predictions are made first, as `dqviz` makes them before a calibration. Each time is of one run in this
process, so a busy machine shows in it: the rates say how busy it was. Sizes and memory are predicted
from shapes, for the model and for DiT-XL/2. Methods that learn are timed by `make learned`. Writes efforts.json and efforts.md into --out (docs/results).
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from pathlib import Path
from typing import Any

import torch

from dqviz import projection
from dqviz.catalogue import size_report
from dqviz.machine import MIB
from dqviz.planning import load
from quant.calibration import calibrate
from quant.cards import methods
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits

from .results import device, written

ROOT = Path(__file__).resolve().parent.parent
BITS = "w4a8"
SAMPLES = range(100_000, 100_008)
WINDOWS = (1, 2, 4, "step")
LIMIT = 180.0  # seconds for calibrating dit-emoji with four windows on two cores
SHAPE = "dit-xl-2"


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Every time, and the sizes."""
    model = load(given.model, device="cpu")
    sampler = model.sampler(given.steps)
    samples = model.samples(tuple(SAMPLES)[: given.samples])
    known = sorted(k for k, card in methods().items() if BITS in card.bits and not card.learns)
    keys = given.methods.split(",") if given.methods else known
    asked: list[tuple[str, dict[str, Any]]] = [(key, {}) for key in keys if key != "trdq"]
    if "trdq" in keys:
        asked += [("trdq", {"windows": windows}) for windows in WINDOWS]
    told = [projection.of_model(model, samples, sampler, [ask], 8) for ask in asked]
    began = time.perf_counter()
    seen = calibrate(model, samples, sampler)
    calibration = time.perf_counter() - began
    rows = []
    for (key, options), said in zip(asked, told, strict=True):
        plan = uniform_plan(model, parse_bits(BITS), sampler=sampler)
        began = time.perf_counter()
        quantize(model, key, plan, options, seen)
        seconds = time.perf_counter() - began
        predicted = said["methods"][key]["seconds"]
        rows.append({"method": key, "options": options, "seconds": seconds, "predicted": predicted})
    tiers = {
        target: [
            {"windows": windows, **_bytes(way)}
            for windows in (1, 4)
            for way in size_report(target, "trdq", BITS, None, {"windows": windows})["alternatives"]
        ]
        for target in (given.model, SHAPE)
    }
    return {
        "format": 1,
        "model": given.model,
        "bits": BITS,
        "samples": len(samples),
        "steps": sampler.steps,
        "rates": told[0]["rates"],
        "calibration": {"seconds": calibration, "predicted": told[0]["seconds"]},
        "rows": rows,
        "tiers": tiers,
        "full": {t: size_report(t, "rtn", BITS, None, {})["fp16_bytes"] for t in tiers},
        "device": device(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def _bytes(way: dict[str, Any]) -> dict[str, Any]:
    return {
        "tier": way["options"]["tier"],
        "size_bytes": way["size_bytes"],
        **way["memory"],
    }


def markdown(found: dict[str, Any]) -> str:
    """efforts.md from efforts.json: nothing in it is written by hand."""
    calibration = found["calibration"]
    lines = [
        "# Time of calibrating and quantizing, and bytes of the tiers of TR-DQ",
        "",
        "Written by `make efforts` from `docs/results/efforts.json`; do not edit.",
        "",
        f"`{found['model']}` at {found['bits'].upper()}, {found['samples']} samples, {found['steps']} steps; "
        f"{found['device']}; torch {found['torch']}; {found['date']}. Seconds are measured, once each; what was predicted",
        "before the start is counted from shapes over the rates of that moment: "
        f"{found['rates']['macs'] / 1e9:.0f} G multiply-adds, {found['rates']['numbers'] / 1e9:.1f} G numbers and "
        f"{found['rates']['calls'] / 1e3:.0f} k operations a second; other work on the same cores",
        "slows both, and comes and goes between the two.",
        "",
        "| what | seconds | predicted |",
        "|---|---:|---:|",
        f"| calibrate, for any method | {calibration['seconds']:.1f} | {calibration['predicted']:.1f} |",
    ]
    lines += [
        f"| quantize: {_way(row)} | {row['seconds']:.1f} | {row['predicted']:.1f} |"
        for row in found["rows"]
    ]
    four = [row for row in found["rows"] if row["options"].get("windows") == 4]
    if four:
        whole = calibration["seconds"] + four[0]["seconds"]
        kept = "within" if whole <= LIMIT else "beyond"
        lines += [
            "",
            f"TR-DQ with four windows, calibration included: {whole:.0f} s, {kept} the limit of {LIMIT:.0f} s.",
        ]
    for target, rows in found["tiers"].items():
        full = found["full"][target]
        lines += [
            "",
            f"## Tiers, `{target}`",
            "",
            f"Predicted from shapes, in MiB; 16 bit takes {full / MIB:.1f}. Stored: tensors in memory as in the file. Expanded:",
            "what simulation makes of them for one window; integer kernels keep packed weights instead.",
            "",
            "| tier | windows | on disk | of 16 bit | stored | expanded |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {row['tier']} | {row['windows']} | {row['size_bytes'] / MIB:.1f} | {100 * row['size_bytes'] / full:.0f} % "
            f"| {row['stored_bytes'] / MIB:.1f} | {row['expanded_bytes'] / MIB:.1f} |"
            for row in rows
        ]
    return "\n".join([*lines, ""])


def _way(row: dict[str, Any]) -> str:
    options = " ".join(f"{name}={value}" for name, value in row["options"].items())
    return f"{row['method']} {options}".strip()


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--methods", default="", help="keys, with commas; all of them")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    return written("efforts", given.out, lambda: measure(given), markdown)


if __name__ == "__main__":
    sys.exit(main())
