"""Views of what was learned in a headless Chromium: they follow a log that grows, clicks choose layers, names are text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from dqviz.study import Study
from dqviz.study_folder import studies_root
from tests import learners
from tests.app.accessibility import violations
from tests.app.conftest import Served
from tests.app.test_methods_browser import DRAWN, NASTY, click
from tests.captures import write_capture

pytestmark = pytest.mark.browser

DRAWN_STEPS = "count => new Set(document.querySelector('[data-view=learning] .dq-plot').data?.[0].x).size === count"  # fmt: skip
HINTED = """narrow => {
  const found = [...document.querySelectorAll('.dq-learned details')].map((d) => {
    const scroll = d.querySelector('.dq-scroll');
    return [scroll.previousElementSibling.hidden, scroll.scrollWidth <= scroll.clientWidth];
  });
  return found.length > 2 && found.every(([hidden, fits]) => hidden === fits) && found.some(([hidden]) => !hidden) === narrow;
}"""
Pages = Callable[..., Any]
LAYERS = [f"{n} {NASTY}" if i == 1 else n for i, n in enumerate(learners.LAYERS)]


@pytest.fixture
def served(serve: Callable[..., Served]) -> Iterator[Served]:
    root = studies_root()
    root.mkdir(parents=True)
    with learners.registered():
        measures = lambda k: learners.vectors(LAYERS, k / 24)  # noqa: E731
        learners.study_with_learning(root / "vectors", measures, model={"title": NASTY})
        for name, mode in (("wander-w4a16", "separate"), ("wander-w4a16-2", "joint")):
            learners.study_with_learning(
                root / "units",
                lambda k, mode=mode: learners.units(2, k / 24, mode, channels=24),
                name=name,
                options={"mode": mode},
                label=NASTY,
            )
        file = write_capture(root / "units" / "new.safetensors")
        Study.open(root / "units").add_capture("plain", file, {}, record={"samples": 2})
        yield serve()


def opened(page: Any, served: Served, study: str, plots: int, query: str = "") -> Any:
    page.goto(f"{served.url}methods?study={study}&method=wander{query}")
    page.wait_for_function(DRAWN, arg=plots)
    return page


def asked(page: Any, key: str) -> str | None:
    return parse_qs(urlparse(page.url).query).get(key, [None])[0]


def test_a_click_on_a_map_chooses_the_layer_in_every_view(served: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), served, "vectors", 8)
    page.wait_for_selector("[data-view=codewords] .dq-plot[data-clicks=heard]")
    click(page, "[data-view=codewords] .dq-plot@0", 2, 0.75)
    page.wait_for_function("name => [...document.querySelectorAll('[data-view] select[aria-label=Layer]')].every(s => s.value === name)", arg=LAYERS[6])  # fmt: skip
    assert asked(page, "layer") == LAYERS[6]
    assert "Codewords of block 1 · ff.net.2" in page.inner_text("[data-view=codewords]")
    page.reload()
    page.wait_for_function(DRAWN, arg=8)
    assert page.locator("[data-view=ranks] select").input_value() == LAYERS[6]
    decided = page.locator("[data-view=decisions]")
    decided.get_by_role("button", name="entropy, nats").press("Enter")
    page.wait_for_function("new URL(location.href).searchParams.get('decided') === 'entropy'")
    page.wait_for_function("document.activeElement.textContent === 'entropy, nats'")
    assert page.evaluate("window.hacked") is None
    assert page.locator("[data-view] img").count() == 0


def test_curves_follow_a_log_that_grows_and_views_appear(served: Served, new_page: Pages) -> None:
    folder = studies_root() / "vectors"
    file = folder / "learning" / "wander-w4a16.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if '"measures"' in line)
    file.write_text("".join(lines[:first]))
    page = opened(new_page(1440), served, "vectors", 1)
    assert page.locator(".dq-learned").count() == 1
    assert page.get_attribute(".dq-methods", "data-live") == "true"
    assert "of 24, running" in page.inner_text("[data-view=learning]")
    file.write_text("".join(lines[: len(lines) // 2]))
    page.wait_for_function("document.querySelectorAll('.dq-learned').length === 5")
    page.wait_for_function(DRAWN, arg=8)
    file.write_text("".join(lines))
    page.wait_for_function("document.querySelector('.dq-methods').dataset.live === 'false'")
    page.wait_for_function("document.querySelector('[data-view=learning]').textContent.includes('of 24, done')")  # fmt: skip
    page.wait_for_function(DRAWN_STEPS, arg=24)


def test_while_it_is_live_the_figure_and_what_is_unfolded_stay(served: Served, new_page: Pages) -> None:  # fmt: skip
    file = studies_root() / "vectors" / "learning" / "wander-w4a16.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[: len(lines) // 2]))
    page = opened(new_page(1440), served, "vectors", 8)
    page.locator("[data-view=ranks] details summary").click()
    page.evaluate("window.kept = document.querySelector('[data-view=learning] .dq-plot')")
    file.write_text("".join(lines[:-4]))
    steps = str(sum('"losses"' in line for line in lines[:-4]))
    page.wait_for_function("steps => document.querySelector('[data-view=learning] dd').textContent.startsWith(steps)", arg=steps)  # fmt: skip
    page.wait_for_function(DRAWN_STEPS, arg=int(steps))
    assert page.evaluate("window.kept.isConnected")
    assert page.locator("[data-view=ranks] details").get_attribute("open") is not None


def test_two_runs_are_chosen_and_set_beside_one_another(served: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), served, "units", 7)
    units = page.locator("[data-view=units]")
    assert "joint leaves 11.1 % less error than separate" in units.inner_text()
    units.get_by_role("button", name="nothing").click()
    page.wait_for_function("document.querySelectorAll('[data-view=units] .dq-plot').length === 1")
    page.locator("[data-view=learning]").get_by_role("button", name="mode=separate").click()
    page.wait_for_function("new URL(location.href).searchParams.get('run') === 'wander-w4a16'")
    page.wait_for_function("document.querySelector('[data-view=units]').textContent.includes('separate: 10 % less')")  # fmt: skip


def test_without_a_learning_the_page_leads_to_compare(served: Served, new_page: Pages) -> None:
    page = new_page(1440)
    page.goto(f"{served.url}methods?study=vectors&method=wander&bits=w4a8")
    page.wait_for_selector(".dq-learned .dq-commandline")
    assert "--method wander --bits w4a8" in page.inner_text(".dq-learned .dq-commandline")
    page.get_by_role("link", name="Set it up on the Compare page").click()
    page.wait_for_function("document.querySelector('#dq-line')?.textContent.includes('wander')")
    assert "w4a8" in page.inner_text("#dq-line")


COVERED = """() => {
  const plot = document.querySelector('[data-view=units] .dq-plot');
  const box = (at) => plot.querySelector(at).getBoundingClientRect();
  const scrolled = [...plot.querySelectorAll('.legend .scrollbar')].some((bar) => bar.getBoundingClientRect().height > 1);
  const frame = plot.querySelector('.main-svg').getBoundingClientRect();
  const names = [...plot.querySelectorAll('.legendtext')].map((name) => name.getBoundingClientRect());
  const out = names.some((name) => name.left < frame.left || name.right > frame.right || name.top < frame.top);
  const squeezed = plot._fullLayout._size.w < frame.width / 3;
  return [names.length, scrolled, out, squeezed, Math.max(...names.map((name) => name.bottom)) > box('.ytick').top, box('.xtick').bottom > box('.xtitle').top];
}"""


@pytest.mark.parametrize("width", [1440, 390])
def test_the_legend_of_a_few_units_is_read_beside_their_rows(
    served: Served, new_page: Pages, width: int
) -> None:
    file = studies_root() / "units" / "learning" / "wander-w4a16-2.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    few = next(i for i, line in enumerate(lines) if "measures" in line and len(json.loads(line)["measures"]["units"]) == 3)  # fmt: skip
    file.write_text("".join(lines[: few + 1]))
    page = opened(new_page(width), served, "units", 6, "&against=-")
    assert page.evaluate(COVERED) == [3, False, False, False, False, False]


@pytest.mark.parametrize(("study", "plots", "dark"), [("vectors", 8, True), ("units", 7, False)])
def test_nothing_is_hard_to_read_and_nothing_overflows(
    served: Served, new_page: Pages, study: str, plots: int, dark: bool
) -> None:
    for width in (1440, 390):
        page = opened(new_page(width, dark), served, study, plots)
        page.evaluate("document.querySelectorAll('.dq-learned details').forEach((d) => { d.open = true; })")  # fmt: skip
        page.wait_for_function(HINTED, arg=width == 390)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
