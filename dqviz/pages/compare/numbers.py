"""Tables of a comparison: quality, size and time of every run; every pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...plots.theme import colour_number
from ..exports import Source
from ..view import Column, Section, badge, cell, table
from .claims import difference
from .names import Run, evidence_badge, interval_text, labels_of, number, run_bits, run_name, signed

MB = 1e6

METRIC_WORDS = {
    "distances.classifier_features": "Fréchet distance on classifier features",
    "distances.latents": "Fréchet distance on latents",
}
LOSSLESS = badge("lossless here", "measured", "no further from full precision than bf16 is")


def metrics(
    runs: Sequence[Run], source: Source, lossless: Sequence[str] = (), what: str = "picture"
) -> Section:
    """Quality, size and time of every run; `what` is what they draw."""
    judged = any(run.get("class_accuracy") is not None for run in runs)
    right = Column("Right class", "", f"share of {what}s that the shipped classifier recognises")
    columns = (
        Column("Run"),
        Column("PSNR", "dB", "mean of the samples with its 95 % interval; below: the worst sample"),
        Column("Latent error", "", "relative error of the final latents: the primary metric"),
        Column("SSIM", "", f"structural similarity to full precision's {what}"),
        *([right] if judged else []),
        Column("Size", "MB", "the transformer as stored; below: its share of fp16"),
        Column("Bits", "per weight", "with scales, zero points and transforms"),
        Column("Time", f"s/{what}", "only where real integer kernels ran; never for simulation"),
        Column("Evidence", "", "what kind of number this is"),
    )
    return table(
        "Quality, size, time",
        columns,
        [
            {"cells": _metric_cells(run, i, run["name"] in lossless, what, judged)}
            for i, run in enumerate(runs)
        ],
        lede="All against full precision on the same samples, with 95 % intervals over the samples.",
        note=_unavailable(runs),
        raw=[_raw_metrics(run) for run in runs],
        source=source,
        part="metrics",
    )


def _metric_cells(
    run: Run, index: int, lossless: bool, what: str, judged: bool
) -> list[dict[str, Any]]:
    psnr = run.get("psnr_db") or {}
    worst = psnr.get("min")
    seconds = run.get("seconds_per_sample")
    evidence = evidence_badge(run) if index else badge("reference")
    return [
        cell(run_name(run), run_bits(run), run=colour_number(index)),
        _psnr_cell(psnr, worst, index, what) | ({"badge": LOSSLESS} if lossless else {}),
        _summary_cell(run.get("latent_rel_error"), 4, index),
        _summary_cell(run.get("ssim"), 4, index),
        *([_accuracy_cell(run)] if judged else []),
        _size_cell(run),
        cell(number(run.get("bits_per_weight"), 2) or "–"),
        cell(number(seconds, 2) or "–"),
        cell(badge=evidence, sub=_backend(run)),
    ]


def _backend(run: Run) -> str:
    """The backend that ran, and mode memory; simulation is said by the badge already."""
    backend = str(run.get("backend") or "")
    said = "" if backend == "simulate" else backend
    memory = "weights as stored" if run.get("residency") == "memory" else ""
    return ", ".join(part for part in (said, memory) if part)


def _psnr_cell(
    psnr: Mapping[str, Any], worst: float | None, index: int, what: str
) -> dict[str, Any]:
    if index == 0:
        return cell("–", "reference")
    if psnr.get("identical"):
        return cell("identical", f"every {what} equals full precision's")
    if psnr.get("mean") is None:
        return cell("–", "not available")
    interval = interval_text(psnr, 1, "")
    low = f"worst {worst:.1f}" if worst is not None else ""
    return cell(f"{psnr['mean']:.2f}", " · ".join(t for t in (interval, low) if t))


def _summary_cell(summary: Mapping[str, Any] | None, digits: int, index: int) -> dict[str, Any]:
    if not summary or summary.get("mean") is None:
        return cell("–", "" if index == 0 else "not available")
    return cell(f"{summary['mean']:.{digits}f}", interval_text(summary, digits, ""))


def _accuracy_cell(run: Run) -> dict[str, Any]:
    accuracy = run.get("class_accuracy")
    if accuracy is None:
        return cell("–", "no classifier")
    interval = run.get("class_accuracy_interval") or {}
    sub = f"[{interval['lo']:.0%}, {interval['hi']:.0%}]" if interval.get("lo") is not None else ""
    return cell(f"{accuracy:.0%}", sub)


def _size_cell(run: Run) -> dict[str, Any]:
    size, half = run.get("size_bytes"), run.get("fp16_bytes")
    if size is None:
        return cell("–")
    ratio = f"{half / size:.2f}× smaller than fp16" if half and size < half else ""
    if half and size >= half:
        ratio = f"{size / half:.2f}× fp16"
    return cell(f"{size / MB:.2f}", ratio)


def _unavailable(runs: Sequence[Run]) -> str:
    """Reasons for the numbers that are missing, each once."""
    reasons: dict[str, list[str]] = {}
    for run in runs[1:]:
        for key, reason in (run.get("unavailable") or {}).items():
            if not str(reason).startswith("unavailable:"):
                words = METRIC_WORDS.get(key, str(key).replace("_", " "))
                reasons.setdefault(str(reason), []).append(words)
    listed = [f"{', '.join(dict.fromkeys(keys))}: {reason}" for reason, keys in reasons.items()]
    return "Not available: " + "; ".join(listed) + "." if listed else ""


def _raw_metrics(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {key: run.get(key) for key in ("name", "method", "bits")}
    for key in ("psnr_db", "latent_rel_error", "ssim"):
        summary = run.get(key) or {}
        row |= {f"{key}_{part}": summary.get(part) for part in ("mean", "lo", "hi", "worst")}
    keys = (
        "class_accuracy",
        "size_bytes",
        "fp16_bytes",
        "bits_per_weight",
        "seconds_per_sample",
        "backend",
        "residency",
        "evidence",
    )
    return row | {key: run.get(key) for key in keys}


def pairs(result: Mapping[str, Any], runs: Sequence[Run], source: Source) -> Section:
    """Every pair of runs: paired difference with its interval, win rate."""
    labels = labels_of(runs)
    colours = {str(r["name"]): colour_number(i) for i, r in enumerate(runs)}
    rows = []
    bits = {str(r["name"]): r.get("bits") for r in runs}

    def unlike(pair: Mapping[str, Any]) -> tuple[bool, bool]:
        return bits.get(pair["a"]) != bits.get(pair["b"]), not pair.get("aligned")

    for pair in sorted(result["pairs"], key=unlike):  # what can be compared, first
        diff = difference(pair)
        a, b = str(pair["a"]), str(pair["b"])
        worst = pair.get("worst_decile")
        rows.append(
            {
                "cells": [
                    cell(labels.get(a, a), run=colours.get(a)),
                    cell(labels.get(b, b)),
                    cell(signed(diff.get("mean")), interval_text(diff, 2, "") if diff else ""),
                    cell(f"{pair['win_rate']:.0%}" if pair.get("win_rate") is not None else "–"),
                    cell(signed(worst)),
                    cell(str(pair.get("n") or diff.get("n") or "–")),
                ]
            }
        )
    return table(
        "Pairs",
        (
            Column("Run"),
            Column("against"),
            Column("Difference", "dB", "mean of the per-sample differences in PSNR"),
            Column(
                "Wins", "", "share of samples on which the first run is closer to full precision"
            ),
            Column(
                "Worst tenth", "dB", "a tenth of the samples is at least this bad for the first run"
            ),
            Column("Samples"),
        ),
        rows,
        lede="Sample by sample, so that hard seeds count for both. An interval without 0 shows a difference.",
        raw=[_raw_pair(pair) for pair in result["pairs"]],
        source=source,
        part="pairs",
    )


def _raw_pair(pair: Mapping[str, Any]) -> dict[str, Any]:
    diff = difference(pair)
    return {
        "a": pair["a"],
        "b": pair["b"],
        **{f"diff_db_{k}": diff.get(k) for k in ("mean", "lo", "hi")},
        **{k: pair.get(k) for k in ("win_rate", "worst_decile", "n", "claim")},
    }
