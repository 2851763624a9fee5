"""Progress, previews and cancelling of one long piece of work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from quant.errors import Cancelled

from .events import Event, OnEvent, Preview, Progress, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from quant.generation import StepEvent

PREVIEW_EVERY = 0.5  # seconds
PREVIEW_SHARE = 0.1  # of the time goes into decoding previews, at most


class Watch:
    """Counts denoiser steps (one step of one sample is one) and asks after each whether to stop."""

    def __init__(
        self, on_event: OnEvent | None, cancelled: Callable[[], bool] | None, previews: bool
    ) -> None:
        self._on_event = on_event
        self._cancelled = cancelled
        self._previews = previews and on_event is not None
        self._next_preview = 0.0
        self._started = time.perf_counter()
        self.total = 0
        self.done = 0
        self._stage_start = 0
        self._stage_end = 0
        self._skipped = 0
        self._apart = 0.0  # seconds of stages that told their own time, and their steps
        self._apart_steps = 0
        self._apart_since: float | None = None
        self.run = ""
        self.overhead = 0.0  # seconds spent on watchers inside the present run

    def emit(self, event: Event) -> None:
        """Tell the watcher, if there is one."""
        if self._on_event is not None:
            self._on_event(event)

    def plan(self, steps: int) -> None:
        """Announce all the work there is; the clock of the rate starts here."""
        self.total = steps
        self._started = time.perf_counter()

    def stage(
        self, name: str, text: str, steps: int = 0, run: str = "", apart: bool = False
    ) -> None:
        """Begin a stage of so many steps; the one before counts as complete.

        The pace of one that is `apart` says nothing of denoiser steps: it tells its own seconds.
        """
        self.check()
        self.run = run or self.run
        self.overhead = 0.0
        self._end_apart()
        self.done = self._stage_start = self._stage_end
        self._stage_end += steps
        self._apart_since = time.perf_counter() if apart else None
        self.emit(Stage(name, text))

    def skip(self, steps: int) -> None:
        """So many steps were done before this began: they count as done, not for the rate."""
        self._skipped += steps
        self._stage_end += steps
        self.done += steps

    def advance(self, steps: int) -> None:
        """So many more steps are done; raises Cancelled when the person wants to stop."""
        self.done = min(self.done + steps, self._stage_end)
        self._report()
        self.check()

    def advance_to(self, share: float, steps: int, seconds: float | None = None) -> None:
        """The present stage, of `steps` steps, is done to this share (0 to 1); one apart has `seconds` left."""
        self.done = max(self.done, round(self._stage_end - steps + share * steps))
        self._report(seconds)
        self.check()

    def finish(self) -> None:
        """Everything is done."""
        self._end_apart()
        self.done = self._stage_end = self.total
        self._report()

    def check(self) -> None:
        """Raise Cancelled when the person wants to stop."""
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("cancelled")

    def on_step(self, event: StepEvent) -> None:
        """For `generate`: count, preview now and then, stop when asked to."""
        began = time.perf_counter()
        self.advance(len(event.samples))
        if self._previews and began >= self._next_preview:
            images = to_uint8(event.preview())
            self.emit(Preview(self.run, images, event.samples, event.step, event.steps))
            now = time.perf_counter()
            self._next_preview = now + max(PREVIEW_EVERY, (now - began) / PREVIEW_SHARE)
        self.overhead += time.perf_counter() - began

    def _end_apart(self) -> None:
        """What told its own time is over: neither its seconds nor its steps count for the rate."""
        if self._apart_since is not None:
            self._apart += time.perf_counter() - self._apart_since
            self._apart_steps += self._stage_end - self._stage_start
            self._apart_since = None

    def _report(self, own: float | None = None) -> None:
        """Tell how far it is; `own`: seconds that the present stage says it has left."""
        now = time.perf_counter()
        seconds = (self._apart_since or now) - self._started - self._apart
        made = (self.done if own is None else self._stage_start) - self._skipped - self._apart_steps
        left = self.total - (self.done if own is None else self._stage_end)
        if made <= 0 and self._apart_since is not None:  # no other pace is known yet
            seconds, made = now - self._apart_since, self.done - self._stage_start
        rest = seconds / made * left if made > 0 else None
        left_in_all = None if rest is None else rest + (own or 0.0)
        self.emit(Progress(self.done, self.total, left_in_all, self.run))


def to_uint8(images: Tensor) -> np.ndarray:
    """Pictures [n, h, w, 3] or clips in [0, 1], rounded to 8 bits; what is not finite becomes 0."""
    pixels = images.nan_to_num(0.0).clamp(0, 1).mul(255).round().byte()
    return pixels.cpu().numpy()
