"""Attention sharing and the window editor in a headless Chromium: pointer, keys, links, numbers, accessibility."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from dqviz.pages.methods import sharing, windows
from dqviz.study_folder import studies_root
from quant.schema import Window
from quant.sharing_choice import SharingRequest, chosen_sharing, saving
from tests import probes
from tests.app.accessibility import violations
from tests.app.conftest import Served

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]
NASTY = "<img src=x onerror='window.hacked=1'>${window.hacked=1}"
SIMILARITY, WINDOWS = probes.similarity(attentions=6, steps=8), probes.windows(blocks=2, steps=8)

DRAWN = "view => document.querySelector(`[data-view=${view}] .dq-plot`)?._fullLayout?.yaxis?._length"  # fmt: skip
# Pixel of a point of a view's first plot: x in the units of its axis, y a share of its height.
PIXEL = """([view, x, y]) => {
  const gd = document.querySelector(`[data-view=${view}] .dq-plot`), box = gd.getBoundingClientRect();
  const {xaxis, yaxis} = gd._fullLayout;
  return [box.left + xaxis._offset + xaxis.l2p(x), box.top + yaxis._offset + y * yaxis._length];
}"""
FACTS = "view => Object.fromEntries([...document.querySelectorAll(`[data-view=${view}] .dq-figures > div`)].map(d => [d.querySelector('dt').textContent, d.querySelector('dd').textContent]))"  # fmt: skip


@pytest.fixture
def served(serve: Serve) -> Served:
    found = serve()
    options = {"windows": 4, "tier": "C"}
    probes.study_with_probes(studies_root() / "mine", options=options, similarity=SIMILARITY, windows=WINDOWS)  # fmt: skip
    return found


def opened(page: Any, served: Served, query: str = "", view: str = "windows") -> Any:
    page.goto(f"{served.url}methods?study=mine&method=trdq{query}")
    page.locator(f"[data-view={view}]").scroll_into_view_if_needed()
    page.wait_for_function(DRAWN, arg=view)
    return page


def options(page: Any, view: str) -> str:
    return page.inner_text(f"[data-view={view}] .dq-options")


def wait_options(page: Any, view: str, words: str) -> None:
    page.wait_for_function(
        "([view, words]) => document.querySelector(`[data-view=${view}] .dq-options`).textContent === words",
        arg=[view, words],
    )


def borders(page: Any) -> list[int]:
    found = page.locator("[data-view=windows] .dq-border")
    return [int(found.nth(k).get_attribute("aria-valuenow")) for k in range(found.count())]


def wait_borders(page: Any, *steps: int) -> None:
    page.wait_for_function(
        "want => JSON.stringify([...document.querySelectorAll('.dq-border')].map(b => Number(b.getAttribute('aria-valuenow')))) === want",
        arg=json.dumps(list(steps), separators=(",", ":")),
    )


def test_the_slider_sets_who_shares_and_says_what_the_engine_counts(served: Served, new_page: Pages) -> None:  # fmt: skip
    page = opened(new_page(1440), served, view="sharing")
    found = sharing.similarity_of(SIMILARITY)
    slider = page.locator("[data-view=sharing] input[type=range]")
    for threshold in (0.75, 0.62):
        slider.fill(str(threshold))
        request = SharingRequest(mode="map", chosen_by="similarity", threshold=threshold)
        said = _counted(found, request)
        wait_options(page, "sharing", f"sharing=map  sharing_set=similarity  sharing_threshold={threshold}")  # fmt: skip
        _check_facts(page, said)
    assert slider.get_attribute("aria-valuetext") == f"0.620, {said['cells']} of 48 shared"
    veil = page.evaluate("document.querySelector('[data-view=sharing] .dq-plot').data[1].z.flat().filter(v => v === null).length")  # fmt: skip
    page.wait_for_function("n => document.querySelector('[data-view=sharing] .dq-plot').data[1].z.flat().filter(v => v === null).length === n", arg=said["cells"])  # fmt: skip
    assert veil <= 48
    slider.focus()
    before = page.evaluate(FACTS, "sharing")
    for _ in range(60):
        page.keyboard.press("ArrowRight")
    assert page.evaluate(FACTS, "sharing") != before, "the slider moves by keys"


def _counted(found: Any, request: SharingRequest) -> dict[str, Any]:
    work = dict(zip(found.attentions, found.work))
    made = chosen_sharing(request, found.attentions, found)
    return saving(made, found.timesteps, work, found.network)


def _check_facts(page: Any, said: dict[str, Any]) -> None:
    facts = page.evaluate(FACTS, "sharing")
    assert facts["attentions and steps that share"] == f"{said['cells']} of {said['of_cells']}"
    assert facts["rows of q and k left out"] == f"{100 * said['qk_rows']:.1f} %"
    assert facts["multiply-adds of the network left out"] == f"{100 * said['multiply_adds']:.2f} %"


def test_modes_and_steps_come_out_as_options_and_lead_into_compare(served: Served, new_page: Pages) -> None:  # fmt: skip
    page = opened(new_page(1440), served, view="sharing")
    view = page.locator("[data-view=sharing]")
    view.get_by_role("button", name="share the output").click()
    view.get_by_role("button", name="output error", exact=True).click()
    view.locator("input[type=range]").fill("0.3")
    view.get_by_label("First step that may share").select_option("2")
    view.get_by_label("Last step that may share").select_option("5")
    times = SIMILARITY["timesteps"]
    low, high = ((times[k - 1] + times[k]) / 2 for k in (6, 2))
    wait_options(page, "sharing", f"sharing=output  sharing_set=error  sharing_threshold=0.7  sharing_steps=[[{low:g},{high:g}]]")  # fmt: skip
    request = SharingRequest(mode="output", chosen_by="error", threshold=0.7, steps=(Window(low=low, high=high),))  # fmt: skip
    _check_facts(page, _counted(sharing.similarity_of(SIMILARITY), request))
    command = page.inner_text("[data-view=sharing] code")
    assert command.startswith("dqviz compare dit-emoji --method trdq --bits w4a8 --option sharing=output")  # fmt: skip
    assert f"'sharing_steps=[[{low:g},{high:g}]]'" in command
    link = view.get_by_role("link", name="Open in Compare").get_attribute("href")
    asked = {k: v[0] for k, v in parse_qs(urlparse(link).query).items()}
    assert asked["option.sharing"] == "output"
    assert asked["option.sharing_threshold"] == "0.7"
    page.goto(served.url + link.removeprefix("./"))
    # The form fills field by field, and the command follows: all of it at once is waited for.
    page.wait_for_function(
        "words => words.every(w => document.querySelector('#dq-line')?.textContent.includes(w))",
        arg=[
            "--method trdq",
            "--option trdq.sharing=output",
            "--option trdq.sharing_threshold=0.7",
            "trdq.sharing_steps",
        ],
    )
    page.go_back()
    page.wait_for_function(DRAWN, arg="sharing")
    wait_options(page, "sharing", f"sharing=output  sharing_set=error  sharing_threshold=0.7  sharing_steps=[[{low:g},{high:g}]]")  # fmt: skip
    view.get_by_role("button", name="released set").click()
    wait_options(page, "sharing", f"sharing=output  sharing_set=released  sharing_steps=[[{low:g},{high:g}]]")  # fmt: skip
    assert view.locator("input[type=range]").is_disabled()
    view.get_by_role("button", name="off", exact=True).click()
    wait_options(page, "sharing", "sharing=off")
    assert page.evaluate(FACTS, "sharing")["attentions and steps that share"] == "0 of 48"


def test_a_click_on_a_cell_takes_its_similarity(served: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), served, view="sharing")
    page.mouse.click(*page.evaluate(PIXEL, ["sharing", 5, 2.5 / 6]))
    value = SIMILARITY["cosine"][2][5]
    wait_options(page, "sharing", f"sharing=map  sharing_set=similarity  sharing_threshold={int(value * 1e4 + 1e-9) / 1e4:g}")  # fmt: skip
    cells = sum(c >= value for row in SIMILARITY["cosine"] for c in row)
    assert page.evaluate(FACTS, "sharing")["attentions and steps that share"] == f"{cells} of 48"
    assert "threshold=" in page.url


def test_borders_move_by_keys_and_by_dragging(served: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), served)
    wait_borders(page, 2, 4, 6)
    first = page.locator(".dq-border").first
    first.focus()
    page.keyboard.press("ArrowRight")
    wait_borders(page, 3, 4, 6)
    page.keyboard.press("ArrowRight")
    assert borders(page) == [3, 4, 6], "borders do not pass one another"
    page.keyboard.press("Home")
    wait_borders(page, 1, 4, 6)
    assert first.get_attribute("aria-valuetext") == "first step of window 2: 1, timestep 862"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Border 1 of 3"
    x, y = page.evaluate(PIXEL, ["windows", 5.5, 0.5])
    grip = page.locator(".dq-border").nth(2).bounding_box()
    page.mouse.move(grip["x"] + grip["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(page.evaluate(PIXEL, ["windows", 6.4, 0.5])[0], y, steps=4)
    wait_borders(page, 1, 4, 7)
    page.mouse.move(x - 400, y, steps=4)
    wait_borders(page, 1, 4, 5)
    page.mouse.up()
    page.keyboard.press("Control+z")
    wait_borders(page, 1, 4, 6)
    page.keyboard.press("Control+Shift+z")
    wait_borders(page, 1, 4, 5)
    wait_options(page, "windows", "windows=[1,4,5]  tier=C")
    assert "borders=1.4.5" in page.url
    page.reload()
    page.wait_for_function(DRAWN, arg="windows")
    wait_borders(page, 1, 4, 5)


def test_borders_are_added_removed_and_taken_back(served: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), served, "&borders=4")
    view = page.locator("[data-view=windows]")
    view.get_by_role("button", name="Add border").click()
    wait_borders(page, 2, 4)
    page.keyboard.press("Delete")
    wait_borders(page, 4)
    page.mouse.dblclick(*page.evaluate(PIXEL, ["windows", 6.5, 0.5]))
    wait_borders(page, 4, 7)
    for name, steps in (("Undo", [4]), ("Undo", [2, 4]), ("Undo", [4]), ("Redo", [2, 4])):
        view.get_by_role("button", name=name).click()
        wait_borders(page, *steps)
    view.get_by_role("group", name="Equal windows").get_by_role("button", name="one").click()
    wait_borders(page)
    wait_options(page, "windows", "windows=1  tier=C")
    view.get_by_role("group", name="Equal windows").get_by_role("button", name="each step").click()
    wait_borders(page, *range(1, 8))
    wait_options(page, "windows", "windows=step  tier=C")
    view.get_by_role("group", name="Least error").get_by_role("button", name="3").click()
    every = windows.errors_over(WINDOWS, None)
    wait_borders(page, *windows.best(every, 8, 3)[1:-1])


def test_errors_are_shown_where_they_were_measured(served: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), served, "&borders=4")
    every = windows.errors_over(WINDOWS, None)
    level = windows.percent(windows.level(every, [0, 4, 8]) or 0)
    assert page.evaluate(FACTS, "windows")["output error"] == f"{level:.2f} %"
    page.locator(".dq-border").first.focus()
    page.keyboard.press("ArrowRight")
    wait_borders(page, 5)
    assert page.evaluate(FACTS, "windows")["output error"] == "– not measured"
    said = page.inner_text("[data-view=windows] .dq-gap")
    assert "steps 0 to 4, steps 5 to 7" in said
    assert "dqviz probe dit-emoji --method trdq --bits w4a8 --only windows --option 'windows=[5]'" in said  # fmt: skip
    page.get_by_role("button", name="chosen input").click()
    name = WINDOWS["inputs"][0]["name"]
    page.locator("[data-view=windows] button[aria-pressed=true]", has_text="chosen input").wait_for()  # fmt: skip
    page.get_by_role("group", name="Equal windows").get_by_role("button", name="2").click()
    own = windows.percent(windows.level(windows.errors_over(WINDOWS, name), [0, 4, 8]) or 0)
    page.wait_for_function(f"view => ({FACTS})(view)['output error'] === '{own:.2f} %'", arg="windows")  # fmt: skip


def test_each_tier_says_its_bytes_for_these_windows(served: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), served, "&borders=4")
    tiers = WINDOWS["memory"]["tiers"]

    def row(tier: str) -> list[str]:
        cells = page.locator(f"tr:has(#dq-tier-{tier}) td.dq-num .dq-sub")
        return [cells.nth(k).inner_text() for k in range(2)]

    def check(windows_: int) -> None:
        for tier, own in tiers.items():
            said = [own[kind][windows_ - 1] / WINDOWS["memory"]["full"] for kind in ("disk", "resident")]  # fmt: skip
            assert row(tier) == [f"{share:.2f} of 16 bit" for share in said]

    check(2)
    page.get_by_role("button", name="Add border").click()
    wait_borders(page, 2, 4)
    check(3)
    page.locator("#dq-tier-B").check()
    wait_options(page, "windows", "windows=[2,4]  tier=B")
    facts = page.evaluate(FACTS, "windows")
    assert facts["against one window"] == "+0.0 %", "tier B has one transform"
    page.get_by_role("button", name="Undo").click()
    wait_options(page, "windows", "windows=[2,4]  tier=C")


def test_every_axis_takes_a_border_to_the_same_step(served: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), served, "&borders=3&axis=timestep")
    for axis, label, start, end in (("timestep", "timesteps", 3, 6), ("snr", "log-SNR", 6, 2), ("step", "steps", 2, 5)):  # fmt: skip
        page.get_by_role("group", name="Axis").get_by_role("button", name=label, exact=True).click()
        where = windows.axes(WINDOWS)[axis]
        middle = "(b => b.left + b.width / 2)(document.querySelector('.dq-border').getBoundingClientRect())"  # fmt: skip
        page.wait_for_function(
            f"x => Math.abs({middle} - ({PIXEL})(['windows', x, 0])[0]) < 2", arg=where[start]
        )
        page.evaluate("document.querySelector('.dq-border').scrollIntoView({block: 'center'})")
        y = page.evaluate(PIXEL, ["windows", 0, 0.5])[1]
        page.mouse.move(page.evaluate(middle), y)
        page.mouse.down()
        page.mouse.move(page.evaluate(PIXEL, ["windows", where[end], 0])[0], y, steps=3)
        page.mouse.up()
        wait_borders(page, end)


def test_what_is_drawn_can_be_taken_along(served: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), served)
    for view, rows in (("sharing", 48), ("windows", 4 * len(WINDOWS["intervals"]))):
        for label in ("CSV", "SVG"):
            with page.expect_download() as download:
                page.locator(f"[data-view={view}] .dq-head").get_by_role("button", name=label).click()  # fmt: skip
            text = Path(download.value.path()).read_text(encoding="utf-8")
            if label == "CSV":
                assert len(list(csv.DictReader(text.splitlines()))) == rows
            else:
                assert text.startswith("<svg")
                assert "Recipe" in text


def test_names_from_files_stay_text(serve: Serve, new_page: Pages) -> None:
    served = serve()
    names = [NASTY, *SIMILARITY["attentions"][1:]]
    inputs = [{**WINDOWS["inputs"][0], "name": NASTY, "sites": [NASTY], "roles": ["unknown"]}, *WINDOWS["inputs"][1:]]  # fmt: skip
    probes.study_with_probes(
        studies_root() / "mine", model={"title": NASTY, "key": NASTY, "ref": NASTY},
        similarity={**SIMILARITY, "attentions": names}, windows={**WINDOWS, "inputs": inputs},
    )  # fmt: skip
    page = opened(new_page(), served, view="sharing")
    page.locator("[data-view=sharing] summary").click()
    assert NASTY in page.inner_text("[data-view=sharing] table")
    page.locator("[data-view=sharing] .dq-plot").first.scroll_into_view_if_needed()
    page.mouse.move(*page.evaluate(PIXEL, ["sharing", 3, 0.5 / 6]))
    page.wait_for_selector("[data-view=sharing] .hovertext")
    assert page.evaluate("window.hacked") is None
    assert page.locator(".dq-methods img").count() == 0
    href = page.locator("[data-view=windows] a.dq-primary").get_attribute("href")
    assert href.startswith("./?model=%3Cimg")


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_screen(served: Served, new_page: Pages, width: int) -> None:
    page = opened(new_page(width), served, "&borders=1.3.4.7")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    inside = "[...document.querySelectorAll('[data-view] *')].filter(n => !n.closest('.dq-scroll') && n.getBoundingClientRect().right > innerWidth + 1).length"  # fmt: skip
    assert page.evaluate(inside) == 0
    middle = """() => {
      const box = document.querySelector('.dq-border').getBoundingClientRect();
      return box.left + box.width / 2;
    }"""
    before = page.evaluate(middle)
    page.set_viewport_size({"width": width + 200, "height": 900})
    page.wait_for_function(
        f"""before => {{
          const now = ({middle})();
          return now !== before && Math.abs(now - ({PIXEL})(['windows', 0.5, 0])[0]) < 2;
        }}""",
        arg=before,
    )


@pytest.mark.parametrize("dark", [False, True])
def test_no_serious_violation_in_the_views(served: Served, new_page: Pages, dark: bool) -> None:
    page = opened(new_page(1440, dark), served, "&borders=3")
    page.locator("[data-view=sharing] summary").click()
    assert violations(page) == []
    page.evaluate("document.querySelector('.dq-border').removeAttribute('aria-valuenow'); document.querySelector('.dq-border').removeAttribute('aria-label')")  # fmt: skip
    assert violations(page) != [], "the checker checks"
