"""What a comparison of clips says over time: every frame, and from one frame to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...clips import sheet_of
from ...plots import frames as frames_plot
from ...plots.theme import colour_number
from ..exports import Source
from ..view import Column, Section, cell, plot, table
from .names import Run, full_name, interval_text, run_bits, run_name

CURVE = "frame_psnr_db"
MOTION = (
    ("frame_psnr_db", 2, Column("PSNR of frames", "dB", "mean of the frames; below: the worst of all")),
    ("worst_frame_ssim", 4, Column("Worst frame", "SSIM", "of each clip, then the mean of the clips")),
    ("flicker", 4, Column("Added flicker", "", "how much the error changes back and forth, in pixel range")),
    ("frame_drift", 3, Column("Motion drift", "", "error of the frame differences: 0 same motion, 1 none left")),
)  # fmt: skip


def over_time(runs: Sequence[Run], source: Source) -> list[Section]:
    """Sections of a comparison of clips; none of pictures."""
    quantized = [(i, run) for i, run in enumerate(runs) if i and sheet_of(run) is not None]
    curves = [(i, run, curve) for i, run in quantized if (curve := _curve(run))]
    sections = [_motion(quantized, source)] if quantized else []
    if curves:
        sections.insert(0, _frames(curves, source))
    return sections


def _curve(run: Run) -> list[float | None]:
    return list((run.get(CURVE) or {}).get("per_frame") or ())


def _frames(curves: Sequence[tuple[int, Run, list[float | None]]], source: Source) -> Section:
    drawn = [(colour_number(i), full_name(run), curve) for i, run, curve in curves]
    figure = frames_plot.figure(drawn, "PSNR to full precision (dB)")
    few = {**figure["layout"]["xaxis"], "dtick": max(1, round(len(curves[0][2]) / 5))}
    return plot(
        "Frame by frame",
        figure,
        lede="Mean of the clips. A line that falls: the error gathers towards the end of the clip; a dip: one frame falls apart.",
        alt=f"PSNR of every frame for {', '.join(name for _, name, _ in drawn)}",
        height=260,
        source=source,
        part="frames",
        raw=[
            {"run": name, "frame": f, CURVE: value}
            for _, name, curve in drawn
            for f, value in enumerate(curve, 1)
        ],
        narrow={"margin": {"l": 48, "r": 8, "t": 8, "b": 44}, "xaxis": few},
    )


def _motion(runs: Sequence[tuple[int, Run]], source: Source) -> Section:
    return table(
        "Over time",
        (Column("Run"), *(column for _, _, column in MOTION)),
        [{"cells": [_name(i, run), *(_value(run, *what) for what in MOTION)]} for i, run in runs],
        lede="What single frames do not show, with 95 % intervals over the clips. Flicker and drift are 0 where every change from frame to frame is full precision's.",
        raw=[
            {"name": run["name"], "method": run.get("method"), "bits": run.get("bits"), **_raw(run)}
            for _, run in runs
        ],
        source=source,
        part="over-time",
    )


def _name(index: int, run: Run) -> dict[str, Any]:
    return cell(run_name(run), run_bits(run), run=colour_number(index))


def _value(run: Run, key: str, digits: int, _: Column) -> dict[str, Any]:
    summary: Mapping[str, Any] = run.get(key) or {}
    if summary.get("identical"):
        return cell("identical")
    if summary.get("mean") is None:
        return cell("–", "not available")
    words = [interval_text(summary, digits, "")]
    if summary.get("worst_frame") is not None:
        words.append(f"worst {summary['worst_frame']:.1f}")
    return cell(f"{summary['mean']:.{digits}f}", " · ".join(w for w in words if w))


def _raw(run: Run) -> dict[str, Any]:
    parts = ("mean", "lo", "hi", "worst")
    return {f"{key}_{part}": (run.get(key) or {}).get(part) for key, _, _ in MOTION for part in parts}  # fmt: skip
