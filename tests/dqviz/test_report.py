"""The report: one file, no request to any host, names as text, every number labelled."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from dqviz.report import report_html, write_report
from dqviz.study import NewRun, Study

VOID = {"meta", "img", "br", "rect", "polyline"}


class Page(HTMLParser):
    """Collects what a browser would load, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(tiny_study: Path) -> str:
    return (tiny_study / "report.html").read_text(encoding="utf-8")


def test_it_asks_no_host(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "iframe", "base"} & set(page.tags)
    assert not re.search(r"@import|url\(|https?://(?!arxiv\.org)", text)


def test_it_shows_every_picture_and_table(text: str) -> None:
    page = Page(text)
    assert page.tags.count("img") == 3 * 4
    assert page.tags.count("svg") == 2
    for part in ("RTN w4a4", "ViDiT-Q w4a4", "Yardstick ladder", "starting noise", "Scope"):
        assert part in text
    assert "dqviz compare" in text
    assert "prefers-color-scheme:dark" in text


def test_every_run_says_what_its_numbers_are(text: str) -> None:
    assert "simulated" in text
    assert "measured" in text
    assert "95 % bootstrap intervals" in text


def test_names_are_text(tmp_path: Path) -> None:
    nasty = '<script>alert("x")</script>'
    model = {"key": nasty, "title": nasty, "fingerprint": "0", "classes": {"1": nasty}}
    study = Study.create(tmp_path / "study", model, {nasty: nasty})
    number = study.begin({"model": nasty}, {})
    record = {
        "name": "run",
        "title": nasty,
        "method": "full-precision",
        "bits": None,
        "evidence": "measured",
        "backend": nasty,
        "device": nasty,
        "scope": {"quantized": [nasty], "kept": {nasty: nasty}},
    }
    recipe = {"samples": [{"seed": 0, "class_id": 1}, {"seed": 1, "prompt": nasty}]}
    pictures = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    for name in ("run", "other"):
        run = NewRun(name, record | {"name": name}, recipe, (0, 1), pictures)
        study.add_run(number, run)
    study.finish(number, "cancelled", notes={"warnings": [nasty]})

    text = report_html(study)
    page = Page(text)
    assert "script" not in page.tags
    assert "&lt;script&gt;" in text
    assert "was cancelled" in text


def test_it_can_be_written_again(tiny_study: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(tiny_study, tmp_path / "copy"))
    (copy / "report.html").unlink()
    file = write_report(Study.open(copy))
    assert file == copy / "report.html"
    assert file.stat().st_size > 10_000
