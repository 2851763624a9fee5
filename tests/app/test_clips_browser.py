"""Clips in a browser: all of them step together, by mouse and by keyboard, in the app and the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dqviz.report import write_report
from dqviz.study import Study
from tests.app.accessibility import violations
from tests.app.conftest import FakeCompare, Served
from tests.app.test_browser import NASTY, low_contrast
from tests.clips import write_clip_study

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]

# What the canvases of the first row, the loupe's halves and its difference show, as hashes.
SHOWN = """() => [...document.querySelectorAll('.dq-grid tbody tr:first-child canvas, .dq-stage canvas, .dq-diff')]
  .map(c => c.width + 'x' + c.height + ':' + c.toDataURL().length + c.toDataURL().slice(-80))"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_clip_study(tmp_path_factory.mktemp("clips") / "clips", seeds=(0, 1, 2, 3, 4))


@pytest.fixture
def opened(serve: Serve, new_page: Pages, clips: Study) -> Callable[..., Any]:
    def open_page(**how: Any) -> Any:
        from dqviz.ui.library import Library

        served = serve(library=Library(pinned=clips.folder))
        page = new_page(**how)
        page.goto(served.url + "?study=clips")
        ready(page)
        return page

    return open_page


@pytest.fixture(scope="module")
def report(clips: Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(clips, None, tmp_path_factory.mktemp("r") / "report.html").as_uri()


@pytest.fixture
def reported(report: str, new_page: Pages) -> Any:
    """The same clips in a report, which opens faster than the app."""
    page = new_page()
    page.goto(report)
    ready(page)
    return page


def until(page: Any, holds: str) -> None:
    """Wait for a condition: asked from here, since a report's page may not evaluate text by itself."""
    deadline = time.monotonic() + 30
    while not page.evaluate(holds):
        assert time.monotonic() < deadline, holds
        page.wait_for_timeout(50)


def ready(page: Any) -> None:
    page.wait_for_selector(".dq-bars span")
    until(page, "document.querySelector('.dq-diffpanel .dq-sub').textContent")
    until(
        page, "[...document.querySelectorAll('.dq-grid tbody canvas')].every(c => c.width === 36)"
    )


def count(page: Any) -> str:
    return page.inner_text(".dq-count")


def test_the_scrubber_moves_every_clip_and_the_difference(reported: Any) -> None:
    page = reported
    first = page.evaluate(SHOWN)
    assert len(first) == 6
    assert {shown.partition(":")[0] for shown in first} == {"36x24"}
    scrubber = page.get_by_label("Frame", exact=True)
    scrubber.focus()
    page.keyboard.press("End")
    assert count(page) == "6 / 6"
    assert scrubber.get_attribute("aria-valuetext") == "frame 6 of 6"
    last = page.evaluate(SHOWN)
    assert all(a != b for a, b in zip(first, last))
    assert "Frame 6: mean" in page.inner_text(".dq-diffpanel .dq-sub")
    assert page.locator(".dq-bars span").count() == 6
    assert "dq-now" in (page.locator(".dq-bars span").last.get_attribute("class") or "")
    page.keyboard.press("Home")
    assert page.evaluate(SHOWN) == first


def test_keys_play_and_step_wherever_the_focus_is(reported: Any) -> None:
    page = reported
    page.locator(".dq-cut").focus()  # its arrows divide left from right
    page.keyboard.press(".")
    page.keyboard.press(".")
    assert count(page) == "3 / 6"
    page.keyboard.press(",")
    assert count(page) == "2 / 6"
    page.keyboard.press("k")
    page.get_by_role("button", name="Pause").wait_for()
    until(page, "document.querySelector('.dq-count').textContent !== '2 / 6'")
    page.keyboard.press("k")
    page.get_by_role("button", name="Play").wait_for()
    stopped = count(page)
    page.wait_for_timeout(400)
    assert count(page) == stopped
    page.locator(".dq-loupebar select").first.focus()  # typing there searches, and does not play
    page.keyboard.press("k")
    assert page.get_by_role("button", name="Pause").count() == 0


def test_keys_work_on_a_page_where_nothing_has_the_focus(opened: Callable[..., Any]) -> None:
    page = opened()
    assert page.evaluate("document.activeElement === document.body")
    page.keyboard.press(".")
    assert count(page) == "2 / 6"
    page.keyboard.press("k")
    page.get_by_role("button", name="Pause").wait_for()
    page.keyboard.press("k")
    stopped = count(page)
    page.locator("#dq-seeds textarea").focus()
    for key in ("End", ",", ".", "k"):
        page.keyboard.press(key)
    assert page.input_value("#dq-seeds textarea").endswith(",.k"), "there they are text"
    assert count(page) == stopped
    assert page.get_by_label("Left clip").count() == 1


def test_clips_stand_until_they_are_played_and_play_on_when_a_pair_is_chosen(
    reported: Any,
) -> None:
    page = reported
    page.wait_for_timeout(500)
    assert count(page) == "1 / 6"
    page.get_by_role("button", name="Play").click()
    until(page, "document.querySelector('.dq-count').textContent !== '1 / 6'")
    page.click(".dq-grid tbody tr:nth-child(2) td:nth-of-type(2) button")
    chosen = [s.input_value() for s in page.locator(".dq-loupebar select").all()]
    assert chosen == ["1", "0", "1"]
    assert page.get_by_role("button", name="Pause").count() == 1
    page.locator(".dq-bars").click(position={"x": 3, "y": 30})
    assert count(page) == "1 / 6"
    assert page.get_by_role("button", name="Pause").count() == 0


def test_differences_of_all_clips_and_more_samples(opened: Callable[..., Any]) -> None:
    page = opened()
    before = page.evaluate(SHOWN)
    page.get_by_role("button", name="Difference").click()
    until(page, f"({SHOWN})()[1] !== {before[1]!r}")
    after = page.evaluate(SHOWN)
    assert after[0] == before[0], "full precision stays"
    assert after[2] != before[2]
    page.get_by_role("button", name="Show 1 more of 1").click()
    until(page, "document.querySelectorAll('.dq-tile:not(.dq-blank) canvas').length === 15")


@pytest.mark.parametrize(
    ("width", "dark", "in_app"), [(390, False, True), (390, True, False), (1440, True, False)]
)
def test_layout_and_accessibility(
    opened: Callable[..., Any],
    new_page: Pages,
    report: str,
    width: int,
    dark: bool,
    in_app: bool,
) -> None:
    if in_app:
        page = opened(width=width, dark=dark)
    else:
        page = new_page(width=width, dark=dark)
        page.goto(report)
        ready(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert low_contrast(page) == []
    ours = [v for v in violations(page) if ".dq-" in v]
    assert ours == []
    page.evaluate("document.querySelector('.dq-bars').scrollIntoView({block: 'center'})")
    player = page.locator(".dq-player").bounding_box()
    assert player["y"] >= -1, "the player stays in view beside what it plays"


def test_clips_appear_frame_by_frame_while_they_are_drawn(serve: Serve, new_page: Pages) -> None:
    page = new_page()
    compare = FakeCompare(frames=5, held={(0, 1, 2, 3)}, held_from=(0, 1))
    page.goto(serve(compare).url)
    page.wait_for_selector("#dq-runs select")
    page.click("#dq-run")
    until(page, "document.querySelectorAll('.dq-tile:not(.dq-blank) img').length === 4")
    compare.held_from = (1, 1)
    until(page, "document.querySelector('.dq-player') !== null")  # full precision is finished
    drawing = "document.querySelectorAll('.dq-grid tbody td:nth-of-type(2) .dq-tile:not(.dq-blank) canvas')"
    until(page, f"{drawing}.length === 4 && {drawing}[0].width === 8")
    page.get_by_label("Frame", exact=True).focus()
    page.keyboard.press("End")  # what is being drawn has one frame, and stays
    assert page.evaluate(f"{drawing}[0].width") == 8
    assert page.locator(".dq-stage canvas").count() == 0
    compare.held.clear()
    until(page, "document.querySelectorAll('.dq-bars span').length === 5")
    assert count(page) == "5 / 5", "the page is drawn anew and stays at its frame"


def test_prompts_are_text(serve: Serve, new_page: Pages, tmp_path: Path) -> None:
    study = write_clip_study(tmp_path / "nasty", seeds=(0,))
    with study._database() as db:
        for table in ("recipe", "record"):
            db.execute(f"UPDATE runs SET {table} = replace({table}, 'blurry', ?)", (hostile(),))
    page = new_page()
    page.goto(write_report(study, None, tmp_path / "report.html").as_uri())
    ready(page)
    assert NASTY in page.inner_text(".dq-grid tbody")
    assert page.evaluate("window.hacked") is None


def hostile() -> str:
    """As it stands inside JSON."""
    import json

    return json.dumps(NASTY)[1:-1]
