"""What a page consists of: sections as plain JSON, which `ui/web/view.js` draws by setting text.

A section never holds markup. Names of models, classes and runs come from other people's files and
are drawn as text, whatever they contain.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Section = dict[str, Any]


@dataclass(frozen=True)
class View:
    """One page: its sections in order, and the study that the address shall name (None: leave it)."""

    sections: tuple[Section, ...]
    address: str | None = None

    def to_json(self) -> str:
        """JSON text for the browser; NaN and infinity are a mistake of ours and raise ValueError."""
        page: dict[str, Any] = {"sections": self.sections}
        if self.address is not None:
            page["address"] = self.address
        return json.dumps(page, allow_nan=False, separators=(",", ":"))

    def section(self, kind: str, title: str | None = None) -> Section:
        """The first section of a kind, or of that kind and title; KeyError when there is none."""
        for section in self.sections:
            if section["kind"] == kind and title in (None, section["title"]):
                return section
        raise KeyError(f"no section '{kind}' {title or ''}")


def badge(text: str, tone: str = "plain", title: str = "") -> dict[str, str]:
    """A small label; tones: plain, measured, simulated, warn."""
    return {"text": text, "tone": tone, "title": title}


def cell(text: str = "", sub: str = "", **more: Any) -> dict[str, Any]:
    """A table cell; `more` may hold run (its colour number), badge, title, words."""
    return {"text": text, "sub": sub, **more}


@dataclass(frozen=True)
class Column:
    """Heading of a table column."""

    label: str
    unit: str = ""
    hint: str = ""
    words: bool = False  # text to read, on the left, instead of figures on the right


def table(
    title: str,
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, Any]],
    *,
    lede: str = "",
    note: str = "",
    raw: Sequence[Mapping[str, Any]] = (),
    file: str = "table",
    details: Sequence[Mapping[str, Any]] = (),
) -> Section:
    """A table; `raw` holds the rows at full precision, for the CSV."""
    return {
        "kind": "table",
        "title": title,
        "lede": lede,
        "note": note,
        "columns": [vars(c) for c in columns],
        "rows": list(rows),
        "csv": to_csv(raw),
        "file": file,
        "details": list(details),
    }


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV text with a header; a text that a spreadsheet would compute gets a leading apostrophe."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _harmless(value) for name, value in row.items()})
    return out.getvalue()


def _harmless(value: object) -> object:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value
