"""ViDiT-Q's choice of a transform for each input, against every single kind used throughout.

    make balance                                        (64 seeds x 4 draws of the signs, ten minutes)
    .venv/bin/python -m benchmarks.balance --seeds 0-15 --draws 1 --out /tmp/balance

A rotation has random signs, and at 4-bit weights a few fragile samples change with them by more
than the kinds differ. So every kind is drawn with several seeds of the signs; a sample's value is
its mean over them, and the interval is over samples. Writes balance.json and balance.md into --out
(docs/results) after every row; rows that are there already are kept, so that it can be interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
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
from quant.loading import load_model
from quant.metrics import latent_error, psnr
from quant.models import Model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Sampler, parse_bits
from quant.seeds import parse_seeds
from quant.seen import Seen

from .results import device

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("choose", "both", "rotate", "scale", "plain")
WITHOUT_SIGNS = ("scale", "plain")  # one draw is all there is
CALIBRATION = range(100_000, 100_008)
MARGIN = 0.3  # dB; a choice is worse when an interval lies wholly below minus this


def row(
    model: Model,
    sampler: Sampler,
    seen: Seen,
    reference: Generation,
    kind: str,
    draw: int,
    bits: str,
) -> dict[str, Any]:
    """One kind with one draw of the signs: metrics per sample."""
    plan = uniform_plan(model, parse_bits(bits))
    made = quantize(model, "viditq", plan, {"transform": kind}, seen, seed=draw)
    drawn = generate(model, reference.samples, sampler, transformer=made.transformer)
    chosen = [str(notes.get("transform")) for notes in made.notes.values()]
    return {
        "kind": kind,
        "draw": draw,
        "bits": bits,
        "psnr_db": [float(v) for v in psnr.measure(reference.images, drawn.images)],
        "latent_rel_error": [
            float(v) for v in latent_error.measure(reference.latents, drawn.latents)
        ],
        "sites": {name: chosen.count(name) for name in sorted(set(chosen))},
    }


def per_sample(found: dict[str, Any], kind: str, metric: str = "psnr_db") -> np.ndarray:
    """Mean over the draws, [samples]."""
    return np.mean([r[metric] for r in found["rows"] if r["kind"] == kind], axis=0)


def markdown(found: dict[str, Any]) -> str:
    """balance.md from balance.json: nothing in it is written by hand."""
    done = {r["kind"] for r in found["rows"]}
    lines = [
        "# The choice of a transform at each input",
        "",
        "Written by `make balance` from `docs/results/balance.json`; do not edit.",
        "",
        f"`viditq` at {found['bits'].upper()} on `{found['model']}`, {len(found['seeds'])} seeds, "
        f"{found['draws']} draws of the rotation's signs; {found['device']}; torch {found['torch']}; {found['date']}.",
        "",
        "`choose` takes for each input the kind with the least output error on calibration rows; the others use one kind",
        "throughout. PSNR against full precision with its 95 % bootstrap interval over samples, each the mean over draws;",
        "the column of draws holds the mean of each. Decibels of this small model say nothing about other models.",
        "",
        "| kind | PSNR dB | median | worst sample | latent error | mean of each draw | choose - kind, dB | verdict |",
        "|---|---:|---:|---:|---:|---|---:|---|",
    ]
    for kind in (k for k in KINDS if k in done):
        values, errors = per_sample(found, kind), per_sample(found, kind, "latent_rel_error")
        mean = bootstrap(values)
        draws = ", ".join(
            f"{np.mean(r['psnr_db']):.2f}" for r in found["rows"] if r["kind"] == kind
        )
        lines.append(
            f"| {kind} | {mean.mean:.2f} ({mean.lo:.2f} to {mean.hi:.2f}) | {np.median(values):.2f} | {values.min():.2f} "
            f"| {errors.mean():.4f} | {draws} | {_against(found, kind)} |"
        )
    return "\n".join([*lines, "", *_sites(found), ""])


def _against(found: dict[str, Any], kind: str) -> str:
    if kind == "choose" or not any(r["kind"] == "choose" for r in found["rows"]):
        return " | "
    pair = paired_difference(per_sample(found, "choose"), per_sample(found, kind))
    assert pair.diff is not None
    lo, hi = pair.diff.lo or 0.0, pair.diff.hi or 0.0
    verdict = "better" if lo > 0 else "worse" if hi < -MARGIN else "not worse"
    return f"{pair.diff.mean:+.2f} ({lo:+.2f} to {hi:+.2f}) | {verdict}"


def _sites(found: dict[str, Any]) -> list[str]:
    rows = [r for r in found["rows"] if r["kind"] == "choose"]
    told = [", ".join(f"{n} {kind}" for kind, n in r["sites"].items()) for r in rows]
    return [f"Sites by the kind that was chosen, for each draw: {'; '.join(told)}."] if told else []


def measure(given: argparse.Namespace) -> None:
    """All rows, each written when it is there."""
    quiet_diffusers()
    model = load_model(given.model, device="cpu")
    sampler = model.sampler()
    seeds = list(parse_seeds(given.seeds))
    file = given.out / "balance.json"
    head = {
        "format": 1,
        "model": model.card.key,
        "weights": model.fingerprint,
        "bits": given.bits,
        "seeds": seeds,
        "draws": given.draws,
        "device": device(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }
    same = ("format", "weights", "bits", "seeds")
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() and given.go_on else None
    rows = kept["rows"] if kept and all(kept[k] == head[k] for k in same) else []
    reference = generate(model, model.samples(seeds), sampler)
    seen = calibrate(model, model.samples(CALIBRATION), sampler)
    wanted = [
        (kind, draw)
        for draw in range(given.draws)
        for kind in KINDS
        if draw == 0 or kind not in WITHOUT_SIGNS
    ]
    rows = [r for r in rows if (r["kind"], r["draw"]) in wanted]
    for kind, draw in wanted:
        if any((r["kind"], r["draw"]) == (kind, draw) for r in rows):
            continue
        rows.append(row(model, sampler, seen, reference, kind, draw, given.bits))
        found = {**head, "rows": rows}
        write_json(file, found)
        write_text(file.with_suffix(".md"), markdown(found))
        print(f"{kind}, draw {draw}: {np.mean(rows[-1]['psnr_db']):.2f} dB", file=sys.stderr)


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--bits", default="w4a8")
    parser.add_argument("--seeds", default="0-63")
    parser.add_argument("--draws", type=int, default=4, help="seeds of the rotation's signs")
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
