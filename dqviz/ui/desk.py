"""The desk: takes jobs, sees to it that somebody does them, and looks after who does.

The app itself runs nothing: a worker process does (`dqviz.worker`), which outlives it. Tests hand in
work of their own, which a thread of this process does through the same list and the same function.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from quant.errors import DQVizError

from .. import processes, worker
from ..jobs import QUEUED, RUNNING, Job, JobStore
from ..work import Kind

log = logging.getLogger("dqviz")

LOOK_EVERY = 0.4  # seconds between two looks after the workers, while there is work
WORKER = "dqviz-worker"  # name of a thread that does the work
LINGER = 60.0  # seconds that a worker waits for more: the next job finds torch loaded


class Crew(Protocol):
    """Who does the work."""

    def ensure(self, store: JobStore) -> None:
        """See to it that somebody takes the next job."""
        ...


class Processes:
    """A worker process, started when there is something to do."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self, store: JobStore) -> None:
        """Start one, unless the last one still looks for work."""
        if self._process is None or self._process.poll() is not None:
            self._process = processes.start_worker(store.root, LINGER)


class Threads:
    """A thread of this process, with work of one's own."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds
        self._thread: threading.Thread | None = None

    def ensure(self, store: JobStore) -> None:
        """Start one, unless the last one still works."""
        if self._thread is None or not self._thread.is_alive():
            target = worker.work
            self._thread = threading.Thread(
                target=target, args=(store, self._kinds), name=WORKER, daemon=True
            )
            self._thread.start()


class Desk:
    """What the app does with the list of jobs."""

    def __init__(self, store: JobStore, crew: Crew) -> None:
        self.store = store
        self._crew = crew
        self._lock = threading.Lock()
        self._tender: threading.Thread | None = None

    def submit(self, kind: str, request: Mapping[str, Any]) -> Job:
        """Put a job into the queue; it begins when those before it are done."""
        job = self.store.submit(kind, request)
        self.wake()
        return job

    def cancel(self, job_id: object) -> Job:
        """Cancel a job."""
        job = self.store.cancel(job_id)
        self.wake()
        return job

    def resume(self, job_id: object) -> Job:
        """Continue a job that was cancelled or failed."""
        job = self.store.resume(job_id)
        self.wake()
        return job

    def busy(self) -> list[Path]:
        """Studies that jobs write into."""
        return [job.study for job in self.store.jobs() if job.active]

    def wake(self) -> None:
        """Look after the workers for as long as any job is active, also those of an earlier app."""
        with self._lock:
            if self._tender is None or not self._tender.is_alive():
                here = JobStore(self.store.root.absolute())
                self._tender = threading.Thread(target=self._tend, args=(here,), daemon=True)
                self._tender.start()

    def _tend(self, store: JobStore) -> None:
        pause = threading.Event()
        while True:
            try:
                active = store.mend()
                if any(j.state == QUEUED for j in active) and not any(
                    j.state == RUNNING for j in active
                ):
                    self._crew.ensure(store)
            except DQVizError as error:  # a broken list is told to whoever asks for it
                log.warning("jobs cannot be looked after: %s", error)
                return
            if not active:
                with self._lock:
                    if not any(job.active for job in store.jobs()):
                        self._tender = None
                        return
            pause.wait(LOOK_EVERY)
