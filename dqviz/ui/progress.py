"""A running comparison as a sequence of screens: what the page shows at each moment. No Gradio."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from quant.errors import DQVizError

from ..events import Done, Preview, Progress, RunFinished, Stage
from ..pages import compare as page
from ..pages.pictures import data_urls
from ..pages.view import View
from ..study import Study, default_folder
from .desk import Job, Stopped, Told, Waiting
from .library import Library

PATIENCE = 0.2  # seconds between two looks at the queue
VERBS = {"draw": "Drawing", "load": "", "ladder": "Measuring the"}


@dataclass(frozen=True)
class Screen:
    """One state of the page; what is None stays as it is."""

    status: Mapping[str, Any]
    view: View | None = None
    live: Mapping[str, Any] | None = None
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
class Show:
    """Follows one job and turns its events into screens."""

    job: Job
    library: Library
    model: Mapping[str, Any]  # what is known of the model before it is loaded
    finished: list[dict[str, Any]] = field(default_factory=list)
    text: str = "Starting"
    progress: Progress | None = None
    waiting: bool = False

    def screens(self) -> Iterator[Screen]:
        """Screens until the job is over; the last one is not running."""
        yield Screen(self._status(), self._partial("running"))
        said = None
        while True:
            for told in _latest(self.job.told(PATIENCE)):
                screen = self._screen(told)
                if screen is not None:
                    yield screen
                    if not screen.running:
                        return
            status = self._status()
            if status != said:
                said = status
                yield Screen(status)

    def _screen(self, told: Told) -> Screen | None:
        """The screen that one event asks for; None when the status alone changes."""
        if isinstance(told, Waiting):
            self.waiting = True
        elif isinstance(told, Stage):
            self.waiting = False
            self.text = f"{VERBS.get(told.name, '')} {told.text}".strip()
        elif isinstance(told, Progress):
            self.progress = told
        elif isinstance(told, Preview):
            return Screen(self._status(), live=self._frame(told))
        elif isinstance(told, RunFinished):
            self.finished.append(told.run)
            return Screen(self._status(), self._partial("running"))
        elif isinstance(told, Done):
            return self._done(told.result)
        elif isinstance(told, Stopped):
            return self._stopped(told)
        return None

    def _status(self) -> dict[str, Any]:
        if self.job.cancelling:
            text = "Cancelling; the step under way is finished first"
            return {"state": "cancelling", "text": text}
        if self.waiting:
            text = "Waiting: another comparison is running here. Yours begins when it ends."
            return {"state": "waiting", "text": text}
        status: dict[str, Any] = {"state": "running", "text": self.text[:1].upper() + self.text[1:]}
        if self.progress is not None:
            left = self.progress.seconds_left
            status |= {
                "done": self.progress.done,
                "total": self.progress.total,
                "left": None if left is None else round(left),
            }
        return status

    def _frame(self, preview: Preview) -> dict[str, Any]:
        """Pictures of the run that is being drawn: the first one that is not finished."""
        seeds = self.job.request.seeds
        return {
            "run": len(self.finished),
            "first": seeds.index(preview.samples[0].seed),
            "images": [png_url(image) for image in preview.images],
            "step": preview.step + 1,
            "steps": preview.steps,
        }

    def _partial(self, status: str) -> View:
        """The page with the finished runs, and places for those to come."""
        request = self.job.request
        result = {
            "status": status,
            "model": self.model,
            "request": request.to_json(),
            "runs": self.finished,
            "planned": _planned(request.methods, request.bits)[len(self.finished) :],
        }
        folder = request.out or default_folder(request.model)
        pictures = {
            str(r["name"]): data_urls([folder / f for f in r["files"][: page.PAGE]])
            for r in self.finished
        }
        return page.render(result, pictures)

    def _done(self, result: Mapping[str, Any]) -> Screen:
        return Screen({"state": "idle"}, self._stored(result), running=False)

    def _stopped(self, told: Stopped) -> Screen:
        view = self._stored(None) if self.finished else None
        if told.cancelled:
            view = view or self._partial("cancelled")
            n = len(self.finished)
            kept = f"{n} finished run{'' if n == 1 else 's'} kept" if n else "nothing was finished"
            message = f"{kept}. Run starts again."
            status = {"state": "cancelled", "title": "Cancelled:", "message": message}
            return Screen(status, view, running=False)
        return Screen(failed(told.message).status, view, running=False)

    def _stored(self, result: Mapping[str, Any] | None) -> View:
        """The page as the study has it; when the study does not open, what was seen of it."""
        request = self.job.request
        folder = request.out or default_folder(request.model)
        try:
            return self.library.view(
                Study.open(folder, read_only=True), (result or {}).get("comparison")
            )
        except DQVizError:
            return page.render(result) if result else self._partial("cancelled")


def _planned(methods: tuple[str, ...], bits: tuple[str, ...]) -> list[dict[str, Any]]:
    """Columns of the runs to come, full precision first."""
    widths = bits * len(methods) if len(bits) == 1 else bits or (None,) * len(methods)
    runs = [
        {"name": f"planned {i}", "method": m, "bits": b}
        for i, (m, b) in enumerate(zip(methods, widths), 1)
    ]
    return [{"name": "planned 0", "method": "full-precision", "bits": None}, *runs]


def _latest(told: list[Told]) -> list[Told]:
    """Without previews and progress that a later one of the same kind replaces."""
    kept: list[Told] = []
    seen: set[object] = set()
    for event in reversed(told):
        key: object = None
        if isinstance(event, Progress):
            key = event.kind
        elif isinstance(event, Preview):
            key = (event.run, event.samples[0].seed)
        if key is None or key not in seen:
            kept.append(event)
            seen.add(key)
    return kept[::-1]


def png_url(image: Any) -> str:
    """A picture uint8[h, w, 3] as a lossless data URL."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
