"""The Activations page: one component, which asks for what it shows by one function.

A click is one request and one answer, without Gradio's event queue. The browser names studies,
captures and inputs by their listed names, never by a path.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quant.errors import BadInput, DQVizError, unknown

from ..capturing import CaptureRequest, as_command
from ..jobs import JobStore
from ..pages import activations as page
from ..seen_file import SeenFile
from ..studies import place
from ..study import Study
from . import components
from .bench import Bench
from .library import Library

KEPT_OPEN = 4  # captures whose headers stay parsed
METHOD, BITS = "viditq", "w4a8"  # of the captures that the page offers to make
PARTS = ("page", "map", "panels")


class Captures:
    """The captures of all studies; the latest that were looked at stay open."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._open: OrderedDict[tuple[Path, int, int], SeenFile] = OrderedDict()
        self._lock = threading.Lock()

    def listed(self) -> dict[str, list[str]]:
        """Names of captures by study, for studies that have any; one that does not open has none."""
        found: dict[str, list[str]] = {}
        for name in self.library.folders():
            try:
                captures = [str(c["name"]) for c in self.library.open(name).captures()]
            except DQVizError:
                continue
            if captures:
                found[name] = captures[::-1]
        return found

    def open(self, study_name: str, capture: str | None) -> page.Opened:
        """A capture of a study, by default its latest."""
        study = self.library.open(study_name)
        rows = {str(row["name"]): row for row in study.captures()}
        if not rows:
            raise BadInput(f"study {study_name} has no capture; make one: dqviz capture MODEL")
        row = rows.get(capture) if capture is not None else list(rows.values())[-1]
        if row is None:
            raise unknown("capture", capture, rows, f"Study: {study_name}")
        model = study.manifest["model"]
        key = str(model.get("key") or "MODEL")
        return page.Opened(
            seen=self._file(study, row),
            study=study_name,
            name=str(row["name"]),
            model=str(model.get("title") or key),
            key=key,
            created=str(row["created"]),
            record=row["record"],
        )

    def _file(self, study: Study, row: Mapping[str, Any]) -> SeenFile:
        path = (study.folder / str(row["file"])).resolve()
        if not path.is_relative_to(study.folder.resolve()) or not path.is_file():
            raise BadInput(f"the file of capture {row['name']} is gone; capture again")
        facts = path.stat()
        key = (path, facts.st_mtime_ns, facts.st_size)
        with self._lock:
            try:
                seen = self._open.pop(key, None) or SeenFile(path)
            except DQVizError as error:
                which = f"capture {row['name']} of study {study.folder.name}"
                raise BadInput(f"{which} does not open: {error}") from error
            self._open[key] = seen
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
        return seen

    def answer(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """What a query asks for: any of the parts, of its study, capture and selection."""
        study, capture = _text(query.get("study")), _text(query.get("capture"))
        problems: dict[str, None] = {}  # in order, each once
        if study:
            try:
                if (without := self.without(study)) is not None:
                    empty = page.empty(f"Study {study} has no capture yet.", as_command(without))
                    return {"empty": empty, "studies": self.listed(), "study": study}
                return self._shown(self.open(study, capture), query, _wanted(query), [])
            except DQVizError as error:
                problems[str(error)] = None
        listed = self.listed()
        here = {study: listed[study]} if study in listed else {}
        for name, captures in (here | listed).items():
            for each in captures:
                notes = [f"{problem}. Showing another." for problem in problems]
                try:
                    # What is shown now is not what the page was built for: all of it anew.
                    return self._shown(self.open(name, each), query, list(PARTS), notes, listed)
                except DQVizError as error:
                    problems[str(error)] = None
        return {"empty": page.empty(". ".join(problems)), "studies": listed}

    def without(self, name: str) -> CaptureRequest | None:
        """The capture to make for a study that has none; None when it has one."""
        study = self.library.open(name)
        if study.captures():
            return None
        model = study.manifest["model"]
        request = {"model": model.get("ref") or model.get("key"), "outliers": model.get("outliers")}
        where = {"out": str(place(study.folder))}
        return CaptureRequest.parse({**request, **where, "method": METHOD, "bits": BITS})

    def _shown(
        self,
        opened: page.Opened,
        query: Mapping[str, Any],
        wanted: list[str],
        notes: list[str],
        listed: dict[str, list[str]] | None = None,
    ) -> dict[str, Any]:
        """The wanted parts of one capture."""
        chosen, more = page.select(query, opened.seen)
        found: dict[str, Any] = {
            "study": opened.study,
            "capture": opened.name,
            "selection": chosen.to_json(),
            "notes": notes + more,
        }
        if "page" in wanted:
            found |= {
                "headline": page.headline(opened),
                "controls": page.controls(opened),
                "studies": listed or self.listed(),
            }
        if "map" in wanted:
            found["overview"] = page.overview(opened, chosen)
        if "panels" in wanted:
            found |= {"about": page.about(opened, chosen), "panels": page.panels(opened, chosen)}
        return found


def _wanted(query: Mapping[str, Any]) -> list[str]:
    parts = query.get("want")
    return [p for p in PARTS if not isinstance(parts, list) or p in parts]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def server_functions(bench: Bench) -> list[Callable[[Any], str]]:
    """What the browser may call; each answers with JSON text."""
    captures = Captures(bench.library)

    def safely(ask: Callable[[Mapping[str, Any]], dict[str, Any]], query: Any) -> str:
        query = query[0] if isinstance(query, list) and len(query) == 1 else query
        try:
            found = ask(query if isinstance(query, dict) else {})
        except DQVizError as error:
            found = {"error": str(error)}
        return json.dumps(found, allow_nan=False, separators=(",", ":"))

    def activations(query: Any) -> str:
        return safely(captures.answer, query)

    def capture_start(query: Any) -> str:
        return safely(lambda q: _start(bench, q), query)

    def capture_state(query: Any) -> str:
        return safely(lambda q: _state(bench.store, q), query)

    return [activations, capture_start, capture_state]


def _start(bench: Bench, query: Mapping[str, Any]) -> dict[str, Any]:
    """Queue a capture of a listed model: the one that is named, or the one of a study without any."""
    study = _text(query.get("study"))
    asked = Captures(bench.library).without(study) if study else None
    model = asked.model if asked else query.get("model")
    listed = [str(m["key"]) for m in bench.models]
    if model not in listed:
        raise unknown("model", model, listed)
    plain = {"model": model, "method": METHOD, "bits": BITS}
    return {"job": bench.desk.submit("capture", asked.to_json() if asked else plain).id}


def _state(store: JobStore, query: Mapping[str, Any]) -> dict[str, Any]:
    """How far a capture is."""
    job = store.get(query.get("job"))
    names = ("state", "stage", "done", "total", "seconds_left", "message")
    return {name: getattr(job, name) for name in names}


def build(bench: Bench) -> None:
    """Put the page into the Blocks that is open."""
    models = [{"key": str(m["key"]), "title": str(m["title"])} for m in bench.models]
    components.component(
        "activations.js",
        "activations",
        "dq-activations",
        (),
        server_functions=server_functions(bench),
        models_json=json.dumps(models),
        elem_id="dq-activations",
    )
