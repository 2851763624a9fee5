"""Jobs in the browser: reload, second viewers, the Runs page; an app that stops while a job runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dqviz import processes
from dqviz.jobs import JobStore
from dqviz.study import Study
from dqviz.study_folder import studies_root
from tests.app.accessibility import violations
from tests.app.conftest import FakeCompare, Served, stored
from tests.app.test_browser import NASTY, low_contrast, opened, run_to_end, state
from tests.app.test_server import ROOT, free_port, wait_for

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]
FIRST = (0, 1, 2, 3)  # seeds that the form begins with


def runs_page(page: Any, served: Served) -> Any:
    page.goto(served.url + "runs")
    page.wait_for_selector("section[aria-label=Jobs] h2")
    page.wait_for_selector("section[aria-label=Studies] h2")
    return page


def test_opening_a_study_fills_the_form(serve: Serve, new_page: Pages) -> None:
    served = serve()
    page = opened(new_page(), served)
    page.fill("#dq-seeds textarea", "0-2")
    page.get_by_label("Bits of run 1").fill("w8a8")
    page.get_by_label("Bits of run 1").press("Enter")
    page.wait_for_function("document.querySelector('#dq-line code').textContent.includes('w8a8')")
    run_to_end(page)
    fresh = opened(new_page(), served)
    fresh.wait_for_function("document.querySelector('#dq-seeds textarea').value === '0-2'")
    assert fresh.get_by_label("Bits of run 1").input_value() == "w8a8"


def test_the_command_names_the_study_that_was_opened(serve: Serve, new_page: Pages) -> None:
    served = serve()
    for name in ("lrn", "another"):
        Study.create(studies_root() / name, served.compare.model, {"dqviz": "0"})
    page = new_page()
    page.goto(f"{served.url}?study=lrn&model=tiny-dit&method=viditq&bits=w4a8")
    page.wait_for_function("out => document.querySelector('#dq-line code')?.textContent.endsWith(out)", arg=f"--out {studies_root() / 'lrn'}")  # fmt: skip


def test_jobs_and_studies_by_keyboard(serve: Serve, new_page: Pages) -> None:
    served = serve(FakeCompare(held={FIRST}, held_from=(1, 1)))
    page = opened(new_page(), served)
    page.click("#dq-run")
    state(page, "running")
    page = runs_page(new_page(), served)
    job = page.locator(".dq-job[data-state=running]")
    job.wait_for()
    page.wait_for_function("document.querySelector('[role=progressbar]')?.ariaValueNow > 0")
    job.get_by_role("button", name="Log").press("Enter")
    page.wait_for_function("document.querySelector('.dq-log')?.textContent.includes('attempt 1')")
    assert job.get_by_role("button", name="Hide log").evaluate("b => document.activeElement === b")
    job.get_by_role("button", name="Cancel").press("Enter")
    ended = page.locator(".dq-job[data-state=cancelled]")
    ended.wait_for()
    assert ended.get_by_role("button", name="Resume").is_visible()
    ended.get_by_role("button", name="Delete").press("Enter")
    sure = page.get_by_role("button", name="Delete for good")
    assert sure.evaluate("b => document.activeElement === b")
    sure.press("Escape")
    ended.get_by_role("button", name="Delete").press("Enter")
    sure.press("Enter")
    page.wait_for_function("!document.querySelector('.dq-job[data-id]')")
    assert "Nothing has run yet" in page.inner_text("section[aria-label=Jobs]")


def test_the_page_asks_only_while_something_is_active(serve: Serve, new_page: Pages) -> None:
    served = serve(FakeCompare(held={FIRST}, held_from=(1, 1)))
    asked: list[float] = []
    page = new_page()
    page.on(
        "request", lambda r: asked.append(time.monotonic()) if "component_server" in r.url else None
    )
    compare = opened(new_page(), served)
    compare.click("#dq-run")
    state(compare, "running")
    runs_page(page, served)
    page.wait_for_selector(".dq-job[data-state=running]")
    served.compare.held.clear()
    page.wait_for_selector(".dq-job[data-state=done]")
    page.wait_for_selector("[data-study=tiny-dit], [data-study]")
    assert len(asked) >= 3
    page.wait_for_timeout(500)
    settled = len(asked)
    page.wait_for_timeout(3000)
    assert len(asked) == settled


def test_two_studies_side_by_side(serve: Serve, new_page: Pages) -> None:
    served = serve()
    page = opened(new_page(), served)
    run_to_end(page)
    run_to_end(page)
    page = runs_page(new_page(), served)
    row = page.locator(".dq-chooserow")
    row.wait_for()
    assert "rtn-2, viditq-2" in row.inner_text(), "what does not fit into a drop-down stands below"
    for select in row.locator("select").all():
        assert select.evaluate("s => getComputedStyle(s).backgroundImage").count("gradient") == 2
        assert "viditq" not in select.locator("option").first.inner_text()
    page.get_by_role("button", name="Compare the two").click()
    page.wait_for_selector(".dq-beside table")
    assert "seed by seed" in page.inner_text(".dq-beside")
    with page.expect_download() as download:
        page.locator(".dq-beside").get_by_role("button", name="CSV").first.click()
    assert "psnr_db_mean" in Path(download.value.path()).read_text()


def test_names_are_text(serve: Serve, new_page: Pages) -> None:
    model = {**stored()["result"]["model"], "title": NASTY}
    served = serve(FakeCompare(model=model, fails=ValueError(NASTY), fails_in_run=1))
    page = opened(new_page(), served)
    page.click("#dq-run")
    state(page, "failed")
    page = runs_page(new_page(), served)
    page.wait_for_selector("[data-study]")
    assert NASTY in page.inner_text("section[aria-label=Studies]")
    assert NASTY in page.inner_text("section[aria-label=Jobs]")
    page.get_by_role("button", name="Log").click()
    page.wait_for_selector(".dq-log")
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_layout(serve: Serve, new_page: Pages, width: int, dark: bool) -> None:
    served = serve()
    run_to_end(opened(new_page(), served))
    page = runs_page(new_page(width, dark), served)
    page.wait_for_selector(".dq-job")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.body.classList.contains('dark')") is dark
    assert low_contrast(page) == []
    assert violations(page) == []
    assert page.locator("h1").count() == 1
    outside = page.evaluate("""() => [...document.querySelectorAll('.dq-top a, .dq-top button')]
      .filter(e => e.offsetParent && (e.getBoundingClientRect().right > innerWidth || e.getBoundingClientRect().left < 0)).length""")
    assert outside == 0 or width == 390, "on narrow screens the links scroll"


def test_eight_viewers_see_one_job(serve: Serve, new_page: Pages) -> None:
    served = serve(FakeCompare(held={FIRST}, held_from=(1, 1)))
    viewers = [new_page() for _ in range(8)]
    opened(viewers[0], served)
    viewers[0].click("#dq-run")
    state(viewers[0], "running")
    for page in viewers[1:]:
        page.goto(served.url)
    for page in viewers:
        page.wait_for_function("document.querySelector('.dq-when')?.textContent.includes('%')")
        page.wait_for_function("document.querySelectorAll('.dq-tile:not(.dq-blank)').length >= 4")
    viewers[7].click("#dq-cancel")
    for page in viewers:
        state(page, "cancelled")


# -- the app as a process of its own


@pytest.fixture
def start_app() -> Iterator[Callable[[], tuple[Any, str]]]:
    """Starts the app as a person does; at the end nothing of it runs, workers neither."""
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[Any, str]:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py")],
            env={**os.environ, "DQVIZ_PORT": str(port)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        url = f"http://127.0.0.1:{port}/"
        assert wait_for(lambda: httpx.get(url).status_code == 200, process)
        return process, url

    yield start
    for process in started:
        process.kill()
        process.communicate()
    for job in JobStore().jobs():
        if job.pid and job.born:
            processes.kill(job.pid, job.born)


def test_the_app_is_killed_during_a_job_and_another_takes_over(
    start_app: Callable[[], tuple[Any, str]], new_page: Pages, tiny_dit: Path
) -> None:
    """kill -9 of the app: the worker goes on. kill -9 of the worker: the next app has it resumed."""
    store = JobStore()
    first, url = start_app()
    page = new_page()
    page.set_default_timeout(90_000)
    page.goto(f"{url}")
    page.wait_for_selector("#dq-runs select")
    page.fill("#dq-model input", str(tiny_dit))
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#dq-steps input').value === '4'")
    page.fill("#dq-steps input", "400")
    page.fill("#dq-seeds textarea", "0-7")
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelector('#dq-line code').textContent.includes('400')")
    page.click("#dq-run")
    page.wait_for_function("document.querySelector('.dq-when').textContent.includes('%')")
    page.context.close()
    (job,) = store.jobs()
    first.kill()
    first.wait()
    assert processes.is_alive(job.pid, job.born), "the worker outlives the app"

    _, url = start_app()
    page = new_page()
    page.set_default_timeout(90_000)
    page.goto(url)
    page.wait_for_function("document.querySelector('.dq-when')?.textContent.includes('%')")
    (same,) = store.jobs()
    assert (same.id, same.attempts, same.pid) == (job.id, 1, job.pid)
    assert job.pid is not None
    os.kill(job.pid, signal.SIGKILL)
    deadline = time.monotonic() + 90
    while (again := store.get(job.id)).attempts < 2 or not again.done:
        assert time.monotonic() < deadline, again
        time.sleep(0.1)
    assert again.state == "running"
    page.click("#dq-cancel")
    state(page, "cancelled")


def test_a_fresh_machine_opens_on_the_recorded_study_with_a_short_form(
    serve: Serve, new_page: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("dqviz.study_folder", "dqviz.studies"):
        monkeypatch.setattr(f"{module}.RECORDED", ROOT / "assets" / "studies")
    page = opened(new_page(), serve())
    page.wait_for_selector(".dq-headline")
    assert "recorded" in page.inner_text(".dq-headline h2")
    assert page.input_value("#dq-seeds textarea") == "0-3"
    page.goto(page.url.split("?")[0] + "?study=dit-emoji")
    page.wait_for_selector(".dq-headline")
    page.wait_for_function("document.querySelector('#dq-seeds textarea').value !== '0-3'")


def test_the_only_study_takes_the_runs_and_the_command_names_it(
    serve: Serve, new_page: Pages
) -> None:
    """With one study there is nothing to choose: its drop-down is hidden, and still counts."""
    served = serve()
    folder = studies_root() / "lrn"
    Study.create(folder, served.compare.model, {"dqviz": "0"})
    page = new_page()
    page.goto(f"{served.url}?study=lrn&model=tiny-dit&method=viditq&bits=w4a8")
    page.wait_for_selector("#dq-runs select")
    line = "document.querySelector('#dq-line code').textContent"
    page.wait_for_function(f"{line}.includes('--out') && {line}.includes('/lrn')")
    assert not page.locator("#dq-study").is_visible()
    page.click("#dq-run")
    page.wait_for_function("document.querySelector('#dq-status .dq-status').dataset.job")
    assert [job.study for job in JobStore().jobs()] == [folder]
