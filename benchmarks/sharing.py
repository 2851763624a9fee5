"""Attention sharing on and off: what it costs in quality, what it saves in work, what it saves in time.

    make sharing                                        (64 seeds, half an hour on two cores)
    .venv/bin/python -m benchmarks.sharing --seeds 0-3 --rounds 1 --out /tmp/sharing

Full precision and `trdq` are drawn with sharing off and with several sets, from the same seeds. Work is
counted (predicted); time is measured in turns, off and on in each round, and only where no arithmetic
is simulated. One attention of DiT-XL/2's shape, with random weights, is timed beside them. Writes
sharing.json and sharing.md into --out (docs/results) after every row; with --go-on rows that are
there already are kept, so that it can be interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from dqviz.files import read_json, write_json, write_text
from dqviz.planning import quiet_diffusers
from dqviz.records import classifier_of
from quant.backend_report import backend_report
from quant.calibration import calibrate
from quant.errors import DQVizError
from quant.evaluate import evaluate
from quant.generation import Generation, generate
from quant.intervals import paired_difference
from quant.ladder import ladder
from quant.loading import load_model
from quant.models import Model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Sampler, parse_bits
from quant.seeds import parse_seeds
from quant.seen import Seen
from quant.sharing import attach, detach, shared_map, shared_output
from quant.sharing_choice import SharingRequest, Similarity, chosen_sharing, saving
from quant.similarity import measure_similarity
from quant.swapping import shallow_copy

from .results import device

ROOT = Path(__file__).resolve().parent.parent
CALIBRATION = range(100_000, 100_008)
OFF = "off"
BASES = ("full-precision", "w8a8", "w4a8")  # the latter two of trdq
OPTIONS: dict[str, Any] = {}  # of trdq: its defaults
VARIANTS: dict[str, SharingRequest | None] = {
    OFF: None,
    **{
        f"map, similarity >= {threshold:g}": SharingRequest(
            mode="map", chosen_by="similarity", threshold=threshold
        )
        for threshold in (0.95, 0.9, 0.8)
    },
    "map, released set": SharingRequest(mode="map", chosen_by="released", threshold=0),
    "output, released set": SharingRequest(mode="output", chosen_by="released", threshold=0),
    "map, everywhere": SharingRequest(mode="map", chosen_by="similarity", threshold=0),
}
TIMED = (OFF, "map, similarity >= 0.9", "map, released set", "output, released set")
SHAPES = ((1152, 16, 256), (1152, 16, 1024))  # channels, heads, tokens of DiT-XL/2 at 256 and 512


class Bench(NamedTuple):
    """What every row is made from."""

    model: Model
    sampler: Sampler
    seen: Seen
    similarity: Similarity
    reference: Generation


def transformer_of(bench: Bench, base: str) -> nn.Module:
    """A transformer of its own, without sharing."""
    if base == BASES[0]:
        return shallow_copy(bench.model.transformer)
    plan = uniform_plan(bench.model, parse_bits(base), sampler=bench.sampler)
    return quantize(bench.model, "trdq", plan, OPTIONS, bench.seen).transformer


def share(bench: Bench, transformer: nn.Module, variant: str) -> dict[str, Any] | None:
    """Switch a transformer to a variant; what that saves."""
    request = VARIANTS[variant]
    detach(transformer)
    if request is None:
        return None
    found = bench.similarity
    sharing = chosen_sharing(request, found.attentions, found)
    attach(transformer, bench.model.adapter, sharing)
    work = dict(zip(found.attentions, found.work, strict=True))
    return saving(sharing, found.timesteps, work, found.network)


def quality(bench: Bench, transformer: nn.Module, base: str, variant: str) -> dict[str, Any]:
    """One row: metrics against full precision without sharing, per sample."""
    saved = share(bench, transformer, variant)
    drawn = generate(bench.model, bench.reference.samples, bench.sampler, transformer=transformer)
    found = evaluate(
        bench.reference, drawn, classifier_of(bench.model), bench.model.classes
    ).to_json()
    kept = ("psnr_db", "latent_rel_error", "ssim", "class_accuracy")
    return {"base": base, "variant": variant, "saving": saved, **{k: found[k] for k in kept}}


def timing(bench: Bench, transformer: nn.Module, base: str, rounds: int) -> dict[str, Any]:
    """Seconds per sample of every timed variant in turns; null where arithmetic is simulated."""
    samples = bench.reference.samples[:8]
    tokens = bench.similarity.work[0].rows // 4
    report = backend_report(transformer, 2 * len(samples) * tokens)
    row = {"base": base, "backend": report.backend, "evidence": report.evidence}
    if report.evidence != "measured":
        return {**row, "why": report.why, "seconds_per_sample": None}
    found: dict[str, list[float]] = {variant: [] for variant in TIMED}
    for turn in range(rounds + 1):  # the first one warms up
        for variant in TIMED:
            share(bench, transformer, variant)
            drawn = generate(bench.model, samples, bench.sampler, transformer=transformer)
            if turn:
                found[variant].append(drawn.seconds / len(samples))
    return {**row, "samples": len(samples), "seconds_per_sample": found}


def one_attention(channels: int, heads: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of one attention for one guidance pair, in turns."""
    torch.manual_seed(0)
    attn: Any = Attention(channels, heads=heads, dim_head=channels // heads, bias=True).eval()
    ordinary, x = attn.processor, torch.randn(2, tokens, channels)
    ways: dict[str, Callable[[], Any]] = {
        OFF: lambda: ordinary(attn, x),
        "map": lambda: shared_map(attn, x, 0),
        "output": lambda: shared_output(attn, x, 0),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad():
        for turn in range(5 * rounds + 1):
            for name, run in ways.items():
                began = time.perf_counter()
                run()
                if turn:
                    found[name].append(1000 * (time.perf_counter() - began))
    return {"channels": channels, "heads": heads, "tokens": tokens, "milliseconds": found}


def rungs(bench: Bench) -> list[dict[str, Any]]:
    """What a decibel is worth here."""
    samples = bench.reference.samples
    found = ladder(bench.model, samples, bench.sampler, bench.reference, max_samples=16)
    return [
        {k: rung.to_json()[k] for k in ("title", "psnr_db", "latent_rel_error")} for rung in found
    ]


def ratio(times: dict[str, list[float]], variant: str) -> str:
    """Median of the rounds' ratios to off, and their range."""
    each = np.array(times[variant]) / np.array(times[OFF])
    return f"{np.median(each):.3f} ({each.min():.3f} to {each.max():.3f})"


def _interval(value: dict[str, Any], digits: int, sign: str = "") -> str:
    if value.get("identical") or value.get("mean") is None:
        return "identical"
    form = f"{sign}.{digits}f"
    low, high = value.get("lo"), value.get("hi")
    between = "" if low is None else f" ({low:{form}} to {high:{form}})"
    return f"{value['mean']:{form}}{between}"


def _accuracy(value: Any) -> str:
    return "-" if value is None else f"{value:.0%}"


def markdown(found: dict[str, Any]) -> str:
    """sharing.md from sharing.json: nothing in it is written by hand."""
    cosine = np.array(found["similarity"]["cosine"])
    lines = [
        "# Attention sharing, on and off",
        "",
        "Written by `make sharing` from `docs/results/sharing.json`; do not edit.",
        "",
        f"`{found['model']}`, {len(found['seeds'])} seeds; {found['device']}; torch {found['torch']}; "
        f"{found['date']}. `trdq` has its defaults (four windows).",
        "",
        "How alike the branches attend (cosine of their maps, measured in full precision on seeds of the calibration),",
        "by attention from the first block to the last, mean over the steps: "
        + ", ".join(f"{c:.2f}" for c in cosine.mean(1))
        + ".",
        "",
        "## Quality and work",
        "",
        "Against full precision without sharing, same seeds: mean with its 95 % bootstrap interval. `off - on` is paired",
        "with the same transformer without sharing. Rows and multiply-adds are counted, so they are predicted:",
        "of the query and key projections of self-attention, and of the whole network.",
        "",
        "| transformer | sharing | PSNR dB | latent error | off - on, dB | class accuracy | shared | q, k rows saved | multiply-adds saved |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        saved = row["saving"]
        work = (
            f"{saved['cells']} of {saved['of_cells']} | {saved['qk_rows']:.1%} | {saved['multiply_adds']:.1%}"
            if saved
            else "- | - | -"
        )
        lines.append(
            f"| {row['base']} | {row['variant']} | {_interval(row['psnr_db'], 2)} | "
            f"{_interval(row['latent_rel_error'], 4)} | {_lost(found, row)} | {_accuracy(row['class_accuracy'])} | {work} |"
        )
    lines += [
        "",
        "## Time",
        "",
        "Seconds per sample with sharing over seconds without, end to end with decoding: median and range over rounds in",
        "turns; below 1 is faster. Measured on this device alone. Simulated arithmetic has no time.",
        "",
        f"| transformer | backend | off, s | {' | '.join(TIMED[1:])} |",
        f"|---|---|---:|{'---:|' * len(TIMED[1:])}",
    ]
    for row in found["timing"]:
        times = row["seconds_per_sample"]
        if times is None:
            lines.append(f"| {row['base']} | {row['backend']} | {' | '.join(['-'] * len(TIMED))} |")
            continue
        ratios = " | ".join(ratio(times, v) for v in TIMED[1:])
        lines.append(
            f"| {row['base']} | {row['backend']} | {np.median(times[OFF]):.3f} | {ratios} |"
        )
    lines += [
        "",
        "One attention of DiT-XL/2's shape for one guidance pair, float32, random weights. The CPU's fused kernel takes",
        "values as wide as queries only, so the scores of a shared map are computed for each half here; what a map saves on",
        "this device is the projections alone.",
        "",
        "| channels | heads | tokens | off, ms | map | output |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["attention"]:
        times = row["milliseconds"]
        lines.append(
            f"| {row['channels']} | {row['heads']} | {row['tokens']} | {np.median(times[OFF]):.2f} "
            f"| {ratio(times, 'map')} | {ratio(times, 'output')} |"
        )
    lines += ["", "## Yardstick", "", "| rung | PSNR dB | latent error |", "|---|---:|---:|"]
    lines += [
        f"| {r['title']} | {_interval(r['psnr_db'], 2)} | {_interval(r['latent_rel_error'], 4)} |"
        for r in found["ladder"]
    ]
    return "\n".join([*lines, ""])


def _lost(found: dict[str, Any], row: dict[str, Any]) -> str:
    """Decibels that sharing costs the same transformer, paired by sample."""
    off = next(r for r in found["rows"] if (r["base"], r["variant"]) == (row["base"], OFF))
    values = [r["psnr_db"].get("per_sample") for r in (off, row)]
    if row is off or any(v is None or None in v for v in values):
        return "-"
    return _interval(paired_difference(*values).to_json()["diff"], 2, "+")


def measure(given: argparse.Namespace) -> None:
    """Every row that is not there yet; both files are written after each."""
    quiet_diffusers()
    model = load_model(given.model, device="cpu")
    sampler, seeds = model.sampler(), list(parse_seeds(given.seeds))
    file = given.out / "sharing.json"
    found: dict[str, Any] = {
        "format": 1,
        "model": model.card.key,
        "weights": model.fingerprint,
        "seeds": seeds,
        "device": device(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }
    calibration = model.samples(CALIBRATION)
    bench = Bench(
        model,
        sampler,
        calibrate(model, calibration, sampler),
        measure_similarity(model, calibration, sampler),
        generate(model, model.samples(seeds), sampler),
    )
    found |= {"similarity": bench.similarity.to_json()}
    parts = {"rows": [], "timing": [], "attention": [], "ladder": []}
    if given.go_on and file.is_file():
        kept = read_json(file)
        if all(kept[k] == found[k] for k in ("format", "weights", "seeds")):
            parts |= {k: kept[k] for k in parts}
    found |= parts

    def keep(part: str, rows: list[dict[str, Any]], text: str) -> None:
        found[part] += rows
        write_json(file, found)
        write_text(file.with_suffix(".md"), markdown(found))
        print(text, file=sys.stderr, flush=True)

    for base in BASES:
        missing = [
            v
            for v in VARIANTS
            if not any((r["base"], r["variant"]) == (base, v) for r in found["rows"])
        ]
        timed = any(r["base"] == base for r in found["timing"])
        if timed and not missing:
            continue
        transformer = transformer_of(bench, base)
        for variant in missing:
            row = quality(bench, transformer, base, variant)
            keep("rows", [row], f"{base}, {variant}: {_interval(row['psnr_db'], 2)} dB")
        if not timed:
            keep("timing", [timing(bench, transformer, base, given.rounds)], f"{base}: timed")
    if not found["attention"]:
        keep("attention", [one_attention(*s, given.rounds) for s in SHAPES], "one attention: timed")
    if not found["ladder"]:
        keep("ladder", rungs(bench), "ladder")


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--seeds", default="0-63")
    parser.add_argument("--rounds", type=int, default=5, help="of the timings")
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
