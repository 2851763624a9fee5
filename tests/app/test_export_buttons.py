"""The buttons that take a table or figure along, in a browser: what the files hold."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from dqviz.pages.exports import Source
from dqviz.pages.view import plot
from tests.app.conftest import Served
from tests.app.test_browser import opened, run_to_end

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]
SVG = "{http://www.w3.org/2000/svg}"


def downloaded(page: Any, section: str, button: str) -> tuple[str, str]:
    """Name and text of what a button of a section gives."""
    with page.expect_download() as download:
        card = page.locator("section.dq-card", has=page.get_by_role("heading", name=section))
        card.get_by_role("button", name=button).click()
    file = download.value
    return file.suggested_filename, Path(file.path()).read_text(encoding="utf-8")


@pytest.mark.parametrize("dark", [False, True])
def test_files_hold_numbers_and_source(serve: Serve, new_page: Pages, dark: bool) -> None:
    served = serve()
    page = opened(new_page(dark=dark), served)
    run_to_end(page)
    page.wait_for_selector(".dq-plot .scatterlayer")

    name, text = downloaded(page, "Quality, size, time", "CSV")
    stem, _, ending = name.rpartition("-metrics.")
    recipe = stem.rpartition("-")[2]
    assert (len(recipe), ending) == (16, "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["method"] for row in rows] == ["full-precision", "rtn", "viditq"]
    assert {row["recipe"] for row in rows} == {recipe}
    assert {row["evidence"] for row in rows[1:]} == {"simulated"}

    name, text = downloaded(page, "Quality, size, time", "LaTeX")
    assert name == f"{stem}-metrics.tex"
    assert "\\toprule" in text
    assert f"Recipe {recipe}. Evidence: measured, simulated." in text

    name, text = downloaded(page, "Yardstick", "SVG")
    assert name == f"{stem}-yardstick.svg"
    svg = ElementTree.fromstring(text)
    assert svg.findtext(f"{SVG}title") == "Yardstick"
    assert recipe in (svg.findtext(f"{SVG}desc") or "")
    assert "PSNR to full precision" in "".join(svg.itertext())
    assert "rgb(23, 33, 43)" in text, "ink for paper, also while the page is dark"

    name, text = downloaded(page, "Error along the trajectory", "CSV")
    assert name == f"{stem}-trajectory.csv"
    assert recipe in text.splitlines()[1]


def test_a_figure_writes_down_what_it_holds(serve: Serve, new_page: Pages) -> None:
    packed = np.array([[1.5, 2.0], [3.0, 4.0]], np.float32)
    figure = {
        "layout": {},
        "data": [
            {"type": "scatter", "name": "=a,b", "x": [1, 2], "y": [0.1, None]},
            {
                "type": "heatmap",
                "x": ["left", "right"],
                "z": {"dtype": "f4", "shape": "2, 2", "bdata": _base64(packed)},
            },
        ],
    }
    source = Source("m", "0123abcd", ("recorded",))
    section = plot("t", figure, alt="", height=100, source=source, part="p")
    page = opened(new_page(), serve())
    text = page.evaluate(
        "async s => (await import(new URL('web/exports.js', document.baseURI))).figureCsv(s)",
        section,
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["trace"], r["x"], r["y"], r["z"]) for r in rows] == [
        ("'=a,b", "1", "0.1", ""),
        ("'=a,b", "2", "", ""),
        ("heatmap 2", "left", "0", "1.5"),
        ("heatmap 2", "right", "0", "2"),
        ("heatmap 2", "left", "1", "3"),
        ("heatmap 2", "right", "1", "4"),
    ]
    assert {(r["evidence"], r["recipe"]) for r in rows} == {("recorded", "0123abcd")}


def _base64(values: np.ndarray) -> str:
    import base64

    return base64.b64encode(values.tobytes()).decode()
