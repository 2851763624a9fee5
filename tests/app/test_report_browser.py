"""The report opened from a file in a browser: it draws itself and asks for nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dqviz.report import report_html, write_report
from dqviz.study import Study
from tests.captures import write_capture
from tests.dqviz.test_report import NASTY, hostile

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]


@pytest.fixture
def asked(new_page: Pages) -> Callable[..., tuple[Any, list[str]]]:
    """Opens a file; also returns every address that it asked for."""

    def open_file(file: Path, **how: Any) -> tuple[Any, list[str]]:
        page, addresses = new_page(**how), []
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector(".dq-headline")
        return page, addresses

    return open_file


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_it_draws_itself_and_asks_for_nothing(
    tiny_study: Path, tmp_path: Path, asked: Any, width: int, dark: bool
) -> None:
    study = Study.open(shutil.copytree(tiny_study, tmp_path / "copy"))
    study.add_capture("first", write_capture(tmp_path / "c.safetensors"), {"fingerprint": "0123"})
    file = write_report(study, None, tmp_path / "report.html")
    page, addresses = asked(file, width=width, dark=dark)
    page.wait_for_function("document.querySelectorAll('.dq-plot .main-svg').length >= 6")
    page.wait_for_selector(".dq-plot .scatterlayer .point")
    page.wait_for_selector(".dq-plot .heatmaplayer image")
    assert page.locator(".dq-tile:not(.dq-blank) img").count() == 12
    assert [a for a in addresses if not a.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert page.evaluate("document.body.classList.contains('dark')") is dark
    assert page.evaluate("document.documentElement.scrollWidth") <= width

    point = page.locator(".dq-plot .scatterlayer .point").first
    page.click(".dq-grid tbody tr:nth-child(2) td:nth-of-type(2) button")
    assert page.locator(".dq-loupebar select").first.input_value() == "1"
    point.scroll_into_view_if_needed()
    with page.expect_download() as download:
        page.locator("section", has_text="Yardstick").get_by_role("button", name="SVG").last.click()
    assert "<svg" in Path(download.value.path()).read_text()


def test_names_stay_text(tmp_path: Path, asked: Any) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_html(hostile(tmp_path / "study")), encoding="utf-8")
    page, _ = asked(file)
    assert page.evaluate("window.hacked") is None
    assert NASTY in page.inner_text(".dq-headline h2")
    assert page.locator("img[src=x]").count() == 0
