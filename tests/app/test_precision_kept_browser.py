"""Plans that a study keeps, on the page Sensitivity and precision in a headless Chromium: whose they are, by which metric, and copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dqviz.allocating import AllocateRequest, allocate
from dqviz.study import Study
from dqviz.study_folder import studies_root
from dqviz.work import KINDS
from tests.app.conftest import Served
from tests.app.precision import (
    SHOWN,
    Line,
    asks,
    kept,
    opened,
    state,
)
from tests.tables import METRICS, write_table

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]


def test_of_two_plans_the_one_that_was_picked_last_is_loaded(
    with_table: Served, new_page: Pages
) -> None:
    first, second = kept(), kept(budgets={"avg_bits": 6})
    page = opened(new_page(1440), with_table)
    line = Line(page, "precision_load", most=1)
    plans = page.get_by_label("Load a plan of the study")
    plans.select_option(first)
    line.wait()
    plans.select_option(second)
    page.wait_for_function("location.hash.includes('avg_bits=6')")
    with page.expect_response(lambda answer: asks("precision_load")(answer.request)):
        line.free()
    assert state(page)["avg_bits"] == "6"


def test_the_plan_that_was_kept_is_the_one_of_this_job(
    serve: Serve, new_page: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_company(request: Any, *_: Any) -> Any:
        made = allocate(AllocateRequest.parse(request))
        kept()  # by somebody else, meanwhile
        return made

    monkeypatch.setitem(KINDS, "allocate", replace(KINDS["allocate"], run=with_company))
    served = serve()
    write_table(studies_root() / "mine")
    page = opened(new_page(1440), served)
    page.get_by_role("button", name="Select shown").click()
    page.locator("[data-bits='8']").click()
    page.get_by_role("button", name="Save into the study").click()
    page.get_by_text("Kept as").wait_for()
    own, other = (row["name"] for row in Study.open(studies_root() / "mine").allocations())
    assert page.get_by_text(f"Kept as {own}.").is_visible()
    assert other in page.get_by_label("Load a plan of the study").inner_text()
    assert f"plan={own}" in page.url


def test_a_kept_plan_is_shown_by_its_own_metric(with_metrics: Served, new_page: Pages) -> None:
    other, own = kept(metric="ssim_loss"), kept()
    page = opened(new_page(1440), with_metrics)
    metric, plans = page.locator("[data-field=metric]"), page.get_by_label("Load a plan of")
    assert f"plan={own}" in page.url
    assert metric.input_value() == "latent_error"
    plans.select_option(other)
    page.wait_for_function(f"new URLSearchParams(location.search).get('plan') === '{other}'")
    assert metric.input_value() == "ssim_loss"
    page.reload()
    page.wait_for_selector(SHOWN)
    assert metric.input_value() == "ssim_loss"
    metric.select_option("latent_error")  # by which that plan may be looked at, too
    page.reload()
    page.wait_for_selector(SHOWN)
    assert metric.input_value() == "latent_error"
    assert f"plan={other}" in page.url


@pytest.mark.parametrize("beside", [False, True])
def test_the_desk_goes_along_to_the_copy_of_a_recorded_study(
    beside: bool, serve: Serve, new_page: Pages, tmp_path: Path
) -> None:
    served, recorded = serve(), tmp_path / "nothing-recorded" / "mine"
    write_table(recorded, metrics=METRICS)
    if beside:
        write_table(studies_root() / "mine", metrics=METRICS)
    page = opened(new_page(1440), served, "?study=mine (recorded)" if beside else "")
    begun = state(page)
    page.locator("[data-field=metric]").select_option("ssim_loss")
    page.get_by_role("button", name="Select shown").click()
    page.locator("[data-bits='4']").click()
    line = Line(page, "precision_state")
    page.get_by_role("button", name="Save into the study").click()
    line.wait()
    page.locator("[data-bits='3']").click()  # while it is kept
    edited = state(page)
    line.free()
    page.get_by_text("Kept as").wait_for()
    (row,) = Study.open(studies_root() / "mine").allocations()
    assert Study.open(recorded).allocations() == []
    assert "study=mine&" in page.url
    assert f"plan={row['name']}" in page.url
    assert state(page) == edited
    assert page.locator("[data-field=metric]").input_value() == "ssim_loss"
    undo = page.get_by_role("button", name="Undo")
    undo.click()
    undo.click()
    assert state(page) == begun
    page.get_by_role("button", name="Save into the study").click()
    page.wait_for_function(
        "document.querySelector('[aria-label=\"Load a plan of the study\"]').options.length === 3"
    )
    assert len(Study.open(studies_root() / "mine").allocations()) == 2
