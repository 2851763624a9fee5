"""How a tab of the Compare page follows a job, in the browser: what is told, when it is asked, what is never lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dqviz import studies
from dqviz.jobs import JobStore
from dqviz.study_folder import studies_root
from tests.app.conftest import FakeCompare, Served
from tests.app.test_browser import opened, run_to_end, state
from tests.app.test_runs_browser import FIRST, runs_page

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]


def running(page: Any, served: Served) -> Any:
    """The page, once it follows the job that its form asks for."""
    opened(page, served)
    page.click("#dq-run")
    state(page, "running")
    return page


def run_seeds(page: Any, seeds: str) -> None:
    """Press Run with these seeds in the form."""
    page.fill("#dq-seeds textarea", seeds)
    page.keyboard.press("Tab")
    page.click("#dq-run")


def test_a_reload_during_a_job_re_attaches(serve: Serve, new_page: Pages) -> None:
    served = serve(FakeCompare(steps=1))
    page = opened(new_page(), served)
    page.click("#dq-run")
    page.wait_for_function("location.search.startsWith('?study=')")
    page.wait_for_function("document.querySelector('#dq-run').innerText === 'Run'")
    served.compare.held, served.compare.held_from = {FIRST}, (0, 1)
    page.click("#dq-run")
    page.wait_for_function("document.querySelectorAll('.dq-tile:not(.dq-blank)').length === 4")
    assert "?study=" in page.url
    assert "&job=" in page.url
    page.reload()
    state(page, "running")
    page.wait_for_function("document.querySelectorAll('.dq-tile:not(.dq-blank)').length >= 4")
    page.wait_for_function("document.querySelector('#dq-run').innerText === 'Run next'")
    page.click("#dq-cancel")
    state(page, "cancelled")
    assert "job=" not in page.url


def test_a_run_right_after_another_is_followed_every_time(serve: Serve, new_page: Pages) -> None:
    """Pressed as fast as the page allows; news of a job never waits for what was said of the one before."""
    served = serve(FakeCompare(steps=1, held={FIRST}))
    page = opened(new_page(), served)
    for _ in range(6):
        page.wait_for_function("document.querySelector('#dq-run').innerText === 'Run'")
        page.click("#dq-run")
        page.wait_for_function("document.querySelector('#dq-run').innerText === 'Run next'")
        page.click("#dq-cancel")
        state(page, "cancelled")
    jobs = JobStore().jobs()
    assert [job.state for job in jobs] == ["cancelled"] * 6
    assert page.get_attribute("#dq-status .dq-status", "data-job") == jobs[0].id


def test_an_answer_that_was_lost_is_asked_for_again(serve: Serve, new_page: Pages) -> None:
    served = serve(FakeCompare(steps=1, held={FIRST}))
    page = running(new_page(), served)
    lost: list[str] = []

    def lose(route: Any) -> None:
        """The server says something, and nothing arrives."""
        answer = route.fetch()
        said = answer.json()
        lost.append(json.dumps(said["data"]))
        route.fulfill(json={**said, "data": [{"__type__": "update"}] * len(said["data"])})

    page.route("**/run/predict*", lose)
    served.compare.held.clear()
    page.wait_for_timeout(1500)
    assert any("idle" in said for said in lost)
    page.unroute_all(behavior="wait")  # a request that is held by nobody would never be answered
    state(page, "idle")
    page.wait_for_selector(".dq-headline")
    page.wait_for_function("document.querySelector('#dq-run').innerText === 'Run'")


def test_what_is_refused_stands_beside_the_job_that_goes_on(serve: Serve, new_page: Pages) -> None:
    served = serve(FakeCompare(held={FIRST}))
    page = running(new_page(), served)
    run_seeds(page, "9-1")
    alert = page.locator("#dq-status [role=alert]")
    alert.wait_for()
    assert "runs backwards" in alert.inner_text()
    page.wait_for_timeout(1000)
    assert alert.is_visible()
    assert page.get_attribute("#dq-status .dq-status", "data-state") == "running"
    page.click("#dq-cancel")
    state(page, "cancelled")
    assert alert.count() == 0


def test_how_a_job_ended_is_not_hidden_by_what_was_refused_before(
    serve: Serve, new_page: Pages
) -> None:
    served = serve(FakeCompare(held={FIRST}))
    page = running(new_page(), served)
    run_seeds(page, "abc")
    page.locator("#dq-status [role=alert]").wait_for()
    runs = runs_page(new_page(), served)
    runs.locator(".dq-job[data-state=running]").get_by_role("button", name="Cancel").click()
    state(page, "cancelled")
    assert "abc" not in page.inner_text("#dq-status")


def test_a_job_that_is_gone_is_asked_about_once(serve: Serve, new_page: Pages) -> None:
    """Cancelled and deleted elsewhere, while nobody looked at this tab."""
    served = serve(FakeCompare(held={FIRST}))
    page = running(new_page(), served)
    hide = (
        "hidden => Object.defineProperty(document, 'hidden', {configurable: true, value: hidden})"
    )
    page.evaluate(hide, True)
    runs = runs_page(new_page(), served)
    runs.locator(".dq-job[data-state=running]").get_by_role("button", name="Cancel").click()
    ended = runs.locator(".dq-job[data-state=cancelled]")
    ended.get_by_role("button", name="Delete").click()
    ended.get_by_role("button", name="Delete for good").click()
    ended.wait_for(state="detached")
    page.evaluate(hide, False)
    state(page, "failed")
    assert "there is no job" in page.inner_text("#dq-status")
    assert "job=" not in page.url
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if "/run/predict" in r.url else None)
    page.wait_for_timeout(1000)
    assert not asked


def test_a_study_that_is_chosen_during_a_job_stays(serve: Serve, new_page: Pages) -> None:
    """The job is told in the strip alone: its pictures are none of the study that is shown."""
    served = serve(FakeCompare(steps=4))
    page = opened(new_page(), served)
    run_to_end(page)
    (own,) = studies_root().iterdir()
    studies.duplicate(own)
    page.reload()
    page.wait_for_selector(".dq-headline")
    served.compare.held, served.compare.held_from = {FIRST}, (1, 1)
    page.click("#dq-run")
    page.wait_for_function("document.querySelectorAll('.dq-tile:not(.dq-blank)').length === 8")

    def choose(name: str) -> None:
        page.click("#dq-study input")
        page.get_by_role("option", name=name, exact=True).click()

    tiles = "[...document.querySelectorAll('.dq-tile canvas, .dq-tile img')].map(e => e.src || e.toDataURL()).join()"
    (copy,) = [f.name for f in studies_root().iterdir() if f != own]
    choose(copy)
    page.wait_for_function("document.querySelectorAll('.dq-tile:not(.dq-blank)').length === 12")
    before = page.evaluate(tiles)
    assert page.get_attribute("#dq-status .dq-status", "data-state") == "running"
    served.compare.held_from = (1, 3)
    page.wait_for_timeout(1500)
    assert page.evaluate(tiles) == before
    choose(own.name)
    page.wait_for_function("document.querySelectorAll('.dq-tile:not(.dq-blank)').length === 8")
    choose(copy)
    page.wait_for_function("document.querySelectorAll('.dq-tile:not(.dq-blank)').length === 12")
    served.compare.held.clear()
    state(page, "idle")
    page.wait_for_function("document.querySelector('#dq-run').innerText === 'Run'")
    assert page.evaluate(tiles) == before
    assert page.input_value("#dq-study input") == copy


def test_a_tab_asks_only_while_it_follows_a_job(serve: Serve, new_page: Pages) -> None:
    served = serve(FakeCompare(held={FIRST}))
    page = opened(new_page(), served)
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if "/run/predict" in r.url else None)
    page.wait_for_timeout(1000)
    assert not asked
    page.click("#dq-run")
    state(page, "running")
    page.wait_for_timeout(1000)
    assert len(asked) > 2
    served.compare.held.clear()
    state(page, "idle")
    page.wait_for_timeout(500)
    settled = len(asked)
    page.wait_for_timeout(1000)
    assert len(asked) == settled


def test_closing_the_tab_cancels_nothing_and_another_browser_sees_it(
    serve: Serve, new_page: Pages
) -> None:
    served = serve(FakeCompare(steps=6, held={FIRST}))
    first = opened(new_page(), served)
    first.click("#dq-run")
    state(first, "running")
    first.context.close()
    second = new_page()
    second.goto(served.url)
    state(second, "running")
    served.compare.held.clear()
    state(second, "idle")
    second.wait_for_selector(".dq-headline")
    second.wait_for_function("document.querySelectorAll('.dq-tile:not(.dq-blank)').length === 12")


def test_run_next_queues_and_the_page_follows_the_new_one(serve: Serve, new_page: Pages) -> None:
    served = serve(FakeCompare(steps=4, held={FIRST, (5, 6)}))
    page = running(new_page(), served)
    page.wait_for_function("document.querySelector('#dq-run').innerText === 'Run next'")
    run_seeds(page, "5-6")
    state(page, "waiting")
    assert "1 job is ahead" in page.inner_text("#dq-status")
    page.wait_for_timeout(1500)  # time for a late answer about the first one
    assert "1 job is ahead" in page.inner_text("#dq-status")
    served.compare.held.discard(FIRST)
    state(page, "running")
    served.compare.held.clear()
    state(page, "idle")
    assert [r.seeds for r in served.compare.requests] == [(0, 1, 2, 3), (5, 6)]
    page.wait_for_function("document.querySelectorAll('.dq-tile:not(.dq-blank)').length === 6")


def test_cancel_of_a_waiting_job_goes_back_to_the_running_one(
    serve: Serve, new_page: Pages
) -> None:
    served = serve(FakeCompare(held={FIRST}))
    page = running(new_page(), served)
    first = page.get_attribute("#dq-status .dq-status", "data-job")
    page.wait_for_function("document.querySelector('#dq-run').innerText === 'Run next'")
    page.click("#dq-run")
    state(page, "waiting")
    page.click("#dq-cancel")
    state(page, "running")
    assert page.get_attribute("#dq-status .dq-status", "data-job") == first
    served.compare.held.clear()
