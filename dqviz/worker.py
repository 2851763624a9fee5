"""The process that does the jobs: `python -m dqviz.worker ROOT [--linger SECONDS]`.

It takes queued jobs one after another and ends when there are none. It belongs to nobody: the app
that started it may stop, and another may watch.
"""

from __future__ import annotations

import argparse
import base64
import faulthandler
import io
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernels.dispatch import CannotRun
from kernels.tables import BrokenTable
from quant.errors import Cancelled, DQVizError

from . import clips, jobs
from .events import Event, Preview, Progress, RunFinished, Stage
from .jobs import Job, JobStore
from .work import KINDS, Kind

log = logging.getLogger("dqviz")

EVERY = 0.25  # seconds between two looks at the list, while a job runs
PREVIEW_EVERY = 0.5  # seconds between two pictures of one batch
IDLE = 0.2  # seconds between two looks for a job
VERBS = {"draw": "Drawing", "ladder": "Measuring the"}


def work(
    store: JobStore,
    kinds: Mapping[str, Kind] = KINDS,
    linger: float = 0.0,
    alone: bool = False,
) -> None:
    """Do what is queued, one job after another, until nothing was for `linger` seconds.

    Args:
        store: the list.
        kinds: how each kind of work is done.
        linger: how long to wait for another job.
        alone: this process does nothing else: it may be killed, and its output is the job's log.
    """
    deadline = time.monotonic() + linger
    while True:
        store.mend()
        job = store.claim(killable=alone)
        if job is not None:
            if alone:
                _say_into(store.folder(job) / jobs.LOG)
            run(store, job, kinds)
            deadline = time.monotonic() + linger
        elif time.monotonic() >= deadline:
            return
        else:
            time.sleep(IDLE)


def run(store: JobStore, job: Job, kinds: Mapping[str, Kind] = KINDS) -> None:
    """Do one claimed job; how it ended is in the list, and in its log."""
    with _logged(store.folder(job) / jobs.LOG):
        log.info(
            "attempt %d of %s (process %d): %s", job.attempts, job.kind, os.getpid(), job.title
        )
        reporter, kind, made = Reporter(store, job), kinds[job.kind], ""
        try:
            with reporter:
                told = kind.run(job.request, reporter.on_event, reporter.cancelled, job.id)
            state, message = jobs.DONE, ""
            made = "" if kind.made is None else str(told[kind.made])
        except Cancelled as error:
            state, message = jobs.CANCELLED, str(error)
        except (DQVizError, CannotRun, BrokenTable) as error:
            state, message = jobs.FAILED, " ".join(str(error).split())
        except Exception as error:
            log.exception("job %s failed", job.id)
            name, text = type(error).__name__, " ".join(str(error).split())
            state = jobs.FAILED
            message = (
                f"internal error ({name}): {text or 'no message'}. The job's log has the details."
            )
        log.info("%s%s", state, f": {message}" if message else "")
        store.end(job, state, message, made)


class Reporter:
    """Takes events as they come, and writes the latest state down at a pace that costs nothing."""

    def __init__(self, store: JobStore, job: Job) -> None:
        self._store, self._job = store, job
        self._lock = threading.Lock()
        self._fields: dict[str, Any] = {}
        self._previews: dict[int, Preview] = {}  # by the batch's first seed
        self._written: dict[int, float] = {}
        self._finished = 0
        self._stop, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="dqviz-report", daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._flush()

    def cancelled(self) -> bool:
        """For the engine, after every denoising step: whether to stop."""
        return self._stop.is_set()

    def on_event(self, event: Event) -> None:
        """Keep what the event says until the next writing."""
        with self._lock:
            if isinstance(event, Stage):
                text = f"{VERBS.get(event.name, '')} {event.text}".strip()
                self._fields["stage"] = text[:1].upper() + text[1:]
                log.info("%s", event.text)
            elif isinstance(event, Progress):
                self._fields |= {
                    "done": event.done,
                    "total": event.total,
                    "seconds_left": event.seconds_left,
                }
            elif isinstance(event, Preview):
                self._previews[event.samples[0].seed] = event
            elif isinstance(event, RunFinished):
                self._finished += 1
                self._fields["finished"] = self._finished
                self._previews.clear()
                self._written.clear()
                self._store.clear_previews(self._job)
                log.info("finished %s", event.run.get("name"))

    def _loop(self) -> None:
        while not self._over.wait(EVERY):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            fields, self._fields = self._fields, {}
            now = time.monotonic()
            due = {
                seed: preview
                for seed, preview in self._previews.items()
                if now - self._written.get(seed, 0.0) >= PREVIEW_EVERY
            }
            for seed in due:
                del self._previews[seed]
                self._written[seed] = now
        try:
            if not self._store.report(self._job, fields):
                self._stop.set()
            for seed, preview in due.items():
                self._store.write_preview(self._job, seed, frame(preview))
        except (
            DQVizError
        ) as error:  # the list is locked or the disk is full: the work itself goes on
            log.warning("progress was not written: %s", error)


def frame(preview: Preview) -> str:
    """A preview as JSON for the page: pictures, of clips their middle frames, as lossless data URLs."""
    return json.dumps(
        {
            "name": preview.run,
            "seed": preview.samples[0].seed,
            "step": preview.step + 1,
            "steps": preview.steps,
            "images": [png_url(clips.still(image)) for image in preview.images],
        },
        separators=(",", ":"),
    )


def png_url(image: Any) -> str:
    """A picture uint8[h, w, 3] as a lossless data URL."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@contextmanager
def _logged(file: Path) -> Iterator[None]:
    """Append what is logged here to a file."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


def _say_into(file: Path) -> None:
    """Append to a file what this process writes, last words of a crash included."""
    with file.open("ab") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)


def main() -> None:
    """Work until there is nothing to do."""
    parser = argparse.ArgumentParser(prog="python -m dqviz.worker", description=__doc__)
    parser.add_argument("root", type=Path, help="folder that holds jobs.sqlite")
    parser.add_argument("--linger", type=float, default=0.0, help="seconds to wait for another job")
    arguments = parser.parse_args()
    os.environ["DQVIZ_HOME"] = str(arguments.root)
    faulthandler.enable()
    work(JobStore(arguments.root), linger=arguments.linger, alone=True)


if __name__ == "__main__":
    main()
