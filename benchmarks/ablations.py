"""Parts of ViDiT-Q, switched one at a time: what scales that samples share cost, what folding changes.

    make ablations                                       (32 seeds, ten minutes on two cores)
    .venv/bin/python -m benchmarks.ablations --seeds 0-3 --out /tmp/ablations

Each row is held against the first of its table, sample by sample. Writes ablations.json and
ablations.md into --out (docs/results) after every row; with --go-on rows that are there are kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dqviz.files import write_json, write_text
from dqviz.planning import quiet_diffusers
from quant.calibration import calibrate
from quant.errors import DQVizError
from quant.generation import Generation, generate
from quant.intervals import bootstrap, paired_difference
from quant.layers import QuantLinear
from quant.loading import load_model
from quant.metrics import latent_error, psnr
from quant.models import Model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Sampler, parse_bits
from quant.seeds import parse_seeds
from quant.seen import Seen
from quant.sizes import predict_size
from quant.storage import stored_tensors

from .results import device

ROOT = Path(__file__).resolve().parent.parent
CALIBRATION = range(100_000, 100_008)
BATCH = 8


@dataclass(frozen=True)
class Table:
    """Rows that differ in one thing; the first is what the others are held against."""

    title: str
    text: str
    bits: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Any]]


TABLES = (
    Table(
        "Activation scales that samples share",
        f"Batches of {BATCH} samples with both guidance branches, no transform. `batch`: one scale per token position for all of "
        "them, as in the preprint's released code without `cfg_split`; `branch`: for each branch, as with it; `row`: as ever.",
        ("w8a8", "w6a6"),
        {
            "row": {"transform": "plain"},
            "branch": {"transform": "plain", "scales": "branch"},
            "batch": {"transform": "plain", "scales": "batch"},
        },
    ),
    Table(
        "Folding",
        "The same scales, divided at run time or folded into values and adaLN. It is exact to rounding; behind it integers are rounded, "
        "so single pictures differ and errors should not.",
        ("w4a8",),
        {
            "none": {},
            "values": {"fold": "values"},
            "all": {"fold": "all"},
        },
    ),
    Table(
        "Which inputs are balanced, and how",
        "`choose` by the error on calibration rows; `incoherence` by the profile over the steps; the released presets of the preprint: one "
        "scale for all steps, and one for each half of them with a weight of its own.",
        ("w4a8",),
        {
            "choose": {},
            "incoherence": {"transform": "incoherence"},
            "preset opensora-w4a8-static": {"preset": "opensora-w4a8-static"},
            "preset opensora-w4a8": {"preset": "opensora-w4a8"},
        },
    ),
)


def row(
    model: Model,
    sampler: Sampler,
    seen: Seen,
    reference: Generation,
    options: Mapping[str, Any],
    bits: str,
) -> dict[str, Any]:
    """One variant: metrics per sample, and bytes."""
    made = quantize(model, "viditq", uniform_plan(model, parse_bits(bits)), options, seen)
    drawn = generate(
        model, reference.samples, sampler, transformer=made.transformer, batch_size=BATCH
    )
    transforms = {
        n: m.transform for n, m in made.transformer.named_modules() if isinstance(m, QuantLinear)
    }
    size = predict_size(
        model.transformer,
        model.sites,
        made.plan.sites,
        transforms,
        dtype=model.source_dtype,
        shared=set(stored_tensors(model.transformer, model.source_dtype).shared),
    )
    return {
        "options": dict(options),
        "bits": bits,
        "psnr_db": [float(v) for v in psnr.measure(reference.images, drawn.images)],
        "latent_rel_error": [
            float(v) for v in latent_error.measure(reference.latents, drawn.latents)
        ],
        "size_bytes": size.total_bytes,
        "bits_per_weight": size.bits_per_weight,
        "online": sum(t.scale for t in transforms.values()),
        "folded": sum(bool(t.folded_into) for t in transforms.values()),
    }


def find(found: dict[str, Any], options: Mapping[str, Any], bits: str) -> dict[str, Any] | None:
    """The row of a variant, where it has been measured."""
    rows = (r for r in found["rows"] if (r["options"], r["bits"]) == (dict(options), bits))
    return next(rows, None)


def markdown(found: dict[str, Any]) -> str:
    """ablations.md from ablations.json: nothing in it is written by hand."""
    lines = [
        "# Parts of ViDiT-Q, one at a time",
        "",
        "Written by `make ablations` from `docs/results/ablations.json`; do not edit.",
        "",
        f"`viditq` on `{found['model']}`, {len(found['seeds'])} seeds; {found['device']}; torch {found['torch']}; {found['date']}. "
        "Measured quality of simulated or integer numerics; no times.",
        "PSNR against full precision with its 95 % bootstrap interval over samples, and the paired difference to the first row.",
        "Decibels of this small model say nothing about other models.",
    ]
    for table in TABLES:
        lines += [
            "",
            f"## {table.title}",
            "",
            table.text,
            "",
            "| variant | bits | PSNR dB | minus first, dB | latent error | bytes | bits per weight | scales online, folded |",
            "|---|---|---:|---:|---:|---:|---:|---:|",
        ]
        for bits in table.bits:
            first = find(found, next(iter(table.rows.values())), bits)
            for name, options in table.rows.items():
                made = find(found, options, bits)
                if made is not None and first is not None:
                    lines.append(_line(name, made, first))
    return "\n".join([*lines, ""])


def _line(name: str, made: dict[str, Any], first: dict[str, Any]) -> str:
    mean = bootstrap(made["psnr_db"])
    against = ""
    pair = paired_difference(made["psnr_db"], first["psnr_db"])
    if made is not first and pair.diff is not None:
        against = f"{pair.diff.mean:+.2f} ({pair.diff.lo or 0:+.2f} to {pair.diff.hi or 0:+.2f})"
    return (
        f"| {name} | {made['bits'].upper()} | {mean.mean:.2f} ({mean.lo or 0:.2f} to {mean.hi or 0:.2f}) | {against} "
        f"| {np.mean(made['latent_rel_error']):.4f} | {made['size_bytes']:,} | {made['bits_per_weight']:.3f} "
        f"| {made['online']}, {made['folded']} |"
    )


def measure(given: argparse.Namespace) -> None:
    """All rows, each written when it is there."""
    quiet_diffusers()
    model = load_model(given.model, device="cpu")
    sampler = model.sampler()
    seeds = list(parse_seeds(given.seeds))
    file = given.out / "ablations.json"
    head = {
        "format": 1,
        "model": model.card.key,
        "weights": model.fingerprint,
        "seeds": seeds,
        "device": device(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }
    same = ("format", "weights", "seeds")
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and given.go_on else None
    found: dict[str, Any] = {**head, "rows": []}
    if kept and all(kept[k] == head[k] for k in same):
        found["rows"] = kept["rows"]
    reference = generate(model, model.samples(seeds), sampler, batch_size=BATCH)
    seen = calibrate(model, model.samples(CALIBRATION), sampler)
    for table in TABLES:
        for bits in table.bits:
            for name, options in table.rows.items():
                if find(found, options, bits) is None:
                    found["rows"].append(row(model, sampler, seen, reference, options, bits))
                    write_json(file, found)
                    write_text(file.with_suffix(".md"), markdown(found))
                    value = np.mean(found["rows"][-1]["psnr_db"])
                    print(f"{table.title}, {bits}, {name}: {value:.2f} dB", file=sys.stderr)


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--seeds", default="0-31")
    parser.add_argument("--go-on", action="store_true", help="keep the rows that are there")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    try:
        measure(parser.parse_args())
    except DQVizError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
