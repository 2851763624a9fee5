"""What a running comparison tells whoever watches it: five kinds of event.

The command line prints them, the app draws them. `event.kind` names the kind; nothing here needs
torch, so a watcher can live in a process that never loads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np

    from quant.schema import Sample


@dataclass(frozen=True)
class Stage:
    """A new stage has begun: `name` for programs, `text` for people."""

    kind: ClassVar[str] = "stage"
    name: str
    text: str


@dataclass(frozen=True)
class Progress:
    """Denoiser steps done, over all runs; one step of one sample counts one."""

    kind: ClassVar[str] = "progress"
    done: int
    total: int
    seconds_left: float | None  # None until there is a rate to go by
    run: str  # name of the run that is being drawn


@dataclass(frozen=True)
class Preview:
    """The current estimate of the pictures that are being drawn."""

    kind: ClassVar[str] = "preview"
    run: str
    images: np.ndarray  # [b, h, w, 3] or clips [b, f, h, w, 3], uint8
    samples: tuple[Sample, ...]  # of this batch
    step: int  # 0 for the noisiest
    steps: int


@dataclass(frozen=True)
class RunFinished:
    """One run is complete and stored: the dictionary that the result will hold."""

    kind: ClassVar[str] = "run"
    run: dict[str, Any]


@dataclass(frozen=True)
class Done:
    """The whole comparison is complete: its result."""

    kind: ClassVar[str] = "done"
    result: dict[str, Any]


Event = Stage | Progress | Preview | RunFinished | Done
OnEvent = Callable[[Event], None]
