"""One method held to every promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import EnvironmentFault
from ..models import Model
from .promises import PROMISES, Subject, subject


@dataclass(frozen=True)
class Verdict:
    """One promise of a method."""

    promise: str
    text: str  # what is promised
    faults: tuple[str, ...]  # how it is broken; none where it is kept

    @property
    def passed(self) -> bool:
        """Whether it is kept."""
        return not self.faults


def check_method(
    key: str, model: Model, on_promise: Callable[[str, str], None] | None = None
) -> list[Verdict]:
    """Hold a method to every promise, on synthetic layers and on `model`.

    Args:
        key: of a method that `quant.cards.methods` lists; for a file, inside `file_method`.
        model: calibrated on four samples and drawn with three, at four steps.
        on_promise: told the name of each promise, and what it says, before it is looked at.
    """
    found = subject(key, model)
    return [_verdict(name, found, on_promise) for name in PROMISES]


def _verdict(name: str, found: Subject, on_promise: Callable[[str, str], None] | None) -> Verdict:
    promise = PROMISES[name]
    text = (promise.__doc__ or "").strip()
    if on_promise is not None:
        on_promise(name, text)
    try:
        faults = promise(found)
    except (EnvironmentFault, MemoryError, OSError):
        raise
    except (Exception, SystemExit) as error:  # of the method's own code: that is the answer
        faults = [f"{type(error).__name__}: {error}"]
    return Verdict(name, text, tuple(faults))
