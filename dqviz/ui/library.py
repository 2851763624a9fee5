"""Studies that the app may show: those in the studies folder, and the one named at the start.

The browser names a study by its listed name, never by a path.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.errors import BadInput, DQVizError, unknown

from .. import studies
from ..pages import compare as page
from ..pages.pictures import data_urls
from ..pages.view import View, badge
from ..request import CompareRequest
from ..studies import with_samples
from ..study import Study
from ..study_folder import MANIFEST, REPORT, is_recorded

DOWNLOADS = {"Report (HTML)": REPORT, "Study record (JSON)": MANIFEST}
TYPES = {".html": "text/html", ".json": "application/json"}
MOST_PICTURES = 64  # samples in one answer


@dataclass(frozen=True)
class Library:
    """Where studies are looked for."""

    pinned: Path | None = None  # named with --study

    def folders(self) -> dict[str, Path]:
        """Study folders by name: the one named at the start, a person's own, recorded ones."""
        found = studies.folders()
        pinned = {self.pinned.name: self.pinned} if self.pinned is not None else {}
        return pinned | {name: f for name, f in found.items() if name not in pinned}

    def name_of(self, folder: Path) -> str | None:
        """The listed name of a folder; None when it is not listed."""
        where = folder.resolve()
        return next((n for n, f in self.folders().items() if f.resolve() == where), None)

    def open(self, name: object) -> Study:
        """The study of that name, for reading."""
        folders = self.folders()
        if not isinstance(name, str) or name not in folders:
            raise unknown("study", name, folders)
        return Study.open(folders[name], read_only=True)

    def first(self) -> str | None:
        """The study to open first: the latest that has a finished run, a person's own before recorded ones."""
        for name in self.folders():
            try:
                self.open(name).result()
            except DQVizError:
                continue
            return name
        return None

    def first_view(self, name: str | None, comparison: int | None = None) -> View:
        """The page when it is opened: the study that is named, else the first, else the invitation.

        Raises DQVizError for a name that does not open; an unnamed study that does not is passed over.
        """
        chosen = name or self.first()
        return self.view(self.open(chosen), comparison) if chosen else page.empty()

    def request(self, name: str | None, comparison: int | None = None) -> CompareRequest:
        """What a comparison of a study asked for."""
        study = self.open(name or self.first())
        found = study.result(comparison)["request"]
        return CompareRequest.parse(found, f"study {study.folder.name}")

    def view(self, study: Study, comparison: int | None = None) -> View:
        """The page of a study's comparison, by default the latest."""
        result = with_samples(study.result(comparison), study)
        if is_recorded(study.folder):
            result["runs"] = [_as_recorded(run) for run in result["runs"]]
        runs = [str(run["name"]) for run in result["runs"]]
        shown = page.page_size(result["runs"])
        drifts = {name: study.drift(name) for name in runs}
        view = page.render(
            result,
            {name: data_urls(study.images(name)[:shown]) for name in runs},
            {name: drift for name, drift in drifts.items() if drift},
            DOWNLOADS,
            self.name_of(study.folder),
        )
        if is_recorded(study.folder):
            view.section("headline")["badges"].append(_recorded(result))
        return view

    def pictures(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """More pictures of a comparison, for the page: {"images": per run, a list of data URLs}."""
        first, count = (_whole(query.get(key)) for key in ("first", "count"))
        study = self.open(query.get("study"))
        result = study.result(_whole(query.get("comparison")))
        rows = slice(first, first + min(count, MOST_PICTURES))
        return {"images": [data_urls(study.images(str(r["name"]))[rows]) for r in result["runs"]]}

    def file(self, query: Mapping[str, Any]) -> dict[str, str]:
        """One of the files that a study offers for download."""
        study = self.open(query.get("study"))
        name = query.get("file")
        if name not in DOWNLOADS.values():
            raise unknown("file", name, DOWNLOADS.values())
        path = study.folder / str(name)
        return {
            "name": f"{study.folder.name}-{path.name}",
            "type": TYPES[path.suffix],
            "base64": base64.b64encode(_content(study, path)).decode(),
        }


def _as_recorded(run: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured elsewhere is recorded here; what was simulated stays so."""
    recorded = run.get("evidence") == "measured"
    return {**run, "evidence": "recorded"} if recorded else dict(run)


def _recorded(result: Mapping[str, Any]) -> dict[str, str]:
    """What is said of numbers that came with the repository."""
    device = result["runs"][0].get("device") if result["runs"] else None
    where = f" on {device}" if device else ""
    return badge(
        "recorded",
        "plain",
        f"came with dqviz: drawn {str(result['created'])[:10]}{where}, not on this machine",
    )


def _content(study: Study, path: Path) -> bytes:
    """A file of a study; a report that is not there, as in a recorded study, is made."""
    if path.is_file():
        return path.read_bytes()
    if path.name != REPORT:
        raise BadInput(f"study {study.folder.name} has no {path.name}")
    from ..report import report_html

    return report_html(study).encode()


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadInput(f"{value!r} is not a whole number of at least 0")
    return value
