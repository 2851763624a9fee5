"""What the Methods page is a view of: all that its link names, checked against the study.

A link comes from anywhere: what it names and the study lacks is left out, with a sentence that says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .opened import Opened


@dataclass(frozen=True)
class Selection:
    """One input and window, and what views keep in the address for themselves."""

    site: str  # name of the input; empty where there is none
    window: int
    values: Mapping[str, str] = field(default_factory=dict)

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number of the address, held between two others; the default where it is none."""
        try:
            value = float(self.values.get(key, default))
        except ValueError:
            return default
        return min(max(value, low), high) if math.isfinite(value) else default

    def one_of(self, key: str, allowed: Iterable[str], default: str) -> str:
        """A word of the address, if it is among those allowed."""
        value = self.values.get(key, default)
        return value if value in list(allowed) else default

    def to_json(self) -> dict[str, Any]:
        """As in a link."""
        return {"site": self.site, "window": self.window, **self.values}


def select(
    query: Mapping[str, Any], opened: Opened, keys: Iterable[str]
) -> tuple[Selection, list[str]]:
    """The selection that a link asks for, and a sentence for each part of it that cannot be had.

    Args:
        query: what the link says.
        opened: the study.
        keys: that views keep in the address; their values are checked by the views.
    """
    notes: list[str] = []
    names = [e.name for e in opened.inputs]
    site = names[0] if names else ""
    wanted = query.get("site")
    if isinstance(wanted, str) and wanted in names:
        site = wanted
    elif wanted and names:
        notes.append(f"Input {_quoted(wanted)} is not in this study; showing {opened.labels[site]}.")  # fmt: skip
    count = len(opened.windows)
    try:
        window = int(query.get("window") or 0)
    except (TypeError, ValueError):
        window = -1
    if not 0 <= window < max(count, 1):
        notes.append(f"Window {_quoted(query.get('window'))} is not one of the {count}; showing the first.")  # fmt: skip
        window = 0
    values = {k: str(query[k])[:2000] for k in keys if isinstance(query.get(k), (str, int, float))}
    return Selection(site, window, values), notes


def _quoted(value: object) -> str:
    text = str(value) if isinstance(value, (str, int, float)) else type(value).__name__
    printable = "".join(c if c.isprintable() else "?" for c in text[:60])
    return f"'{printable}{'…' if len(text) > 60 else ''}'"
