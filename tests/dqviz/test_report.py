"""The report: one file, no request to any host, the page's own sections, names as text."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqviz.cli import main
from dqviz.report import report_html, report_view, write_report
from dqviz.report.bundle import modules
from dqviz.study import NewRun, Study
from quant.errors import BadInput
from quant.schema import fingerprint
from tests.captures import write_capture

VOID = {"meta", "img", "br"}
NASTY = '<script>window.hacked = 1</script></script><img src=x onerror="window.hacked=1">${1}{{1}}'


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


@pytest.fixture
def own(tiny_study: Path, tmp_path: Path) -> Path:
    """A study of one's own."""
    copy = Path(shutil.copytree(tiny_study, tmp_path / "copy"))
    (copy / "report.html").unlink()
    return copy


def carried(text: str) -> dict[str, Any]:
    """The sections that a report holds."""
    found = re.search(r'<script type="application/json" id="view">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1], parse_constant=pytest.fail)


def test_it_asks_no_host(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert page.sources == []
    assert page.tags.count("script") == 4
    assert not {"link", "iframe", "base", "object"} & set(page.tags)
    assert "default-src 'none'" in text, "and the browser is told to refuse any"
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"@import|url\(", style)


def test_it_shows_what_the_page_shows(text: str) -> None:
    sections = {s["title"]: s for s in carried(text)["sections"]}
    assert list(sections)[1:] == [
        "Pictures",
        "Error along the trajectory",
        "Quality, size, time",
        "Pairs",
        "Yardstick",
        "Scope",
        "The same on the command line",
        "Make it again",
    ]
    images = sections["Pictures"]["images"]
    assert [len(run) for run in images] == [4, 4, 4]
    assert all(url.startswith("data:image/png;base64,") for run in images for url in run)
    assert json.loads(sections["Make it again"]["text"])[1]["fingerprint"]
    assert "simulated" in json.dumps(sections["Quality, size, time"])


def test_scripts_are_the_apps_own_with_all_that_they_import() -> None:
    carried_modules = modules("view.js")
    for name, url in carried_modules.items():
        source = base64.b64decode(url.partition(",")[2]).decode()
        assert not re.search(r'from\s*"\.', source), f"{name} imports a file"
        for wanted in re.findall(r'from "(dqviz/[^"]+)"', source):
            assert wanted in carried_modules


def hostile(folder: Path) -> Study:
    """A study whose every name is an attack."""
    model = {"key": NASTY, "title": NASTY, "fingerprint": "0", "classes": {"1": NASTY}}
    study = Study.create(folder, model, {NASTY: NASTY})
    number = study.begin({"model": NASTY}, {})
    record = {
        "name": "run",
        "title": NASTY,
        "method": "full-precision",
        "bits": None,
        "evidence": "measured",
        "backend": NASTY,
        "device": NASTY,
        "scope": {"quantized": [NASTY], "kept": {NASTY: NASTY}},
    }
    recipe = {"samples": [{"seed": 0, "class_id": 1}, {"seed": 1, "prompt": NASTY}]}
    pictures = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    for name in ("run", "other"):
        method = "full-precision" if name == "run" else NASTY
        run = NewRun(name, record | {"name": name, "method": method}, recipe, (0, 1), pictures)
        study.add_run(number, run)
    study.finish(number, "cancelled", notes={"warnings": [NASTY]})
    return study


def test_names_are_text(tmp_path: Path) -> None:
    text = report_html(hostile(tmp_path / "study"))
    page = Page(text)
    assert page.tags.count("script") == 4, "the page's own, none of theirs"
    assert "img" not in page.tags
    assert "&lt;script&gt;" in text[: text.index("<style>")]
    assert NASTY in json.dumps(carried(text), ensure_ascii=False).replace('\\"', '"')
    assert carried(text)["sections"][0]["badges"][0]["text"] == "cancelled"


def test_it_can_be_written_again(own: Path, text: str) -> None:
    file = write_report(Study.open(own))
    assert file == own / "report.html"
    assert file.read_text(encoding="utf-8") == text


def test_the_command_writes_a_file_and_nothing_over(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.html"
    assert main(["report", str(own), "--comparison", "1", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"report": str(out), "bytes": out.stat().st_size}
    assert main(["report", str(own), "--out", str(out)]) == 2
    assert "is not written over" in capsys.readouterr().err
    assert main(["report", str(own), "--comparison", "9"]) == 2
    assert "unknown comparison '9'" in capsys.readouterr().err
    assert not (own / "report.html").exists()


def test_a_read_only_study_wants_a_file(own: Path, tmp_path: Path) -> None:
    study = Study.open(own, read_only=True)
    with pytest.raises(BadInput, match="name a file"):
        write_report(study)
    assert write_report(study, None, tmp_path / "r.html").is_file()


def test_the_latest_capture_is_shown(own: Path, tmp_path: Path) -> None:
    study = Study.open(own)
    file = write_capture(tmp_path / "new.safetensors", stages=("input", "scaled"))
    study.add_capture("first", file, {}, record={"evidence": "recorded"})
    titles = [s["title"] for s in report_view(study).sections]
    at = titles.index("Activations: incoherence of every input at every step")
    assert titles[at - 1] == "Scope"
    assert titles[-2:] == ["The same on the command line", "Make it again"]
    heat, *histograms = report_view(study).sections[at : at + 4]
    recipe = fingerprint(dict(study.capture("first").manifest))
    assert heat["file"] == f"tiny-dit-{recipe}-incoherence"
    assert heat["source"]["evidence"] == "recorded"
    assert len({s["title"] for s in histograms}) == 3
    for section in histograms:
        assert section["csv"].splitlines()[0].startswith("from,to,count_input")
        assert section["figure"]["data"][0]["name"] == "input"


def test_it_says_which_samples_it_carries(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dqviz.report.MAX_SAMPLES", 3)
    view = report_view(Study.open(own))
    pictures = view.section("pictures")
    assert len(pictures["samples"]) == 3
    assert [len(images) for images in pictures["images"]] == [3, 3, 3]
    assert "first 3 of 4 samples" in pictures["lede"]
    assert view.section("headline")["facts"][0] == "4 samples"


def test_a_study_with_only_a_capture(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "study", {"key": "m", "fingerprint": "0"}, {})
    with pytest.raises(BadInput, match="no finished run"):
        report_view(study)
    study.add_capture("first", write_capture(tmp_path / "new.safetensors"), {})
    assert {s["kind"] for s in report_view(study).sections} == {"plot"}


def test_the_app_offers_a_report_also_where_none_is_written(own: Path) -> None:
    from dqviz.ui.library import Library

    library = Library(pinned=own)
    items = library.first_view(None).section("downloads")["items"]
    assert {"label": "Report (HTML)", "file": "report.html"} in items
    file = library.file({"study": own.name, "file": "report.html"})
    text = base64.b64decode(file["base64"]).decode()
    assert carried(text)["sections"][0]["kind"] == "headline"
    assert not (own / "report.html").exists(), "reading writes nothing"
