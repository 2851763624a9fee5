"""The Runs page: one component, which asks for what it shows and says what was pressed.

It asks again every second while a job is active, and not otherwise. Jobs are named by their ids,
studies by their listed names, never by a path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from quant.errors import BadInput, DQVizError, unknown

from .. import studies
from ..jobs import Job
from ..pages import runs as page
from ..study import Study
from ..work import KINDS
from . import components
from .bench import Bench

MOST_JOBS = 100


@dataclass(frozen=True)
class RunsDesk:
    """What the page asks and does; a query is what a browser sent, hence anything."""

    bench: Bench

    def jobs(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """The list of jobs."""
        self.bench.desk.wake()
        listed = self.bench.store.jobs()[:MOST_JOBS]
        names = {folder.resolve(): n for n, folder in self.bench.library.folders().items()}
        commands = {job.id: _command(job) for job in listed}
        return page.job_list(listed, names, commands, self._comparisons(listed))

    def studies(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """The list of studies."""
        folders = self.bench.library.folders()
        return page.study_list([studies.facts(name, folder) for name, folder in folders.items()])

    def job(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Cancel, resume or delete a job."""
        does: dict[str, Callable[[object], Any]] = {
            "cancel": self.bench.desk.cancel,
            "resume": self.bench.desk.resume,
            "delete": self.bench.store.delete,
        }
        action = str(query.get("action"))
        if action not in does:
            raise unknown("action", action, does)
        does[action](query.get("id"))
        return self.jobs({})

    def log(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """The end of a job's log."""
        text = self.bench.store.logs(query.get("id"))
        return {"text": text or "Nothing yet: the log begins when a worker takes the job."}

    def study(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Delete or duplicate a study."""
        folder = self._folder(query.get("study"))
        action = query.get("action")
        if action == "delete":
            studies.delete(folder, self.bench.desk.busy())
        elif action == "duplicate":
            studies.duplicate(folder)
        else:
            raise unknown("action", action, ("delete", "duplicate"))
        return self.studies({})

    def beside(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Two comparisons side by side."""
        chosen = []
        for key in ("first", "second"):
            asked = query.get(key)
            if not isinstance(asked, Mapping):
                raise BadInput("two comparisons are to be chosen")
            number, name = asked.get("comparison"), asked.get("study")
            if isinstance(number, bool) or not isinstance(number, int):
                raise BadInput(f"comparison {number!r} is not a number")
            chosen.append((str(name), self.bench.library.open(name), number))
        return {"sections": page.side_by_side(studies.beside(*chosen))}

    def _comparisons(self, listed: Sequence[Job]) -> dict[str, int]:
        """The comparisons that ended jobs made, as far as a run was finished: job id -> number."""
        found: dict[str, int] = {}
        shown: dict[Path, tuple[Study, set[int]] | None] = {}  # one look at each study
        for job in listed:
            if job.active or job.kind != "compare":
                continue
            try:
                if job.study not in shown:
                    shown[job.study] = None  # stays so for one that does not open
                    study = Study.open(job.study, read_only=True)
                    shown[job.study] = study, {c["id"] for c in study.comparisons() if c["runs"]}
                opened = shown[job.study]
                number = None if opened is None else opened[0].comparison_of(job.id)
            except DQVizError:
                continue
            if opened is not None and number in opened[1]:
                found[job.id] = number
        return found

    def _folder(self, name: object) -> Path:
        folders = self.bench.library.folders()
        if not isinstance(name, str) or name not in folders:
            raise unknown("study", name, folders)
        return folders[name]


def _command(job: Job) -> str:
    """The job as a command line; nothing for one that this version cannot read."""
    try:
        return KINDS[job.kind].command(job.request) if job.kind in KINDS else ""
    except DQVizError:
        return ""


def server_functions(bench: Bench) -> list[Callable[[Any], dict[str, Any]]]:
    """The desk's methods as the browser calls them: an error is one line, shown in the page."""
    desk = RunsDesk(bench)

    def answering(name: str) -> Callable[[Any], dict[str, Any]]:
        ask: Callable[[Mapping[str, Any]], dict[str, Any]] = getattr(desk, name)

        def answer(query: Any) -> dict[str, Any]:
            query = query[0] if isinstance(query, list) and len(query) == 1 else query
            try:
                return ask(query if isinstance(query, dict) else {})
            except DQVizError as error:
                return {"error": str(error)}

        answer.__name__ = f"runs_{name}"
        return answer

    return [answering(name) for name in ("jobs", "studies", "job", "log", "study", "beside")]


def build(bench: Bench) -> None:
    """Put the page into the Blocks that is open."""
    with gr.Column(elem_id="dq-runspage"):
        components.component(
            "runs.js",
            "runs",
            "dq-view",
            (),
            server_functions=server_functions(bench),
            elem_id="dq-jobs",
        )
