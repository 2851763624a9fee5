"""Modules that join a folder by existing: each states its card, which is read from source without importing it.

A file joins with one line `CARD = Kind(...)` of literal arguments, in which calls of `parts` may be nested.
Listing reads those with `ast`, so that the command line and the app know what there is in milliseconds and
without torch; `load` imports the one that is asked for.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Generic, Protocol, TypeVar

from .errors import DQVizError, unknown


class Keyed(Protocol):
    """A card: a frozen value with a key."""

    @property
    def key(self) -> str:
        """What it is asked for by."""
        ...


C = TypeVar("C", bound=Keyed)


class CardFiles(Generic[C]):
    """The files of one package that have a card of one kind."""

    def __init__(
        self,
        package: str,
        folder: Path,
        kind: type[C],
        noun: str,
        parts: Mapping[str, Callable[..., object]] | None = None,
    ) -> None:
        """`folder` holds the modules of `package`; `noun` is what errors call one of them."""
        self.package, self.folder, self.kind, self.noun = package, folder, kind, noun
        self.parts = parts or {}

    @property
    def cards(self) -> dict[str, C]:
        """Every card by key, in the order of the file names; imports none of the modules."""
        return {key: card for key, (_, card) in self._found.items()}

    def load(self, key: str) -> ModuleType:
        """Import the module of one key; BadInput where there is none."""
        if key not in self._found:
            raise unknown(self.noun, key, self._found)
        return importlib.import_module(f".{self._found[key][0]}", self.package)

    def read(self, path: Path) -> C | None:
        """The card in one source file, or None where there is none."""
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CARD":
                call = node.value
                if isinstance(call, ast.Call) and ast.unparse(call.func) == self.kind.__name__:
                    return self.kind(**self._keywords(call))
        return None

    @cached_property
    def _found(self) -> dict[str, tuple[str, C]]:
        """Module name and card by key."""
        found: dict[str, tuple[str, C]] = {}
        for path in sorted(self.folder.glob("*.py")):
            card = self.read(path)
            if card is not None and card.key in found:
                raise DQVizError(
                    f"two {self.noun}s are called '{card.key}'; the second is in {path.name}"
                )
            if card is not None:
                found[card.key] = path.stem, card
        return found

    def _keywords(self, call: ast.Call) -> dict[str, object]:
        return {k.arg: self._literal(k.value) for k in call.keywords if k.arg is not None}

    def _literal(self, node: ast.expr) -> object:
        """Literal value of an expression that may hold nested calls of parts."""
        if isinstance(node, ast.Call) and ast.unparse(node.func) in self.parts:
            made = self.parts[ast.unparse(node.func)]
            return made(*(self._literal(a) for a in node.args), **self._keywords(node))
        if isinstance(node, ast.Tuple):
            return tuple(self._literal(element) for element in node.elts)
        return ast.literal_eval(node)
