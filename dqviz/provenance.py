"""Whose `quant` and `kernels` would be imported: ours, or another distribution's of the same name.

The question is answered from the file that Python would import, without importing it: a foreign
package may be slow, or fail, when it is.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

NAMES = ("quant", "kernels")
_MARKER = re.compile(r"^DQVIZ\s*=\s*True\b", re.MULTILINE)


class ForeignPackage(ImportError):
    """A package of ours is shadowed by somebody else's."""


@dataclass(frozen=True)
class Origin:
    """Where a package comes from, and whether it is ours."""

    name: str
    path: str | None  # None: there is no such package at all
    ours: bool

    def sentence(self) -> str:
        """One line: what is wrong, whose path it is, how to mend it."""
        root = Path(__file__).parents[1]
        if self.path is None:
            return f"package '{self.name}' of DQ-Viz is missing; install again from {root}: pip install -e ."
        return (
            f"'{self.name}' would be imported from {self.path}, which is another project's package; "
            f"mend it: pip uninstall {self.name}, or start Python in {root}"
        )


def origin(name: str) -> Origin:
    """Where `name` is, or would be, imported from."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        path = getattr(loaded, "__file__", None) or next(
            iter(getattr(loaded, "__path__", ())), None
        )
        return Origin(name, path, bool(getattr(loaded, "DQVIZ", False)))
    spec = importlib.util.find_spec(name)
    if spec is None:
        return Origin(name, None, False)
    if spec.origin is None:  # a namespace package: a folder without __init__.py
        return Origin(name, next(iter(spec.submodule_search_locations or ()), None), False)
    source = Path(spec.origin)
    ours = source.suffix == ".py" and bool(_MARKER.search(source.read_text(encoding="utf-8")))
    return Origin(name, spec.origin, ours)


def foreign() -> list[Origin]:
    """The packages of ours that are shadowed or missing."""
    return [found for found in map(origin, NAMES) if not found.ours]


def require_ours() -> None:
    """Stop with `ForeignPackage` when a package of ours is shadowed or missing."""
    for found in foreign():
        raise ForeignPackage(found.sentence())
