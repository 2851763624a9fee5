"""A job as screens: what the Compare page shows at each moment. No Gradio.

Whoever follows a job reads what its worker wrote down; nothing is told to anybody in particular. So
any number of viewers see the same, whenever they come.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from quant.errors import DQVizError

from .. import jobs
from ..jobs import Job, JobStore
from ..pages import compare as page
from ..pages.pictures import data_urls
from ..pages.view import View
from ..request import CompareRequest
from ..study import Study
from .library import Library


@dataclass(frozen=True)
class Screen:
    """One state of the page; what is None stays as it is."""

    status: Mapping[str, Any]
    view: View | None = None
    live: tuple[Mapping[str, Any], ...] | None = None
    running: bool = True

    @property
    def status_json(self) -> str:
        """For the status strip."""
        return json.dumps(self.status)

    @property
    def live_json(self) -> str | None:
        """For the picture grid."""
        return None if self.live is None else json.dumps(self.live)


IDLE = Screen({"state": "idle"}, running=False)


def failed(message: str, title: str = "Not done:") -> Screen:
    """The error strip; the pictures that are there stay."""
    return Screen({"state": "failed", "title": title, "message": message}, running=False)


@dataclass
class Follow:
    """Follows one comparison and turns what is known of it into screens."""

    store: JobStore
    job_id: str
    library: Library
    known: Callable[[str], Mapping[str, Any]]  # of a model that is not loaded yet
    before: str | None = None  # name of the study that was shown before
    aside: bool = False  # whether another study is shown meanwhile: only the status is told
    over: bool = False
    _said: Mapping[str, Any] | None = None
    _finished: int = -1  # runs that the last view showed
    _frames: dict[str, int] = field(default_factory=dict)  # previews that were shown: name -> time

    def look(self) -> Screen | None:
        """What has changed since the last look; None when nothing has."""
        screen = self._look()
        return replace(screen, view=None, live=None) if screen and self.aside else screen

    def _look(self) -> Screen | None:
        try:
            job = self.store.get(self.job_id)
        except DQVizError as error:
            return self._ended(failed(str(error), "Not shown:"))
        if not job.active:
            return self._ended(self._last(job))
        status = {**self._status(job), "job": job.id}
        runs = self._runs(job)
        view = self._partial(job, runs, "running") if len(runs) != self._finished else None
        live = self._live(job, [str(r["name"]) for r in runs])
        if view is None and live is None and status == self._said:
            return None
        self._said, self._finished = status, len(runs)
        return Screen(status, view, live)

    def _ended(self, screen: Screen) -> Screen:
        self.over = True
        return replace(screen, status={**screen.status, "job": self.job_id})

    def _status(self, job: Job) -> dict[str, Any]:
        if job.state == jobs.QUEUED:
            ahead = self.store.ahead(job)
            before = "1 job is" if ahead == 1 else f"{ahead} jobs are"
            text = f"Waiting: {before} ahead of this one." if ahead else "Waiting for the worker."
            return {"state": "waiting", "text": text}
        if job.cancel_requested is not None:
            text = "Cancelling; the step under way is finished first"
            return {"state": "cancelling", "text": text}
        status: dict[str, Any] = {"state": "running", "text": job.stage or "Starting the engine"}
        if job.total:
            left = job.seconds_left
            status |= {
                "done": job.done,
                "total": job.total,
                "left": None if left is None else round(left),
            }
        return status

    def _live(self, job: Job, finished: list[str]) -> tuple[Mapping[str, Any], ...] | None:
        """New pictures of the run that is being drawn: the first one that is not finished."""
        if job.state != jobs.RUNNING:
            return None
        seeds = list(job.request["seeds"])
        frames = []
        for name, (written, text) in self.store.previews(job).items():
            if self._frames.get(name) == written:
                continue
            self._frames[name] = written
            frame = json.loads(text)
            run, seed = frame.pop("name"), frame.pop("seed")
            if run not in finished and seed in seeds:
                frames.append({"run": len(finished), "first": seeds.index(seed), **frame})
        return tuple(frames) or None

    def _runs(self, job: Job) -> list[dict[str, Any]]:
        """The finished runs of this job."""
        try:
            study = Study.open(job.study, read_only=True)
            number = study.comparison_of(job.id)
            return [] if number is None else study.runs(number)
        except DQVizError:  # the worker has not made it yet
            return []

    def _partial(self, job: Job, runs: list[dict[str, Any]], status: str) -> View:
        """The page with the finished runs, and places for those to come."""
        request = CompareRequest.parse(job.request, "the job")
        result = {
            "status": status,
            "model": self.known(request.model),
            "request": request.to_json(),
            "runs": runs,
            "planned": _planned(request)[len(runs) :],
        }
        shown = page.page_size(runs)
        pictures = {
            str(r["name"]): data_urls([job.study / f for f in r["files"][:shown]]) for r in runs
        }
        return page.render(result, pictures)

    def _last(self, job: Job) -> Screen:
        """How it ended."""
        runs = self._runs(job)
        view = self._stored(job) if runs else None
        if job.state == jobs.DONE:
            return Screen({"state": "idle"}, view, running=False)
        if job.state == jobs.CANCELLED:
            kept = f"{len(runs)} finished run{'' if len(runs) == 1 else 's'} kept"
            message = (
                f"{kept if runs else 'nothing was finished'}. "
                "Run starts again; the Runs page resumes this one."
            )
            status = {"state": "cancelled", "title": "Cancelled:", "message": message}
            return Screen(status, view or self._partial(job, [], "cancelled"), running=False)
        return Screen(failed(job.message).status, view or self._before(), running=False)

    def _before(self) -> View:
        """The page as it was when nothing ran: what failed at once leaves nothing to show."""
        try:
            return self.library.first_view(self.before)
        except DQVizError:
            return page.empty()

    def _stored(self, job: Job) -> View | None:
        """The page as the study has it."""
        try:
            study = Study.open(job.study, read_only=True)
            return self.library.view(study, study.comparison_of(job.id))
        except DQVizError:
            return None


def _planned(request: CompareRequest) -> list[dict[str, Any]]:
    """Columns of the runs to come, full precision first."""
    methods, bits = request.methods, request.bits
    widths = bits * len(methods) if len(bits) == 1 else bits or (None,) * len(methods)
    runs: list[dict[str, Any]] = [
        {"name": f"planned {i}", "method": m, "bits": b}
        for i, (m, b) in enumerate(zip(methods, widths), 1)
    ]
    runs += [
        {"name": f"planned candidate {i}", "method": "candidate", "bits": None, "title": p.name}
        for i, p in enumerate(request.candidates, 1)
    ]
    return [{"name": "planned 0", "method": "full-precision", "bits": None}, *runs]
