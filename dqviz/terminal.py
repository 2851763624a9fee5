"""The command line's edge: one-line errors, one line of progress, a quiet Ctrl-C."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .events import Event, Progress, RunFinished, Stage

ANNOUNCED = (
    "preflight",
    "calibrate",
    "capture",
    "learning",
    "study",
)  # stages whose text says what they will take, and where they write
OUR_PACKAGES = r"(dqviz|quant|kernels)(\.|$)"
# What diffusers, which imports torchao where it is installed, would say on stderr of parts that we do not use.
REMARKS = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")


def one_line(message: object) -> str:
    """A message without line breaks."""
    return " ".join(str(message).split())


def complain(message: object) -> None:
    """One line on stderr."""
    print(f"dqviz: {one_line(message)}", file=sys.stderr, flush=True)


class ProgressLine:
    """One line on stderr that is rewritten in place; silent where stderr is not a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._text = ""
        self._dirty = False

    def __call__(self, event: Event) -> None:
        """Show what an event says; what long stages will take stays on the screen, and in logs."""
        if isinstance(event, Stage) and event.name in ANNOUNCED:
            self.clear()
            print(event.text, file=sys.stderr, flush=True)
        if not self._shown:
            return
        if isinstance(event, Stage):
            self._text = event.text
            self._write(event.text)
        elif isinstance(event, Progress) and event.total:
            left = "" if event.seconds_left is None else f", {duration(event.seconds_left)} left"
            self._write(f"{100 * event.done / event.total:3.0f} %  {self._text}{left}")
        elif isinstance(event, RunFinished):
            self._write(f"finished {event.run['name']}")

    def clear(self) -> None:
        """Leave nothing behind."""
        if self._dirty:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._dirty = False

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{text[:100]}")
        sys.stderr.flush()
        self._dirty = True


def duration(seconds: float) -> str:
    """`45 s`, `3 min 05 s`, `2 h 10 min`; 1 s at least where there is anything to wait for."""
    whole = max(round(seconds), int(seconds > 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, what: str) -> str:
    """`1 cell`, `2 cells`; `backward passes` of `backward pass`."""
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks politely: the yielded function says so; a second Ctrl-C stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def only_our_warnings() -> Iterator[None]:
    """Show warnings of our packages as one line each, and nobody else's, nor what libraries log when imported."""
    for name in REMARKS:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module=OUR_PACKAGES)
        warnings.showwarning = lambda message, *_, **__: complain(f"warning: {message}")
        yield
