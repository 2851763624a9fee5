"""What a stage is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from .place import Place


@dataclass(frozen=True)
class Stage:
    """The card of a stage."""

    order: int  # smaller ones come first
    title: str
    what: str  # for docs/gpu.md
    minutes: float  # what it takes before the next stage's turn; time that is left at the end goes to what it left
    needs: tuple[str, ...] = ()  # modules beside torch and `kernels` that it imports

    @property
    def missing(self) -> tuple[str, ...]:
        """Those of `needs` that are not here."""
        return tuple(name for name in self.needs if find_spec(name) is None)


class Row(NamedTuple):
    """One measurement to be made."""

    key: str  # of the whole run: a row that is there is not made again
    seconds: float  # what it will take, guessed high; it is not begun where less is left
    measure: Callable[[], dict[str, Any]]


class StageModule(Protocol):
    """A file of `stages/`."""

    STAGE: Stage

    def rows(self, place: Place) -> Iterator[Row]:
        """What is to be done, the most valuable first. Costs nothing until `measure` is called."""
        ...


def stages() -> dict[str, StageModule]:
    """Every stage by the name of its file, in order."""
    names = [path.stem for path in Path(__file__).parent.glob("stages/[!_]*.py")]
    found = {n: cast(StageModule, import_module(f"{__package__}.stages.{n}")) for n in names}
    return dict(sorted(found.items(), key=lambda item: item[1].STAGE.order))
