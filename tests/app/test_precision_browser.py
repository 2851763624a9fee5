"""The page Sensitivity and precision in a headless Chromium: choosing, setting, solving, undoing, links, accessibility."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dqviz.study import Study
from dqviz.study_folder import studies_root
from tests.app.accessibility import violations
from tests.app.conftest import Served
from tests.app.precision import DESK, FC2, Q0, bits, cell, chosen, into_view, opened, total
from tests.tables import MODEL, write_table

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]
NASTY = "<img src=x onerror='window.hacked=1'>${window.hacked=1}"
NO_OVERFLOW = "document.documentElement.scrollWidth <= innerWidth"


def test_drag_set_solve_undo_download_and_reload(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    assert total(page, "avg_bits") == 8
    before = {name: total(page, name) for name in ("avg_bits", "size_mb", "loss", "latency_ratio")}
    into_view(page)
    page.mouse.move(*cell(page, Q0, 0))
    page.mouse.down()
    page.mouse.move(*cell(page, "transformer_blocks.0.attn1.to_k", 1))
    page.mouse.move(*cell(page, "transformer_blocks.0.attn1.to_v", 2))
    page.mouse.up()
    assert chosen(page) == 9
    page.locator("[data-bits='4']").click()
    assert total(page, "avg_bits") < before["avg_bits"]
    assert total(page, "size_mb") < before["size_mb"]
    assert total(page, "loss") > before["loss"]
    assert total(page, "latency_ratio") < before["latency_ratio"]
    by_hand = page.evaluate(DESK)
    assert "Unpin all (9)" in page.locator(".dq-mx-actions").inner_text()

    number = page.get_by_role("spinbutton", name="Weight bits, average, at most, bits")
    number.fill("5")
    number.press("Enter")
    page.wait_for_function("document.querySelector('.dq-solved').textContent.includes('Heuristic')")
    page.locator("#dq-solve").click()
    page.wait_for_function(
        "/Solved|Time limit/.test(document.querySelector('.dq-solved').textContent)"
    )
    assert total(page, "avg_bits") <= 5
    assert "kept" in page.locator(".dq-mx-fits").inner_text()
    plan = bits(page)
    for name in ("to_q", "to_k", "to_v"):  # pinned
        site = plan["sites"][f"transformer_blocks.0.attn1.{name}"]
        assert [site["weight"]["bits"], *(a["bits"] for a in site["activations"])] == [4, 4, 4]
    solved = page.evaluate(DESK)
    assert solved != by_hand

    page.reload()
    page.wait_for_selector(".dq-precision[data-shown]")
    assert page.evaluate(DESK) == solved
    assert bits(page) == plan
    assert "Unpin all (9)" in page.locator(".dq-mx-actions").inner_text()
    assert page.locator("#dq-on-avg_bits").is_checked()

    into_view(page)
    page.mouse.click(*cell(page, FC2, 0))
    page.keyboard.press("3")
    changed = page.evaluate(DESK)
    assert changed != solved
    page.keyboard.press("Control+z")
    assert page.evaluate(DESK) == solved
    page.keyboard.press("Control+Shift+z")
    assert page.evaluate(DESK) == changed


def test_clicks_ranges_and_toggles(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    into_view(page)
    page.mouse.click(*cell(page, Q0, 0))
    assert chosen(page) == 1
    assert "self q: weight" in page.locator(".dq-inspect").inner_text()
    assert "study=mine" in page.locator(".dq-inspect a").get_attribute("href")
    page.keyboard.down("Shift")
    page.mouse.click(*cell(page, "transformer_blocks.0.attn1.to_v", 1))
    page.keyboard.up("Shift")
    assert chosen(page) == 6
    page.keyboard.down("Control")
    page.mouse.click(*cell(page, Q0, 0))
    assert chosen(page) == 5
    page.mouse.click(*cell(page, Q0, 0))
    page.keyboard.up("Control")
    assert chosen(page) == 6
    page.get_by_role("button", name="Clear selection").click()
    assert chosen(page) == 0


def test_everything_can_be_done_from_the_keyboard(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    matrix = page.locator(".dq-mx")
    matrix.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    assert chosen(page) == 1
    page.keyboard.press("Shift+ArrowRight")
    assert chosen(page) == 2
    page.keyboard.press("Control+a")
    assert chosen(page) == 54
    page.keyboard.press("4")
    assert total(page, "avg_bits") == total(page, "activation_bits") == 4
    page.keyboard.press("u")
    assert page.get_by_role("button", name="Unpin all").is_disabled()
    page.keyboard.press("Escape")
    assert chosen(page) == 0
    spoken = page.locator(".dq-mx-outer [role=status]").inner_text()
    assert "plan: 4 bits" in spoken


def test_filters_show_rows_and_a_bad_expression_loses_nothing(with_table: Served, new_page: Pages) -> None:  # fmt: skip
    page = opened(new_page(1440), with_table)
    names = page.locator(".dq-mx-name")
    assert names.count() == 18
    field = page.locator("[data-field=pattern]")
    field.fill("ff")
    assert names.count() == 6
    page.get_by_role("button", name="Select shown").click()
    assert chosen(page) == 18
    field.fill("ff(")
    assert page.locator("#dq-mx-why").is_visible()
    assert names.count() == 6
    assert chosen(page) == 18
    field.fill("")
    assert page.locator("#dq-mx-why").is_hidden()
    page.locator("[data-field=role]").select_option("fc2")
    assert names.count() == 3
    page.locator("[data-field=block]").select_option("block 1")
    assert names.count() == 1
    page.locator("[data-field=role]").select_option("")
    page.get_by_role("button", name="Close all").click()
    assert names.count() == 0


def test_what_cannot_be_set_says_why(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    into_view(page)
    desk = page.evaluate(DESK)
    page.mouse.click(*cell(page, Q0, 0))
    button = page.locator("[data-bits='16']")
    assert button.get_attribute("aria-disabled") == "true"
    assert "sweep with --bits" in button.get_attribute("title")
    button.click(force=True)  # it is not disabled for a keyboard or a screen reader
    assert "sweep with --bits" in page.locator(".dq-mx-actions p").inner_text()
    assert page.evaluate(DESK) == desk
    into_view(page)
    page.mouse.click(*cell(page, Q0, 1))
    assert button.get_attribute("aria-disabled") == "false"


def test_budgets_that_pins_break_are_said(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    page.get_by_role("button", name="Select shown").click()
    page.get_by_role("button", name="Pin", exact=True).click()
    number = page.get_by_role("spinbutton", name="Weight bits, average, at most, bits")
    number.fill("4")
    number.press("Enter")
    page.wait_for_function("document.querySelector('.dq-solved').textContent.includes('pinned cells already exceed')")  # fmt: skip
    assert "pinned cells already exceed the budget by 4 bits" in page.locator(".dq-mx-fits").inner_text()  # fmt: skip


def test_the_plan_as_a_table_and_as_a_difference(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    page.locator(".dq-plantable summary").click()
    select = page.get_by_label("block 1 fc2, weight")
    select.select_option("3")
    page.locator(".dq-plandiff summary").click()
    page.get_by_label("Compare the plan with").select_option("w8a8")
    text = page.locator(".dq-plandiff").inner_text()
    assert "1 cell in 1 layer differs" in text
    assert "w 8 → 3" in text
    page.get_by_role("button", name="Undo").click()
    assert "No cell differs" in page.locator(".dq-plandiff").inner_text()
    assert select.input_value() == "8"


def test_verify_sets_measured_beside_predicted(
    serve: Serve, swept: Path, tiny_dit: Path, new_page: Pages
) -> None:
    served = serve(models=[{"key": str(tiny_dit), "title": "Tiny", "presets": []}])
    shutil.copytree(swept, studies_root() / "real")
    page = opened(new_page(1440), served)
    assert page.locator("[data-total=measured]").inner_text() == "–"
    page.get_by_role("spinbutton", name="Seeds to draw with the plan").fill("2")
    page.locator("#dq-verify").click()
    page.wait_for_function("document.querySelector('.dq-verify').textContent.includes('Kept as')")
    assert total(page, "measured") > 0
    assert "2 seeds" in page.locator(".dq-totals").inner_text()
    (kept,) = Study.open(studies_root() / "real", read_only=True).allocations()
    page.get_by_role("button", name="Select shown").click()
    page.locator("[data-bits='4']").click()
    assert page.locator("[data-total=measured]").inner_text() == "–", "of another plan"
    page.get_by_label("Load a plan of the study").select_option(kept["name"])
    page.wait_for_function("document.querySelector('[data-total=measured]').textContent !== '–'")
    assert f"plan={kept['name']}" in page.url


def test_a_link_of_another_table_is_said(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table, "?study=mine&plan=gone#desk=zz9&pins=x")
    text = page.locator(".dq-notes").inner_text()
    assert "none of this table" in text
    assert total(page, "avg_bits") == 8


def test_without_a_table_a_sweep_can_be_started(serve: Serve, new_page: Pages) -> None:
    served = serve()
    Study.create(studies_root() / "bare", {**MODEL, "title": NASTY}, {"dqviz": "0"})
    page = opened(new_page(1280), served, "?study=bare")
    assert page.get_by_role("button", name="Measure now").is_visible()
    assert "dqviz sensitivity dit-emoji" in page.locator(".dq-emptyline pre").inner_text()
    page.get_by_label("Tier of the sweep").select_option("layer")
    assert "--tier layer" in page.locator(".dq-emptyline pre").inner_text()


def test_names_are_text(serve: Serve, new_page: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve()
    monkeypatch.setitem(MODEL, "title", NASTY)
    write_table(studies_root() / "nasty")
    page = opened(new_page(1280), served)
    assert NASTY in page.locator(".dq-headline").inner_text()
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1440, 390])
def test_it_is_accessible_and_fits(
    width: int, dark: bool, with_table: Served, new_page: Pages
) -> None:
    page = opened(new_page(width, dark=dark), with_table)
    page.get_by_role("button", name="Select shown").click()
    page.locator(".dq-plantable summary").click()
    page.locator(".dq-plandiff summary").click()
    page.locator(".dq-mx-commands summary").click()
    page.wait_for_function(
        "document.querySelector('.dq-pareto .dq-plot')?._fullLayout?.xaxis?._length"
    )
    assert page.evaluate(NO_OVERFLOW)
    assert violations(page) == []
