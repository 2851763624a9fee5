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

from ..pages import compare as page
from ..pages.pictures import data_urls
from ..pages.view import View
from ..study import MANIFEST, REPORT, Study, studies_root

DOWNLOADS = {"Report (HTML)": REPORT, "Study record (JSON)": MANIFEST}
TYPES = {".html": "text/html", ".json": "application/json"}
MOST_PICTURES = 64  # samples in one answer


@dataclass(frozen=True)
class Library:
    """Where studies are looked for."""

    pinned: Path | None = None  # named with --study

    def folders(self) -> dict[str, Path]:
        """Study folders by name, the latest first."""
        root = studies_root()
        found = [p.parent for p in root.glob(f"*/{MANIFEST}")] if root.is_dir() else []
        found.sort(key=lambda folder: -(folder / MANIFEST).stat().st_mtime)
        pinned = {self.pinned.name: self.pinned} if self.pinned is not None else {}
        return pinned | {f.name: f for f in found if f.name not in pinned}

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

    def first_view(self, name: str | None) -> View:
        """The page when it is opened: the study that is named, else the latest one, else the invitation.

        Raises DQVizError for a name that does not open; an unnamed study that does not is passed over.
        """
        if name:
            return self.view(self.open(name))
        for candidate in self.folders():
            try:
                return self.view(self.open(candidate))
            except DQVizError:
                continue
        return page.empty()

    def view(self, study: Study, comparison: int | None = None) -> View:
        """The page of a study's comparison, by default the latest."""
        result = with_samples(study.result(comparison), study)
        runs = [str(run["name"]) for run in result["runs"]]
        drifts = {name: study.drift(name) for name in runs}
        return page.render(
            result,
            {name: data_urls(study.images(name)[: page.PAGE]) for name in runs},
            {name: drift for name, drift in drifts.items() if drift},
            {label: file for label, file in DOWNLOADS.items() if (study.folder / file).is_file()},
            self.name_of(study.folder),
        )

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
        if not path.is_file():
            raise BadInput(f"study {study.folder.name} has no {name}")
        return {
            "name": f"{study.folder.name}-{path.name}",
            "type": TYPES[path.suffix],
            "base64": base64.b64encode(path.read_bytes()).decode(),
        }


def with_samples(result: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """A result with the samples and the sampler of its first run's recipe."""
    recipe = study.recipe(str(result["runs"][0]["name"])) if result["runs"] else {}
    return {**result, **{key: recipe[key] for key in ("samples", "sampler") if key in recipe}}


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadInput(f"{value!r} is not a whole number of at least 0")
    return value
