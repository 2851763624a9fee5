"""Cards of methods and metrics, read from source without importing it.

A module that joins a package by existing states `CARD = Card(...)` with literal arguments. Listing
reads that with `ast`, so that the command line and the app know every method in milliseconds and
without torch; `load` imports the one that is asked for.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

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
    weight_only: bool = False  # leaves activations as they are
    also: tuple[str, ...] = ()  # roles that adapters keep in 16 bit and it quantizes, in blocks
    learns: bool = False  # whether it has a `learner`: steps, a log, views of its own
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


_PARTS: dict[str, Callable[..., object]] = {"Option": Option, "Preset": Preset}


def _literal(node: ast.expr) -> object:
    """Literal value of an expression that may hold nested `Option(...)` and `Preset(...)` calls."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _PARTS:
        return _PARTS[node.func.id](*(_literal(a) for a in node.args), **_keywords(node))
    if isinstance(node, ast.Tuple):
        return tuple(_literal(element) for element in node.elts)
    return ast.literal_eval(node)


def _keywords(call: ast.Call) -> dict[str, object]:
    return {k.arg: _literal(k.value) for k in call.keywords if k.arg is not None}


def read_card(path: Path) -> Card | None:
    """The card in one source file, or None when the file has none."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_card = (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "CARD"
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Name)
            and node.value.func.id == "Card"
        )
        if is_card:
            assert isinstance(node, ast.Assign)
            assert isinstance(node.value, ast.Call)
            return Card(**_keywords(node.value))  # type: ignore[arg-type]
    return None


@cache
def methods() -> dict[str, Card]:
    """Every method by key: ours by reading, those of other packages by entry point."""
    cards: dict[str, Card] = {}
    for path in sorted((Path(__file__).parent / "methods").glob("*.py")):
        card = read_card(path)
        if card is not None:
            if card.key in cards:
                raise DQVizError(
                    f"two methods are called '{card.key}'; the second is in {path.name}"
                )
            cards[card.key] = card
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        cards.setdefault(entry.name, entry.load().CARD)
    return cards


def load_method(key: str) -> ModuleType:
    """Import the module of one method."""
    if key not in methods():
        raise unknown("method", key, methods(), "List them: dqviz methods")
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.name == key:
            return entry.load()
    folder = Path(__file__).parent / "methods"
    name = next(
        p.stem for p in folder.glob("*.py") if (c := read_card(p)) is not None and c.key == key
    )
    return importlib.import_module(f".methods.{name}", __package__)
