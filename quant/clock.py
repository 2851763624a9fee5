"""How long recording takes inside a drawing, without stopping the device to find out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class RecordingClock:
    """Adds up the time of the blocks run under `recording`, and of the drawing around them.

    On a GPU, events on its stream are read once, at the end: what recording adds to the stream.
    """

    def __init__(self) -> None:
        self.total = 0.0  # seconds of drawing, recording included
        self._recording = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def recording(self, device: torch.device) -> Iterator[None]:
        """Time one block that works on `device`."""
        if device.type != "cuda":
            began = time.perf_counter()
            yield
            self._recording += time.perf_counter() - began
            return
        pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        pair[0].record()
        yield
        pair[1].record()
        self._events.append(pair)

    @property
    def overhead_ratio(self) -> float | None:
        """Seconds of drawing with recording over those without it; None when nothing was drawn."""
        if self._events:
            torch.cuda.synchronize()
            self._recording += sum(a.elapsed_time(b) for a, b in self._events) / 1000
            self._events.clear()
        plain = self.total - self._recording
        return self.total / plain if plain > 0 else None
