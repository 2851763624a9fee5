"""The desk of the page Sensitivity and precision in a headless Chromium: what outlives a reload, budgets, plans of the study, files."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dqviz.allocating import AllocateRequest, allocate
from dqviz.events import Stage
from dqviz.study import Study
from dqviz.study_folder import studies_root
from dqviz.work import KINDS
from quant.errors import Cancelled
from tests.app.conftest import Served
from tests.app.precision import (
    AVERAGE,
    DESK,
    FC2,
    Q0,
    SHOWN,
    TABLE,
    V0,
    asks,
    cell,
    chosen,
    dot,
    into_view,
    opened,
    state,
    total,
    wait_for_text,
)
from tests.app.test_export_buttons import SVG, downloaded
from tests.tables import add_table, write_table

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]

OTHER = "([s, t]) => { const text = document.querySelector(s).textContent; return text && !text.includes(t); }"


def test_a_reload_keeps_the_steps_back(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    begun = state(page)
    page.get_by_role("button", name="Select shown").click()
    page.locator("[data-bits='4']").click()
    edited = state(page)
    page.reload()
    page.wait_for_selector(SHOWN)
    assert state(page) == edited
    page.get_by_role("button", name="Undo").click()
    assert state(page) == begun
    page.get_by_role("button", name="Redo").click()
    assert state(page) == edited
    page.get_by_role("button", name="Discard edits").click()
    assert state(page) == begun
    assert page.get_by_role("button", name="Discard edits").is_disabled()
    page.get_by_role("button", name="Undo").click()
    assert state(page) == edited


def test_another_table_and_back_loses_nothing(with_table: Served, new_page: Pages) -> None:
    study = Study.open(studies_root() / "mine")
    add_table(study, "second-rtn", windows=1)
    page = opened(new_page(1440), with_table, "?study=mine&table=gradient-rtn")
    page.get_by_role("button", name="Select shown").click()
    page.locator("[data-bits='4']").click()
    edited = state(page)
    page.locator(TABLE).select_option("second-rtn")
    page.wait_for_selector(".dq-precision[data-shown='second-rtn']")
    assert state(page) != edited
    page.locator(TABLE).select_option("gradient-rtn")
    page.wait_for_selector(".dq-precision[data-shown='gradient-rtn']")
    assert state(page) == edited
    assert "edits of this table" in page.locator(".dq-notes").inner_text()
    page.get_by_role("button", name="Undo").click()
    assert total(page, "avg_bits") == 8


def test_a_link_goes_before_what_the_tab_has_kept(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    page.get_by_role("button", name="Select shown").click()
    page.locator("[data-bits='4']").click()
    link, sent = page.url, state(page)
    page.locator("[data-bits='3']").click()
    own = state(page)
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_selector(SHOWN)
    assert state(page) == sent
    page.get_by_role("button", name="Undo").click()
    assert state(page) == own


def test_a_budget_that_is_turned_on_is_solved_for(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    before = state(page)
    page.locator("#dq-on-avg_bits").check()
    wait_for_text(page, ".dq-solved", "Heuristic")
    assert total(page, "avg_bits") <= 4
    page.get_by_role("button", name="Undo").click()
    assert state(page) == before, "plan and budget are one step"
    assert not page.locator("#dq-on-avg_bits").is_checked()


def test_undo_brings_back_the_command_of_the_solution(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    page.locator("#dq-on-avg_bits").check()
    wait_for_text(page, ".dq-solved", "Heuristic")
    page.locator("#dq-solve").click()
    page.locator(".dq-solved pre").wait_for()
    solved = page.locator(".dq-solved pre").text_content()
    shown = "pre[aria-label='Command of the plan']"
    wait_for_text(page, shown, solved)
    with page.expect_response(lambda r: asks("precision_appraise")(r.request)):
        page.get_by_role("button", name="Select shown").click()
        page.locator("[data-bits='4']").click()
    page.wait_for_function(OTHER, arg=[shown, solved])
    page.get_by_role("button", name="Undo").click()
    wait_for_text(page, shown, solved)


def test_a_number_out_of_range_is_said_and_stays(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    before = state(page)
    number = page.get_by_role("spinbutton", name=AVERAGE)
    for typed in ("2", "17", "-5"):
        number.fill(typed)
        number.press("Enter")
        why = page.locator("#dq-why-avg_bits")
        assert "3 to 16 bits can be asked for; the budget stays off" in why.inner_text()
        assert number.input_value() == typed
        assert state(page) == before
    number.fill("5")
    number.press("Enter")
    wait_for_text(page, ".dq-solved", "Heuristic")
    assert why.is_hidden()
    assert state(page)["avg_bits"] == "5"

    seeds = page.get_by_role("spinbutton", name="Seeds to draw with the plan")
    for typed in ("-5", "1", "2.5", ""):
        seeds.fill(typed)
        page.locator("#dq-verify").click()
        assert "from 2 to 10000" in page.locator("#dq-why-seeds").inner_text()
        assert seeds.input_value() == typed


def test_the_slider_moves_the_plan_and_is_one_step_back(
    with_table: Served, new_page: Pages
) -> None:
    page = opened(new_page(1440), with_table)
    before = state(page)
    slider = page.locator("[data-budget=avg_bits]")
    slider.focus()
    slider.press("Home")
    page.wait_for_function("document.querySelector('[data-total=avg_bits]').textContent === '3.00'")
    page.get_by_role("button", name="Undo").click()
    assert state(page) == before


def test_what_is_chosen_by_dragging_is_told(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    into_view(page)
    page.mouse.move(*cell(page, Q0, 0))
    page.mouse.down()
    page.mouse.move(*cell(page, V0, 2))
    page.mouse.up()
    text = page.locator(".dq-inspect").inner_text()
    assert "9 cells in 3 layers" in text
    assert "sum of costs" in text


def test_a_finger_taps_scrolls_and_draws_a_rectangle(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(390, touch=True), with_table)
    heads = page.locator(".dq-mx-head span").all_inner_texts()
    assert heads == ["weight", "0–4", "5–9"], "all have room on a telephone"
    into_view(page)
    touch = page.context.new_cdp_session(page)

    def put(kind: str, *points: list[float]) -> None:
        spots = [{"x": x, "y": y} for x, y in points]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": spots})

    page.touchscreen.tap(*cell(page, Q0, 0))
    page.wait_for_selector("[data-selected='1']")
    page.get_by_role("button", name="Clear selection").click()
    into_view(page)
    start, end = cell(page, Q0, 0), cell(page, V0, 1)
    put("touchStart", start)
    page.wait_for_selector(".dq-mx[data-held]")
    put("touchMove", end)
    page.wait_for_selector("[data-selected='6']")
    put("touchEnd")
    page.wait_for_selector(".dq-mx:not([data-held])")
    assert cell(page, Q0, 0) == start, "nothing scrolled"
    put("touchStart", end)  # a finger that moves at once draws nothing
    put("touchMove", [end[0], end[1] - 60])
    put("touchEnd")
    assert chosen(page) == 6


def test_matrix_and_curve_are_taken_along(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    page.get_by_role("button", name="Close all").click()
    page.locator("[data-field=role]").select_option("fc2")
    name, text = downloaded(page, "What rounding costs", "CSV")
    assert name == "mine-gradient-rtn-key-matrix.csv"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r["site"] for r in rows[::3]] == [f"transformer_blocks.{b}.ff.net.2" for b in range(3)]
    assert [r["operand"] for r in rows[:3]] == ["weight", "activation", "activation"]
    assert {(r["bits"], r["plan_bits"], r["evidence"]) for r in rows} == {("4", "8", "simulated")}
    assert all(float(r["lo"]) <= float(r["value"]) <= float(r["hi"]) for r in rows)

    _, text = downloaded(page, "What rounding costs", "SVG")
    svg = ElementTree.fromstring(text)
    assert "Evidence: simulated" in (svg.findtext(f"{SVG}desc") or "")
    assert "block 1" in "".join(svg.itertext())

    page.wait_for_function("document.querySelector('.dq-pareto p[role=status]').textContent")
    name, text = downloaded(page, "Loss over bits", "CSV")
    assert name == "mine-gradient-rtn-key-loss-over-bits.csv"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {r["evidence"] for r in rows} == {"predicted"}
    assert float(rows[0]["avg_bits"]) < float(rows[-1]["avg_bits"])
    name, text = downloaded(page, "Loss over bits", "SVG")
    assert "average bits of the weights" in "".join(ElementTree.fromstring(text).itertext())


def test_a_click_on_the_curve_loads_that_plan(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    desk = page.evaluate(DESK)
    page.mouse.click(*dot(page, "predicted, sum of cells", 0))
    page.wait_for_function(f"{DESK} !== '{desk}'")
    assert total(page, "avg_bits") == 3
    page.get_by_role("button", name="Undo").click()
    assert page.evaluate(DESK) == desk


def test_a_table_of_one_width_has_an_axis_of_bits(serve: Serve, new_page: Pages) -> None:
    served = serve()
    write_table(studies_root() / "narrow", bits=("4",))
    page = opened(new_page(1440), served)
    dot(page, "predicted, sum of cells", 0)
    low, high = page.evaluate(
        "document.querySelector('.dq-pareto .dq-plot')._fullLayout.xaxis.range"
    )
    assert (low, high) == pytest.approx((3, 5))
    assert "no line" in page.locator(".dq-pareto").inner_text()


def test_a_kept_plan_comes_with_what_it_was_chosen_under(serve: Serve, new_page: Pages) -> None:
    served = serve()
    write_table(studies_root() / "mine")
    asked = {"study": studies_root() / "mine", "budgets": {"avg_bits": 4.5}, "ties": ["qkv"]}
    made = allocate(AllocateRequest.parse({**asked, "pins": [f"{FC2}=w3"]}))
    page = opened(new_page(1440), served)
    for _ in range(2):
        assert state(page)["avg_bits"] == "4.5"
        assert state(page)["qkv"] == "1"
        assert page.locator("#dq-qkv").is_checked()
        assert "Unpin all (1)" in page.locator(".dq-mx-actions").inner_text()
        page.get_by_label("Begin again").select_option("w8a8")
        page.get_by_role("button", name="Unpin all").click()
        page.locator("#dq-on-avg_bits").uncheck()
        page.get_by_label("Load a plan of the study").select_option(made["allocation"])
        page.wait_for_function("location.hash.includes('avg_bits=4.5')")


def test_a_verification_can_be_cancelled(
    serve: Serve, swept: Path, tiny_dit: Path, new_page: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(request: Any, on_event: Any, cancelled: Callable[[], bool], key: str) -> None:
        on_event(Stage("draw", "drawing the plan"))
        while not cancelled():
            time.sleep(0.02)
        raise Cancelled("cancelled; nothing more")

    monkeypatch.setitem(KINDS, "allocate", replace(KINDS["allocate"], run=held))
    served = serve(models=[{"key": str(tiny_dit), "title": "Tiny", "presets": []}])
    shutil.copytree(swept, studies_root() / "real")
    page = opened(new_page(1440), served)
    page.locator("#dq-verify").click()
    wait_for_text(page, ".dq-verify", "drawing the plan")
    page.reload()
    page.wait_for_selector(SHOWN)
    wait_for_text(page, ".dq-verify", "drawing the plan")
    page.locator(".dq-verify").get_by_role("button", name="Cancel").click()
    wait_for_text(page, ".dq-verify", "Cancelled")
    assert page.locator("#dq-verify").is_enabled()
    assert page.locator("[data-total=measured]").inner_text() == "–"
