"""The grid of pictures: rows are samples, columns are runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...clips import sheet_of
from ...plots.theme import colour_number
from ..view import Section
from .names import Run, number, run_bits, run_name, samples_of

PAGE = 8  # samples that are drawn at first, and with each "show more"
CLIP_PAGE = 4  # the same of clips, which are many pictures each

Pictures = Mapping[str, Sequence[str]]  # run name -> data URLs, one per sample from the first


def picture_grid(
    result: Mapping[str, Any], runs: Sequence[Run], pictures: Pictures, address: str | None
) -> Section:
    """Rows are samples, columns are runs; under each picture its own PSNR."""
    columns = [*runs, *_planned(result, runs)]
    sheet = sheet_of(runs[0]) if runs else None
    what = drawn_as(result, runs)
    lede = f"Same class or prompt, seed, starting noise and sampler in each row. Under a {what}: its PSNR to full precision."
    if sheet is not None and sheet.shrunk > 1:
        lede += f" Frames are shown at 1/{sheet.shrunk} of their size; numbers are of the whole."
    return {
        "kind": "pictures",
        "title": f"{what.title()}s",
        "lede": lede,
        "page": page_size(runs),
        **({} if sheet is None else {"clip": sheet.to_json()}),
        "study": address,
        "comparison": result.get("comparison"),
        "samples": samples_of(result),
        "runs": [_column(r, i) for i, r in enumerate(columns)],
        "captions": [_captions(r) for r in columns],
        "images": [list(pictures.get(str(r["name"]), ())) for r in columns],
    }


def drawn_as(result: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """What a run draws, in one word; before the first is finished, as far as request and model tell."""
    asked = (result.get("request") or {}).get("frames")
    family = (result.get("model") or {}).get("draws") == "video"
    clips = sheet_of(runs[0]) is not None if runs else bool(asked) or family
    return "clip" if clips else "picture"


def page_size(runs: Sequence[Run]) -> int:
    """Samples that are carried at first, and with each "show more"."""
    return CLIP_PAGE if runs and sheet_of(runs[0]) is not None else PAGE


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
