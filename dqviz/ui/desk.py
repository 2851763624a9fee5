"""The desk: one comparison at a time in this process; others wait in line.

A job runs in a thread of its own and puts events into a queue, from which the handler of a page
reads. Cancelling sets a flag that the engine reads after every denoising step.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from quant.errors import Cancelled, DQVizError

from ..events import Event
from ..request import CompareRequest

log = logging.getLogger("dqviz")

Compare = Callable[[CompareRequest, Callable[[Event], None], Callable[[], bool]], dict[str, Any]]


@dataclass(frozen=True)
class Waiting:
    """Another comparison is running; this one begins when that one ends."""

    kind: ClassVar[str] = "waiting"


@dataclass(frozen=True)
class Stopped:
    """The job ended without a result: cancelled, or with an error that a person can read."""

    kind: ClassVar[str] = "stopped"
    cancelled: bool
    message: str


Told = Event | Waiting | Stopped


class Job:
    """One comparison under way."""

    def __init__(self, request: CompareRequest, compare: Compare, desk: threading.Lock) -> None:
        self.request = request
        self._compare = compare
        self._desk = desk
        self._told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self._cancel = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dqviz-compare", daemon=True)

    def start(self) -> Job:
        """Begin, or wait in line."""
        self._thread.start()
        return self

    def cancel(self) -> None:
        """Ask it to stop; it does within one denoising step."""
        self._cancel.set()

    @property
    def cancelling(self) -> bool:
        """Whether it was asked to stop."""
        return self._cancel.is_set()

    def told(self, timeout: float) -> list[Told]:
        """All events since the last call; waits up to `timeout` seconds for the first."""
        found: list[Told] = []
        try:
            found.append(self._told.get(timeout=timeout))
            while True:
                found.append(self._told.get_nowait())
        except queue.Empty:
            return found

    def _work(self) -> None:
        if not self._desk.acquire(blocking=False):
            self._told.put(Waiting())
            while not self._desk.acquire(timeout=0.2):
                if self.cancelling:
                    self._told.put(Stopped(True, "cancelled while waiting"))
                    return
        try:
            self._compare(self.request, self._told.put, self._cancel.is_set)
        except Cancelled as error:
            self._told.put(Stopped(True, str(error)))
        except DQVizError as error:
            self._told.put(Stopped(False, str(error)))
        except Exception as error:
            log.exception("a comparison failed")
            kind = type(error).__name__
            text = f"internal error ({kind}): {error}. The server's log has the details."
            self._told.put(Stopped(False, text))
        finally:
            self._desk.release()


class Desk:
    """Starts jobs, and knows the one that each browser tab has under way."""

    def __init__(self, compare: Compare) -> None:
        self._compare = compare
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}

    def start(self, session: str, request: CompareRequest) -> Job:
        """Begin a comparison for a tab."""
        job = self._jobs[session] = Job(request, self._compare, self._lock)
        return job.start()

    def cancel(self, session: str) -> bool:
        """Cancel the job of a tab; False when it has none."""
        job = self._jobs.get(session)
        if job is not None:
            job.cancel()
        return job is not None

    def forget(self, session: str, job: Job) -> None:
        """A tab's job is over, or the tab is gone: stop it if it still runs."""
        job.cancel()
        if self._jobs.get(session) is job:
            del self._jobs[session]
