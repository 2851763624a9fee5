"""Files that tables and figures leave as: every digit, nothing that is read as a command, a source."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqviz.pages import compare
from dqviz.pages.exports import Source, escape_latex, latex_cell, to_csv, to_latex
from dqviz.pages.view import Column, cell, plot, table

SOURCE = Source("dit-emoji", "0123abcd", ("simulated", "measured"), "24 samples; 2026-01-02")
LATEX_SPECIALS = set("\\{}$&#%_^~")

# How LaTeX reads back what `escape_latex` writes.
READ = {
    r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~",
    r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", r"\textquotedbl{}": '"',
    r"\textasciigrave{}": "`", r"\textendash{}": "–", r"\textemdash{}": "—", r"\ldots{}": "…",
    r"\{": "{", r"\}": "}", r"\$": "$", r"\&": "&", r"\#": "#", r"\%": "%", r"\_": "_",
    "$-$": "−", r"$\times$": "×", r"$\cdot$": "·", r"$\pm$": "±", r"$\leq$": "≤", r"$\geq$": "≥",
}  # fmt: skip
TOKEN = re.compile("|".join(re.escape(t) for t in sorted(READ, key=len, reverse=True)))


def read_back(latex: str) -> str:
    """What LaTeX sets for an escaped text; fails at a special that is left."""
    pieces, at = [], 0
    for match in TOKEN.finditer(latex):
        plain = latex[at : match.start()]
        assert not LATEX_SPECIALS & set(plain), latex
        pieces += [plain, READ[match[0]]]
        at = match.end()
    assert not LATEX_SPECIALS & set(latex[at:]), latex
    return "".join([*pieces, latex[at:]])


TEXTS = st.text(
    st.one_of(
        st.sampled_from("\\{}$&#%_^~<>|\"`−×·[*=+-@,;\n\t'"),
        st.characters(exclude_categories=("Cs",)),
    ),
    max_size=30,
)


@given(TEXTS)
def test_latex_sets_a_text_as_it_is(text: str) -> None:
    spaced = re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202f\u00a0]", " ", text)
    assert read_back(escape_latex(text)) == spaced


def test_the_check_of_latex_can_fail() -> None:
    for wrong in ("50 %", "a_b", r"\input{x}"):
        with pytest.raises(AssertionError):
            read_back(wrong)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5))
def test_a_latex_table_has_a_row_per_row_whatever_the_names(
    rows: list[tuple[str, str, str]],
) -> None:
    columns = [vars(Column("Run")), vars(Column("PSNR", "dB"))]
    cells = [{"cells": [cell(a), cell(b, c)]} for a, b, c in rows]
    text = to_latex("Quality", columns, cells, SOURCE)
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == len(rows)
    for line, (a, b, c) in zip(body, rows):
        assert line.endswith(r" \\")
        assert not line.startswith(("[", "*")), r"`\\[` would be an option of the row before"
        first, second = re.split(r"(?<!\\) & ", line.removesuffix(r" \\"), maxsplit=1)
        assert first.removeprefix("{}") == escape_latex(a)
        assert second == latex_cell(cell(b, c))


def test_a_latex_table_is_booktabs_and_says_its_source() -> None:
    columns = [Column("Run"), Column("PSNR", "dB"), Column("Why", words=True)]
    rows = [{"cells": [cell("RTN"), cell("51.85", "[51.2, 52.4]"), cell("50 % & more")]}]
    text = table("Quality", columns, rows, source=SOURCE, part="metrics")["latex"]
    assert text == (
        "% dit-emoji. 24 samples; 2026-01-02. Recipe 0123abcd. Evidence: simulated, measured.\n"
        "\\begin{table}\n\\centering\n"
        "\\caption{Quality. dit-emoji. 24 samples; 2026-01-02. Recipe 0123abcd. "
        "Evidence: simulated, measured.}\n"
        "\\label{tab:dit-emoji-0123abcd-quality}\n"
        "\\begin{tabular}{lrp{0.35\\linewidth}}\n\\toprule\n"
        "Run & PSNR (dB) & Why \\\\\n\\midrule\n"
        "RTN & 51.85 [51.2, 52.4] & 50 \\% \\& more \\\\\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def test_a_badge_is_read_after_its_number() -> None:
    lossless = {"text": "lossless here", "tone": "measured", "title": ""}
    assert latex_cell(cell("51.8", "[51, 52] · worst 38", badge=lossless)) == (
        "51.8 [51, 52], worst 38, lossless here"
    )


@given(TEXTS, TEXTS)
def test_a_cell_loses_no_word(value: str, below: str) -> None:
    said = read_back(latex_cell(cell(value, below)))
    for part in (value, below):
        spaced = re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202f\u00a0]", " ", part)
        assert spaced.replace(" · ", ", ") in said.replace(" · ", ", ")


def test_what_stands_below_is_an_interval_a_remark_or_part_of_a_name() -> None:
    assert latex_cell(cell("14.54", "1.32× smaller")) == r"14.54 (1.32$\times$ smaller)"
    assert latex_cell(cell("–", "reference")) == r"\textendash{} (reference)"
    assert latex_cell(cell("RTN", "W4A8"), named=True) == "RTN W4A8"


VALUES = st.one_of(
    st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS
)


@given(st.lists(st.dictionaries(st.sampled_from(("name", "a,b", "=x")), VALUES), max_size=5))
def test_csv_reads_back_with_every_digit_and_its_source(rows: list[dict[str, Any]]) -> None:
    text = to_csv(rows, SOURCE)
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(found) == len(rows)
    for row, read in zip(rows, found):
        assert (read["evidence"], read["recipe"]) == ("simulated+measured", "0123abcd")
        for name, value in row.items():
            said = read["'=x" if name == "=x" else name]
            if isinstance(value, float):
                assert float(said) == value
            elif isinstance(value, str):
                text = value.replace("\r\n", "\n").replace("\r", "\n")
                assert said in (text, f"'{text}")
                assert not said.startswith(("=", "+", "-", "@", "\t", "\r"))
            else:
                assert said == ("" if value is None else str(value))


def test_a_row_keeps_its_own_evidence() -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv([{"evidence": "predicted"}], SOURCE)))
    assert row["evidence"] == "predicted"


@given(TEXTS, TEXTS)
def test_file_names_hold_the_fingerprint_and_nothing_else_that_matters(
    about: str, part: str
) -> None:
    stem = Source(about, "0123abcd", ()).stem(part)
    assert "0123abcd" in stem
    assert re.fullmatch(r"[a-z0-9_-]+", stem)


def test_every_table_and_figure_of_a_comparison_can_be_taken_along(
    result: dict[str, Any], drifts: dict[str, Any]
) -> None:
    sections = compare.render(result, {}, drifts).sections
    taken = [s for s in sections if s["kind"] in ("table", "plot")]
    assert len(taken) == 5
    for section in taken:
        assert result["fingerprint"] in section["file"]
        assert result["fingerprint"] in section["source"]["sentence"]
        assert "simulated" in section["source"]["sentence"]
        for row in csv.DictReader(io.StringIO(section["csv"])):
            assert row["recipe"] == result["fingerprint"]
        if section["kind"] == "table":
            assert f"Recipe {result['fingerprint']}" in section["latex"]


def test_a_table_without_a_source_is_not_exported() -> None:
    section = table("t", [Column("a")], [{"cells": [cell("x")]}])
    assert (section["csv"], section["latex"], section["file"]) == ("", "", "")


def test_a_figure_without_rows_of_its_own_leaves_them_to_the_browser() -> None:
    section = plot("t", {"data": []}, alt="", height=1, source=SOURCE, part="heat")
    assert section["csv"] == ""
    assert section["file"] == "dit-emoji-0123abcd-heat"
