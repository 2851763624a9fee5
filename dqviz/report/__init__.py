"""The report of a comparison: one HTML file that opens anywhere, without a request to any host.

It is the Compare page, drawn by the same scripts from the same `View`, with its pictures, its data
and plotly.js inside the file; light and dark follow the reader's system.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quant.errors import BadInput

from ..files import write_text
from ..pages import compare
from ..pages.pictures import data_urls
from ..pages.view import Section, View
from ..studies import with_samples
from ..study import Study
from ..study_folder import REPORT
from .bundle import bundled
from .captured import captured

__all__ = ["report_html", "report_view", "write_report"]

MAX_SAMPLES, MAX_CLIPS = 16, 4  # pictures or clips per run; the folder holds all


def write_report(study: Study, comparison: int | None = None, file: Path | None = None) -> Path:
    """Write the report of one comparison (the latest by default) and return its path.

    Args:
        study: the study.
        comparison: number of the comparison.
        file: a new file to write; None: the study's own `report.html`, made anew.

    Raises BadInput for a file that exists and for a study that is read only.
    """
    if file is None and study.read_only:
        raise BadInput(f"study {study.folder} is read only; name a file: --out report.html")
    if file is not None and file.exists():
        raise BadInput(f"{file} exists and is not written over; name a new file")
    target = file or study.folder / REPORT
    write_text(target, report_html(study, comparison))
    return target


def report_html(study: Study, comparison: int | None = None) -> str:
    """The whole page as text."""
    model = study.manifest["model"]
    title = f"{model.get('title') or model.get('key')}: full precision and quantized"
    return bundled(report_view(study, comparison), title)


def report_view(study: Study, comparison: int | None = None) -> View:
    """What the report shows: the comparison, then the latest capture of the study."""
    captures = captured(study)
    if comparison is None and captures and not study.runs():
        return View(captures)
    result = with_samples(study.result(comparison), study)
    names = [str(run["name"]) for run in result["runs"]]
    drifts = {name: study.drift(name) for name in names}
    most = MAX_CLIPS if any(run.get("clip") for run in result["runs"]) else MAX_SAMPLES
    view = compare.render(
        result,
        {name: data_urls(study.images(name)[:most]) for name in names},
        {name: drift for name, drift in drifts.items() if drift},
    )
    _shorten(view.section("pictures"), most)
    command = [section for section in view.sections if section["kind"] == "command"]
    shown = [section for section in view.sections if section["kind"] != "command"]
    return View((*shown, *captures, *command, _again(study, result)))


def _shorten(pictures: Section, most: int) -> None:
    """Leave out the samples whose pictures the report does not carry, and say so."""
    n = len(pictures["samples"])
    if n > most:
        pictures["samples"] = pictures["samples"][:most]
        pictures["lede"] += f" The first {most} of {n} samples; the study has all."


def _again(study: Study, result: Mapping[str, Any]) -> Section:
    """The recipes, to make the runs again elsewhere."""
    recipes = [
        {**study.recipe(run["name"]), "fingerprint": run.get("recipe")} for run in result["runs"]
    ]
    return {
        "kind": "record",
        "title": "Make it again",
        "lede": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "summary": "Recipes as JSON",
        "text": json.dumps(recipes, indent=1, ensure_ascii=False),
    }
