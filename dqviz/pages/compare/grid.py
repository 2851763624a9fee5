"""The grid of pictures: rows are samples, columns are runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...plots.theme import colour_number
from ..view import Section
from .names import Run, number, run_bits, run_name, samples_of

PAGE = 8  # samples that are drawn at first, and with each "show more"

Pictures = Mapping[str, Sequence[str]]  # run name -> data URLs, one per sample from the first


def picture_grid(
    result: Mapping[str, Any], runs: Sequence[Run], pictures: Pictures, address: str | None
) -> Section:
    """Rows are samples, columns are runs; under each picture its own PSNR."""
    columns = [*runs, *_planned(result, runs)]
    return {
        "kind": "pictures",
        "title": "Pictures",
        "lede": "Same class or prompt, seed, starting noise and sampler in each row. Under a picture: its PSNR to full precision.",
        "page": PAGE,
        "study": address,
        "comparison": result.get("comparison"),
        "samples": samples_of(result),
        "runs": [_column(r, i) for i, r in enumerate(columns)],
        "captions": [_captions(r) for r in columns],
        "images": [list(pictures.get(str(r["name"]), ())) for r in columns],
    }


def _planned(result: Mapping[str, Any], runs: Sequence[Run]) -> list[Run]:
    """Columns of runs that a running comparison has still to make."""
    have = {str(r["name"]) for r in runs}
    return [r for r in result.get("planned") or () if str(r["name"]) not in have]


def _column(run: Run, index: int) -> dict[str, Any]:
    psnr = run.get("psnr_db") or {}
    figure = "identical" if psnr.get("identical") else number(psnr.get("mean"), 1, " dB")
    return {
        "name": run_name(run),
        "detail": run_bits(run),
        "colour": colour_number(index),
        "figure": figure if index else "",
    }


def _captions(run: Run) -> list[str]:
    psnr = run.get("psnr_db") or {}
    return [
        "identical" if value is None else f"{value:.1f} dB"
        for value in psnr.get("per_sample") or ()
    ]
