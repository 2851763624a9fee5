"""The desk of the page Sensitivity and precision when answers are late, of something else, or do not come; in a headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from dqviz.allocating import AllocateRequest, allocate
from dqviz.study import Study
from dqviz.study_folder import studies_root
from tests.app.conftest import Served
from tests.app.precision import (
    TABLE,
    Line,
    asks,
    kept,
    opened,
    state,
    total,
    wait_for_text,
)
from tests.tables import add_table

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]
SILENT = "The server did not answer"
SAID = "document.querySelector('.dq-solved').textContent"


def test_leaving_while_the_plan_is_fetched_loses_nothing(
    with_table: Served, new_page: Pages
) -> None:
    allocate(AllocateRequest.parse({"study": studies_root() / "mine", "budgets": {"avg_bits": 4}}))
    page = opened(new_page(1440), with_table)
    page.get_by_role("button", name="Select shown").click()
    page.locator("[data-bits='8']").click()
    edited = state(page)
    line = Line(page, "precision_load")
    page.reload()
    line.wait()
    page.goto("about:blank")
    line.drop()
    opened(page, with_table)
    assert state(page) == edited
    assert page.get_by_role("button", name="Undo").is_enabled()


def test_a_solution_for_another_device_is_not_taken(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    start = state(page)
    page.locator("#dq-on-avg_bits").check()
    wait_for_text(page, ".dq-solved", "Heuristic")
    before = state(page)
    device = page.get_by_label("Device that latency is predicted for")
    first = device.input_value()
    line = Line(page, "precision_solve")
    page.locator("#dq-solve").click()
    line.wait()
    device.select_option(index=1)
    line.free()
    wait_for_text(page, ".dq-solved", "metric or device was changed while")
    assert state(page) == {**before, "device": device.input_value()}
    page.locator("#dq-solve").click()
    command = page.locator(".dq-solved pre")
    command.wait_for()
    device.select_option(first)
    assert command.is_hidden(), "the command was of the other device"
    undo, redo = (page.get_by_role("button", name=name) for name in ("Undo", "Redo"))
    undo.click()
    assert command.is_visible()
    assert device.input_value() != first, "the device is a step back like all else"
    while undo.is_enabled():
        undo.click()
    assert state(page) == start
    assert device.input_value() == first
    redo.click()
    assert state(page) == before


def test_a_solution_for_another_metric_is_not_taken(with_metrics: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_metrics)
    page.locator("#dq-on-avg_bits").check()
    wait_for_text(page, ".dq-solved", "Heuristic")
    before = state(page)
    line = Line(page, "precision_solve")
    page.locator("#dq-solve").click()
    line.wait()
    page.locator("[data-field=metric]").select_option("ssim_loss")
    line.free()
    wait_for_text(page, ".dq-solved", "metric or device was changed while it was solved")
    assert state(page) == before
    page.locator("#dq-solve").click()
    command = page.locator(".dq-solved pre")
    command.wait_for()
    assert "--metric ssim_loss" in command.inner_text()


def test_a_heuristic_for_another_metric_is_not_taken(with_metrics: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_metrics)
    desk = state(page)["desk"]
    line = Line(page, "precision_suggest")
    page.locator("#dq-on-avg_bits").check()
    line.wait()
    page.locator("[data-field=metric]").select_option("ssim_loss")
    line.free()
    wait_for_text(page, ".dq-solved", "metric or device was changed while it was answered")
    assert state(page)["desk"] == desk
    page.locator("#dq-solve").click()
    page.locator(".dq-solved pre").wait_for()
    assert total(page, "avg_bits") <= 4


def test_solving_waits_for_the_answer_to_a_slider(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    line = Line(page, "precision_suggest")
    page.locator("#dq-on-avg_bits").check()
    line.wait()
    page.locator("#dq-solve").click()
    assert page.locator("#dq-solve").is_disabled()
    line.free()
    page.locator(".dq-solved pre").wait_for()
    assert total(page, "avg_bits") <= 4


def test_another_slider_is_another_step_back(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    before = state(page)
    line = Line(page, "precision_suggest")
    page.locator("[data-budget=avg_bits]").press("Home")
    line.wait()
    page.locator("[data-budget=activation_bits]").press("Home")
    line.free()
    page.wait_for_function(
        "document.querySelector('[data-total=activation_bits]').textContent === '3.00'"
    )
    undo = page.get_by_role("button", name="Undo")
    undo.click()
    assert {n for n in state(page) if n.endswith("_bits")} == {"avg_bits"}
    undo.click()
    assert state(page) == before


@pytest.mark.parametrize("long", [False, True])
def test_a_question_without_an_answer_loses_nothing(
    long: bool, with_table: Served, new_page: Pages
) -> None:
    page = new_page(1440)
    page.clock.install()
    opened(page, with_table)
    page.locator("#dq-on-avg_bits").check()
    wait_for_text(page, ".dq-solved", "Heuristic")
    wait_for_text(page, "pre[aria-label='Command of the plan']", "dqviz allocate")
    wait_for_text(page, ".dq-pareto p[role=status]", "predicted;")
    before = state(page)
    asked = {"precision_solve": ("#dq-solve", ".dq-solved"), "precision_start": ("#dq-verify", ".dq-verify")}  # fmt: skip
    for name, (button, place) in asked.items():
        line = Line(page, name)
        page.locator(button).click()
        line.wait()
        if long:
            assert page.locator(button).is_disabled()
            page.clock.fast_forward(61_000)
        else:
            line.drop()
        wait_for_text(page, place, SILENT)
        assert page.get_by_text(SILENT).count() == 1 + (place == ".dq-verify")
        assert page.locator(button).is_enabled()
        assert state(page) == before
        if long:
            line.free()
    assert "The page Runs says whether" in page.locator(".dq-verify").inner_text()
    assert SILENT in page.locator(".dq-solved").inner_text(), "a late answer is not taken"
    page.locator("#dq-solve").click()
    page.locator(".dq-solved pre").wait_for()


def test_a_line_that_did_not_come_is_not_the_line_of_before(
    with_table: Served, new_page: Pages
) -> None:
    page = opened(new_page(1440), with_table)
    figure, said = page.locator(".dq-pareto .dq-plot"), ".dq-pareto p[role=status]"
    wait_for_text(page, said, "predicted;")
    figure.wait_for()
    anew = page.get_by_role("button", name="Draw anew")
    line = Line(page, "precision_curve")
    anew.click()
    line.wait()
    line.drop()
    wait_for_text(page, said, SILENT)
    figure.wait_for(state="hidden")
    assert page.locator(".dq-pareto li").count() == 0
    anew.click()
    wait_for_text(page, said, "predicted;")
    figure.wait_for()


def test_an_interval_that_did_not_come_is_said(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    command = "pre[aria-label='Command of the plan']"
    wait_for_text(page, command, "dqviz allocate")
    line = Line(page, "precision_appraise")
    page.get_by_role("button", name="Select shown").click()
    page.locator("[data-bits='4']").click()
    line.wait()
    assert "dqviz" not in page.locator(command).text_content(), "of the plan before"
    line.drop()
    wait_for_text(page, command, SILENT)
    page.get_by_role("button", name="Undo").click()
    wait_for_text(page, command, "dqviz allocate")


def test_a_table_that_does_not_come_leaves_the_one_that_is_there(
    with_table: Served, new_page: Pages
) -> None:
    add_table(Study.open(studies_root() / "mine"), "second-rtn", windows=1)
    page = opened(new_page(1440), with_table, "?study=mine&table=gradient-rtn")
    page.get_by_role("button", name="Select shown").click()
    page.locator("[data-bits='4']").click()
    edited = state(page)
    line = Line(page, "precision")
    page.locator(TABLE).select_option("second-rtn")
    line.wait()
    line.drop()
    wait_for_text(page, ".dq-notes", SILENT)
    assert page.locator(TABLE).input_value() == "gradient-rtn"
    assert state(page) == edited
    page.get_by_role("button", name="Undo").click()
    page.locator(TABLE).select_option("second-rtn")
    page.wait_for_selector(".dq-precision[data-shown='second-rtn']")


@pytest.mark.parametrize("name", ["precision", "precision_load"])
def test_of_two_tables_the_one_that_was_picked_last_is_shown(
    name: str, with_table: Served, new_page: Pages
) -> None:
    study = Study.open(studies_root() / "mine")
    for table in ("second-rtn", "third-rtn"):
        add_table(study, table, windows=1)
        kept(sensitivity=table)
    page = opened(new_page(1440), with_table, "?study=mine&table=gradient-rtn")
    begun = state(page)
    line = Line(page, name, most=1)
    page.locator(TABLE).select_option("second-rtn")
    line.wait()
    page.locator(TABLE).select_option("third-rtn")
    page.wait_for_selector(".dq-precision[data-shown='third-rtn']")
    with page.expect_response(lambda answer: asks(name)(answer.request)):
        line.free()
    page.locator(TABLE).select_option("gradient-rtn")
    page.wait_for_selector(".dq-precision[data-shown='gradient-rtn']")
    assert state(page) == begun
    assert "table=gradient-rtn" in page.url


def test_a_job_that_cannot_be_asked_after_goes_on(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    line = Line(page, "precision_state")
    page.get_by_role("button", name="Save into the study").click()
    line.wait()
    with page.expect_request(asks("precision_state")):
        line.drop()
    page.get_by_text("Kept as").wait_for()


def test_a_bound_that_is_named_instead_is_accepted(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    for name in ("avg_bits", "activation_bits", "size_mb", "latency_ratio"):
        number = page.locator(f".dq-budget:has(#dq-on-{name}) input[type=number]")
        for typed, end in (("0.0001", 0), ("9999", 1)):
            number.fill(typed)
            number.press("Enter")
            why = page.locator(f"#dq-why-{name}").inner_text()
            bound = re.findall(r"[0-9.]+", why)[end]
            number.fill(bound)
            number.press("Enter")
            page.wait_for_function(f"{SAID}.includes('Heuristic') && location.hash.includes('{name}={bound}')")  # fmt: skip
            assert f"of {bound} " in page.locator(".dq-mx-fits").inner_text()
            page.locator(f"#dq-on-{name}").uncheck()
            page.wait_for_function(f"!{SAID}")


def test_a_link_to_what_cannot_be_kept_names_what_can(with_table: Served, new_page: Pages) -> None:
    page = opened(new_page(1440), with_table)
    link = page.url
    page.goto("about:blank")
    opened(page, with_table, f"{link.partition('precision')[2]}&size_mb=0.01")
    text = page.locator(".dq-mx-fits").inner_text()
    (bound,) = re.findall(r"out of reach, ([0-9.]+) MB is the least", text)
    number = page.get_by_role("spinbutton", name="Size of the file, at most, MB")
    number.fill(bound)
    number.press("Enter")
    wait_for_text(page, ".dq-solved", "Heuristic")
