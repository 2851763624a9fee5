"""Tables and figures as files: CSV with every digit, LaTeX as it is read, both with their source.

A text that comes from a model, a file or a person stays text: nothing of it is a formula to a
spreadsheet or a command to LaTeX.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """Where numbers come from; every exported file says it, and is named after it."""

    about: str  # what they are of: a model's key, a study
    recipe: str  # fingerprint of what made them
    evidence: tuple[str, ...]  # measured, simulated, predicted, recorded
    note: str = ""  # device, date, samples

    def stem(self, part: str) -> str:
        """Beginning of a file's name: what it is of, fingerprint, which part of it."""
        text = "-".join(word for word in (self.about, self.recipe, part) if word)
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in text)
        return safe.strip("-").lower() or "export"

    def sentence(self) -> str:
        """The source in words, for captions."""
        parts = [self.about, self.note, f"Recipe {self.recipe}" if self.recipe else ""]
        if self.evidence:
            parts.append(f"Evidence: {', '.join(self.evidence)}")
        return "".join(f"{part.rstrip('.')}. " for part in parts if part).rstrip()


def to_csv(rows: Sequence[Mapping[str, Any]], source: Source | None = None) -> str:
    """CSV text with a header; a text that a spreadsheet would compute gets a leading apostrophe.

    With a source, every row ends with its evidence and recipe, so that rows of several files can
    stand in one table.
    """
    if not rows:
        return ""
    if source is not None:
        said = {"evidence": "+".join(source.evidence), "recipe": source.recipe}
        rows = [{**row, **{k: row.get(k) or v for k, v in said.items()}} for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writerow({name: _harmless(name) for name in names})
    for row in rows:
        writer.writerow({name: _harmless(value) for name, value in row.items()})
    return out.getvalue()


def _harmless(value: object) -> object:
    """Only line feeds end lines: the csv module leaves a lone carriage return unquoted."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t") else text


# What LaTeX would read as something else, and signs that its fonts lack by default.
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "−": "$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\ldots{}",
    "\u202f": " ",
    "\u00a0": " ",
}


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is; control characters and line ends become spaces."""
    spaced = (" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
    return "".join(_LATEX.get(c, c) for c in spaced)


def to_latex(
    title: str,
    columns: Sequence[Mapping[str, Any]],
    rows: Iterable[Mapping[str, Any]],
    source: Source,
) -> str:
    r"""A booktabs table with the numbers as the page shows them; needs `\usepackage{booktabs}`.

    Args:
        title: what the table shows.
        columns: as in a table section: label, unit, words.
        rows: as in a table section: cells.
        source: said in the caption and in a comment.
    """
    shape = "".join(
        "p{0.35\\linewidth}" if c.get("words") else "r" if i else "l" for i, c in enumerate(columns)
    )
    caption = f"{title.rstrip('.')}. {source.sentence()}"
    head = [f"{c['label']} ({c['unit']})" if c.get("unit") else c["label"] for c in columns]
    body = [[latex_cell(cell, named=not i) for i, cell in enumerate(row["cells"])] for row in rows]
    lines = [
        f"% {escape_latex(source.sentence())}",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escape_latex(caption)}}}",
        f"\\label{{tab:{source.stem(title)}}}",
        f"\\begin{{tabular}}{{{shape}}}",
        r"\toprule",
        _latex_row([escape_latex(str(label)) for label in head]),
        r"\midrule",
        *(_latex_row(cells) for cells in body),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_cell(cell: Mapping[str, Any], named: bool = False) -> str:
    """What a cell says, in one line: `51.85 [51.2, 52.4], worst 38.6`, `14.54 (1.32× smaller)`.

    Args:
        cell: as in a table section.
        named: whether it names its row; then what stands below belongs to the name.
    """
    value, below = (str(cell.get(key) or "") for key in ("text", "sub"))
    badge = str((cell.get("badge") or {}).get("text") or "")
    if below and value and not named and not below.startswith("["):
        below = f"({below})"
    words = " ".join(word for word in (value, below) if word).replace(" · ", ", ")
    return escape_latex(", ".join(word for word in (words, badge) if word))


def _latex_row(cells: Sequence[str]) -> str:
    r"""A row; `\\[` and `\\*` would be read as options of the row before."""
    first, *others = cells
    guarded = f"{{}}{first}" if first.startswith(("[", "*")) else first
    return " & ".join([guarded, *others]) + r" \\"
