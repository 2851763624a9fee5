"""Our methods against full precision and against one another, at several bit widths.

    make quality                                        (64 seeds, the card's sampler, two minutes per bit width)
    .venv/bin/python -m benchmarks.quality --bits w8a8,w4a4 --seeds 0-15 --out /tmp/quality

One comparison, as `dqviz compare` makes it (docs/results/quality.md names the command): the same
seeds, classes, starting noise and sampler for every run. Writes quality.json and quality.md into
--out (docs/results); the study with its pictures goes to --study.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

from dqviz.command_lines import as_command
from dqviz.comparison import compare
from dqviz.events import Event, Stage
from dqviz.request import CompareRequest
from quant.errors import DQVizError
from quant.seeds import parse_seeds

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("rtn", "viditq")
BITS = "w8a8,w6a6,w4a8,w4a4"
KEPT_OF_RUN = (
    "name",
    "title",
    "method",
    "bits",
    "options",
    "size_bytes",
    "fp16_bytes",
    "bits_per_weight",
    "backend",
    "evidence",
    "identical",
)
KEPT_OF_METRIC = ("mean", "lo", "hi", "min", "max", "of_mean_mse", "identical", "per_sample")
METRICS = ("psnr_db", "latent_rel_error", "ssim")


def metric(value: Any) -> Any:
    """The numbers of a metric, without what every run repeats."""
    return {k: v for k, v in value.items() if k in KEPT_OF_METRIC} if value else None


def kept_run(run: dict[str, Any]) -> dict[str, Any]:
    """What the results keep of one run."""
    kept = {key: run[key] for key in KEPT_OF_RUN if key in run}
    kept |= {key: metric(run.get(key)) for key in METRICS}
    kept["class_accuracy"] = run.get("class_accuracy")
    kept["sites"] = len(run["scope"]["quantized"])
    return kept


def results(found: dict[str, Any], request: CompareRequest) -> dict[str, Any]:
    """The committed part of a comparison: no pictures, no paths."""
    runs = found["runs"]
    by_name = {run["name"]: run for run in runs}
    bits = list(dict.fromkeys(request.bits))
    groups = []
    for text in bits:
        names = [run["name"] for run in runs if run["bits"] == text]
        pairs = [p for p in found["pairs"] if p["a"] in names and p["b"] in names]
        groups.append(
            {
                "bits": text,
                "runs": [kept_run(by_name[name]) for name in names],
                "pairs": [
                    {
                        "a": by_name[p["a"]]["method"],
                        "b": by_name[p["b"]]["method"],
                        "diff_db": p["diff_db"],
                        "win_rate": p["win_rate"],
                        "worst_decile": p.get("worst_decile"),
                        "claim": p.get("claim"),
                        "size_ratio": p["size_ratio"],
                    }
                    for p in pairs
                ],
            }
        )
    study = found["study"]
    return {
        "format": 1,
        "model": study["model"]["key"] if isinstance(study, dict) else request.model,
        "command": as_command(request.model_copy(update={"out": None})),
        "seeds": list(request.seeds),
        "reference": kept_run(runs[0]),
        "bits": groups,
        "ladder": [
            {"rung": r["rung"], "title": r["title"], **{key: metric(r.get(key)) for key in METRICS}}
            for r in found["ladder"]
        ],
        "device": f"{runs[0]['device']}, {runs[0]['dtype']}",
        "date": datetime.date.today().isoformat(),
    }


def number(value: Any, digits: int = 2, sign: bool = False) -> str:
    """`12.34 (12.00 to 12.70)`."""
    if not value or value.get("mean") is None:
        return "identical" if value else "-"
    form = f"{'+' if sign else ''}.{digits}f"
    mean = format(value["mean"], form)
    if value.get("lo") is None:
        return mean
    return f"{mean} ({format(value['lo'], form)} to {format(value['hi'], form)})"


def accuracy(value: Any) -> str:
    """Share of pictures that the classifier takes for their class."""
    if isinstance(value, dict):
        return f"{value['mean']:.0%} ({value['lo']:.0%} to {value['hi']:.0%})"
    return "-" if value is None else f"{value:.0%}" if isinstance(value, float) else str(value)


def markdown(found: dict[str, Any]) -> str:
    """quality.md from quality.json: nothing in it is written by hand."""
    n = len(found["seeds"])
    lines = [
        "# Quality by bit width",
        "",
        "Written by `make quality` from `docs/results/quality.json`; do not edit.",
        "",
        f"{n} seeds, every trained class; {found['device']}; {found['date']}. The command:",
        "",
        f"    {found['command']}",
        "",
        "PSNR, SSIM and the relative error of the final latent are against full precision with the same seed, class,",
        "starting noise and sampler: mean with its 95 % bootstrap interval. Class accuracy is the shipped classifier's;",
        f"full precision has {accuracy(found['reference']['class_accuracy'])}. Decibels of this small model say nothing about other models.",
        "",
        "| method | bits | PSNR dB | of mean MSE | min dB | latent error | SSIM | class accuracy | size MB | of 16 bit |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for group in found["bits"]:
        for run in group["runs"]:
            psnr = run["psnr_db"]
            lines.append(
                f"| {run['method']} | {run['bits']} | {number(psnr)} | {psnr['of_mean_mse']:.2f} | {psnr['min']:.2f} "
                f"| {number(run['latent_rel_error'], 4)} | {number(run['ssim'], 4)} | {accuracy(run['class_accuracy'])} "
                f"| {run['size_bytes'] / 1e6:.2f} | {run['size_bytes'] / run['fp16_bytes']:.0%} |"
            )
    lines += [
        "",
        "## Paired differences",
        "",
        "| bits | a | b | a - b, dB | a better on | worst decile, dB | shown | bytes a / b |",
        "|---|---|---|---:|---:|---:|---|---:|",
    ]
    for group in found["bits"]:
        for pair in group["pairs"]:
            worst = "-" if pair["worst_decile"] is None else f"{pair['worst_decile']:+.2f}"
            lines.append(
                f"| {group['bits']} | {pair['a']} | {pair['b']} | {number(pair['diff_db'], sign=True)} "
                f"| {pair['win_rate']:.0%} | {worst} | {pair['claim']} | {pair['size_ratio']:.3f} |"
            )
    lines += [
        "",
        "## Yardstick",
        "",
        "The same model, changed a little: what a decibel is worth here.",
        "",
        "| rung | PSNR dB | latent error |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {r['title']} | {number(r['psnr_db'])} | {number(r['latent_rel_error'], 4)} |"
        for r in found["ladder"]
    ]
    return "\n".join([*lines, ""])


def write(found: dict[str, Any], out: Path) -> None:
    """Both files."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    (out / "quality.json").write_text(text, encoding="utf-8")
    (out / "quality.md").write_text(markdown(found), encoding="utf-8")


def told(event: Event) -> None:
    """Stages, on stderr."""
    if isinstance(event, Stage):
        print(event.text, file=sys.stderr, flush=True)


def main() -> int:
    """Run and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--bits", default=BITS)
    parser.add_argument("--seeds", default="0-63")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--study", type=Path, default=ROOT / "studies" / "quality")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    bits = tuple(given.bits.split(","))
    try:
        request = CompareRequest(
            model=given.model,
            methods=METHODS * len(bits),
            bits=tuple(text for text in bits for _ in METHODS),
            seeds=parse_seeds(given.seeds),
            steps=given.steps,
            out=given.study,
            device="cpu",
        )
        found = compare(request, on_event=told, previews=False)
    except DQVizError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    write(results(found, request), given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
