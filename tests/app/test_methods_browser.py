"""The Methods page in a headless Chromium: clicks that set alpha, thresholds, keys, names as text, accessibility."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from dqviz.study_folder import studies_root
from tests import probes
from tests.app.accessibility import violations
from tests.app.conftest import Served
from tests.captures import write_capture

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]
NASTY = "<img src=x onerror='window.hacked=1'>${window.hacked=1}"
ATTENTION, FC2 = "transformer_blocks.0.attn1", "transformer_blocks.0.ff.net.2"
DRAWN = "count => [...document.querySelectorAll('.dq-views .dq-plot')].filter(p => p._fullLayout?.yaxis?._length).length >= count"  # fmt: skip
# Pixel of a point of a plot: x in the units of its axis, y a share of its height.
PIXEL = """([selector, x, y]) => {
  const gd = document.querySelectorAll(selector.split('@')[0])[Number(selector.split('@')[1])];
  gd.scrollIntoView({ block: 'center' });
  const box = gd.getBoundingClientRect(), { xaxis, yaxis } = gd._fullLayout;
  return [box.left + xaxis._offset + xaxis.l2p(x), box.top + yaxis._offset + y * yaxis._length];
}"""


@pytest.fixture
def served(serve: Serve) -> Served:
    found = serve()
    study = probes.study_with_probes(studies_root() / "mine", alpha=probes.alpha(count=2, rotation="blocks"), rotation=probes.rotation(), options={"windows": 2}, model={"title": NASTY})  # fmt: skip
    file = write_capture(study.folder / "new.safetensors", stages=("input", "rotated"))
    study.add_capture("trdq-w4a8", file, {}, method="trdq", bits="w4a8", record={"method": "trdq", "samples": 2})  # fmt: skip
    for name in ("alpha",):
        record = {**study.probes()[0]["record"], "method": "viditq"}
        study.add_probe("viditq-w4a8-alpha", probes.alpha(), {}, probe=name, method="viditq", bits="w4a8", record=record)  # fmt: skip
    return found


def opened(page: Any, served: Served, query: str = "&method=trdq", plots: int = 6) -> Any:
    page.goto(f"{served.url}methods?study=mine{query}")
    page.wait_for_function(DRAWN, arg=plots)
    return page


def asked(page: Any) -> dict[str, str]:
    return {k: v[0] for k, v in parse_qs(urlparse(page.url).query).items()}


def click(page: Any, selector: str, x: float, y: float) -> None:
    page.mouse.click(*page.evaluate(PIXEL, [selector, x, y]))


def wait_options(page: Any, words: str) -> None:
    page.wait_for_function("words => document.querySelector('[data-view=alpha] .dq-options')?.textContent === words", arg=words)  # fmt: skip


def test_a_click_sets_alpha_for_all_a_kind_or_one_input(served: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), served)
    view = page.locator("[data-view=alpha]")
    page.wait_for_timeout(300)
    click(page, "[data-view=alpha] .dq-plot@1", 0.12, 0.5)
    wait_options(
        page, f'alpha={{"{ATTENTION}":0.1}}'
    )  # only what was clicked, unless more is asked for
    page.wait_for_function(DRAWN, arg=6)
    view.get_by_role("button", name="all inputs (").click()
    click(page, "[data-view=alpha] .dq-plot@1", 0.31, 0.5)
    wait_options(page, "alpha=0.3")
    assert asked(page)["alphas"] == "*:0.3"
    page.wait_for_function(DRAWN, arg=6)
    view.get_by_role("button", name="all self q k v (2)").click()
    click(page, "[data-view=alpha] .dq-plot@1", 0.69, 0.5)
    wait_options(page, 'alpha={"transformer_blocks.*.attn1":0.7,"*":0.3}')
    # On the map of all inputs a cell is an input and an alpha.
    page.wait_for_function(DRAWN, arg=6)
    view.get_by_role("button", name="this input").click()
    page.wait_for_timeout(300)
    click(page, "[data-view=alpha] .dq-plot@0", 9, 0.4)
    wait_options(page, f'alpha={{"{FC2}":0.9,"transformer_blocks.*.attn1":0.7,"*":0.3}}')
    assert asked(page)["site"] == FC2
    link = view.get_by_role("link", name="Open in Compare").get_attribute("href")
    page.goto(served.url + link.removeprefix("./"))
    page.wait_for_function("document.querySelector('#dq-line')?.textContent.includes('trdq.alpha')")
    assert f'"{FC2}": 0.9' in page.inner_text("#dq-line")
    page.go_back()
    wait_options(page, f'alpha={{"{FC2}":0.9,"transformer_blocks.*.attn1":0.7,"*":0.3}}')
    view.get_by_role("button", name="Search alpha of all inputs again").click()
    wait_options(page, "none: as the method is by default")
    view.get_by_role("button", name="Undo the last setting of alpha").click()
    wait_options(page, f'alpha={{"{FC2}":0.9,"transformer_blocks.*.attn1":0.7,"*":0.3}}')


def test_alpha_is_set_by_keys_too(served: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), served, "&method=viditq", 3)
    view = page.locator("[data-view=alpha]")
    view.get_by_role("button", name="all inputs (").press("Enter")
    view.get_by_label("Alpha", exact=True).select_option("0.8")
    view.get_by_role("button", name="Set alpha").press("Enter")
    wait_options(page, "alpha=0.8")
    view.get_by_role("button", name="Search alpha of all inputs again").press("Enter")
    wait_options(page, "none: as the method is by default")
    page.get_by_role("button", name="Next input").press("Enter")
    page.wait_for_function("name => new URL(location.href).searchParams.get('site') === name", arg=FC2)  # fmt: skip


def test_thresholds_mark_what_to_balance_and_come_out_as_options(served: Served, new_page: Pages) -> None:  # fmt: skip
    page = opened(new_page(1440), served, "&method=viditq", 3)
    view = page.locator("[data-view=incoherence]")
    inputs = view.locator("details tbody tr").count()
    view.get_by_label("Incoherence above").fill("1")
    assert view.locator(".dq-marked strong").inner_text() == f"{inputs} of the {inputs} inputs in this capture to balance"  # fmt: skip
    assert view.locator(".dq-options").inner_text() == "transform=incoherence psi=1"
    most = view.get_by_label("Incoherence above").get_attribute("max")
    view.get_by_label("Incoherence above").fill(most)
    view.get_by_label("Largest over smallest").fill("4")
    assert (
        view.locator(".dq-marked strong").inner_text()
        == f"0 of the {inputs} inputs in this capture to balance"
    )
    page.wait_for_function("new URL(location.href).searchParams.get('change') === '4'")
    page.reload()
    page.wait_for_function(DRAWN, arg=3)
    assert view.get_by_label("Largest over smallest").input_value() == "4"


def test_a_cell_of_the_rotation_map_chooses_input_and_window(served: Served, new_page: Pages) -> None:  # fmt: skip
    page = opened(new_page(1440), served)
    page.wait_for_timeout(300)
    click(page, "[data-view=rotation] .dq-plot@0", 1, 0.4)
    page.wait_for_function("document.querySelector('.dq-methods').dataset.shown === 'trdq:transformer_blocks.0.ff.net.2@1'")  # fmt: skip
    assert "steps 4 to 7" in page.inner_text("[data-view=rotation] .dq-rotation > .dq-lede")
    pressed = page.locator("[aria-label='Window of steps'] [aria-pressed=true]")
    assert pressed.inner_text() == "steps 4 to 7"
    assert asked(page)["window"] == "1"


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1440, True)])
def test_it_fits_is_accessible_and_titles_are_text(
    width: int, dark: bool, served: Served, new_page: Pages
) -> None:
    page = opened(new_page(width, dark), served, "&method=trdq&alphas=*:0.3")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert violations(page) == []
    assert page.inner_text(".dq-headline h2") == NASTY
    assert page.evaluate("window.hacked === undefined")
