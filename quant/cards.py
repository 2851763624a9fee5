"""Cards of methods: ours are read from source (`quant.card_files`), those of other packages by entry point."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from .card_files import CardFiles
from .errors import BadInput, DQVizError, unknown

ENTRY_POINTS = "dqviz.methods"


@dataclass(frozen=True)
class Option:
    """One documented option of a method."""

    name: str
    default: object
    text: str


@dataclass(frozen=True)
class Preset:
    """Options under one name, as somebody released them: `preset=NAME` stands for them."""

    name: str
    options: dict[str, object]
    source: str  # paper, read in released code, second-hand, or ours
    bits: str = ""  # that they were released for
    text: str = ""


@dataclass(frozen=True)
class Card:
    """What a method says about itself."""

    key: str
    title: str
    paper: str
    bits: tuple[str, ...]  # presets; other widths are allowed where the method says so
    beats: str = ""  # what the suite holds it against: a method's key, and options "name=value"
    beats_at: tuple[str, ...] = ("w4a8", "w4a4", "w6a6")  # bits at which it does
    needs: tuple[str, ...] = ()  # calibration statistics that it reads
    widths: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)  # of weights that it can make
    integers: bool = False  # rounds to integers alone, not to fp8 or block formats
    codebooks: bool = False  # makes codebooks in the place of integers, not of fp8 or block formats
    also: tuple[str, ...] = ()  # roles that adapters keep in 16 bit and it quantizes, in blocks
    roles: bool = False  # whether it tells layers apart by their role, so that roles must be known
    one_window: bool = False  # whether each layer has one activation format for all steps
    learns: bool = False  # whether it has a `learner`: steps, a log, views of its own
    trajectories: bool = False  # whether it draws some to learn from
    summary: str = ""
    options: tuple[Option, ...] = ()
    presets: tuple[Preset, ...] = ()

    def expanded(self, given: Mapping[str, object]) -> dict[str, object]:
        """Options with `preset` replaced by what it stands for; BadInput where both say the same option."""
        options = dict(given)
        if "preset" not in given or not self.presets:
            return options
        name = options.pop("preset")
        known = {preset.name: preset for preset in self.presets}
        if not isinstance(name, str) or name not in known:
            raise unknown(
                f"preset of {self.key}", str(name), known, f"List them: dqviz methods {self.key}"
            )
        both = sorted(options.keys() & known[name].options.keys())
        if both:
            raise BadInput(
                f"preset={name} sets {both[0]} to {known[name].options[both[0]]}, and {both[0]}="
                f"{options[both[0]]} was given too; leave one of them out"
            )
        return {**known[name].options, **options}


FILES = CardFiles(
    f"{__package__}.methods",
    Path(__file__).parent / "methods",
    Card,
    "method",
    {"Option": Option, "Preset": Preset},
)


@cache
def methods() -> dict[str, Card]:
    """Every method by key: ours by reading, those of other packages by entry point."""
    cards = FILES.cards
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        cards.setdefault(entry.name, entry.load().CARD)
    return cards


def load_method(key: str) -> ModuleType:
    """Import the module of one method."""
    if key not in methods():
        raise unknown("method", key, methods(), "List them: dqviz methods")
    if key in FILES.cards:
        return FILES.load(key)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == key:
            return entry.load()
    raise DQVizError(f"the package that brought method '{key}' is gone; install it again")
