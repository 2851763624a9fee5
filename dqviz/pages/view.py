"""What a page consists of: sections as plain JSON, which `ui/web/view.js` draws by setting text.

A section never holds markup. Names of models, classes and runs come from other people's files and
are drawn as text, whatever they contain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .exports import Source, to_csv, to_latex

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


def synthetic(described: Mapping[str, Any]) -> str:
    """What is said of everything made on a model with synthetic outliers; empty for any other.

    `described` is a study's model, a run's record or a capture's.
    """
    outliers = described.get("outliers")
    if not outliers:
        return ""
    return f"synthetic outliers ({outliers['kind']} x{outliers['factor']:g})"


def synthetic_badges(described: Mapping[str, Any]) -> list[dict[str, str]]:
    """The same as a badge, where there is anything to say."""
    hint = "large layer inputs were put into this model, which computes the same as before"
    return [badge("synthetic outliers", "warn", hint)] if synthetic(described) else []


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
    source: Source | None = None,
    part: str = "table",
    details: Sequence[Mapping[str, Any]] = (),
) -> Section:
    """A table; with a source it can be taken along, as CSV and LaTeX.

    Args:
        raw: the rows at full precision, for the CSV.
        source: where the numbers come from; None: this table is not exported.
        part: which part of that it is, for the names of files.
        details: lists to unfold below: summary, lines.
    """
    heads = [vars(c) for c in columns]
    return {
        "kind": "table",
        "title": title,
        "lede": lede,
        "note": note,
        "columns": heads,
        "rows": list(rows),
        "details": list(details),
        **_exports(source, part, raw),
        "latex": to_latex(title, heads, rows, source) if source and rows else "",
    }


def plot(
    title: str,
    figure: Mapping[str, Any],
    *,
    alt: str,
    height: int,
    source: Source,
    part: str,
    lede: str = "",
    raw: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> Section:
    """A figure in Plotly's schema; it can be taken along as SVG and CSV.

    Args:
        alt: the figure in words.
        height: pixels.
        source: where the numbers come from.
        part: which part of that it is, for the names of files.
        raw: rows for the CSV; without them the browser writes down what the figure holds.
        more: further keys for the drawer: narrow, readout.
    """
    return {
        "kind": "plot",
        "title": title,
        "lede": lede,
        "alt": alt,
        "figure": figure,
        "height": height,
        **_exports(source, part, raw),
        **more,
    }


def _exports(source: Source | None, part: str, raw: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the buttons of a section need."""
    if source is None:
        return {"file": "", "source": None, "csv": ""}
    return {
        "file": source.stem(part),
        "source": {
            "recipe": source.recipe,
            "evidence": "+".join(source.evidence),
            "sentence": source.sentence(),
        },
        "csv": to_csv(raw, source),
    }
