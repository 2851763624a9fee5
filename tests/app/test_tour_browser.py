"""The tour in a browser: the slider, pictures that zoom together, the blind test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scipy.stats import binomtest

from dqviz.study_folder import studies_root
from tests.app.accessibility import violations
from tests.app.conftest import Served
from tests.app.test_browser import low_contrast
from tests.app.test_tour import store

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]
NASTY = "<img src=x onerror='window.hacked=1'>${window.hacked=1}{{1}}"


@pytest.fixture
def toured(
    serve: Serve, new_page: Pages, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> Callable[..., Any]:
    """Opens the tour of a study; further calls open it in the same browser."""
    from dqviz import studies, study_folder

    for module in (study_folder, studies):
        monkeypatch.setattr(module, "RECORDED", tmp_path / "recorded")
    served = serve()
    store(studies_root() / "mine", NASTY)
    pages: list[Any] = []

    def open_tour(query: str = "", **how: Any) -> Any:
        page = pages[0] if pages and not how else new_page(**how)
        pages.append(page)
        page.goto(f"{served.url}tour{query}")
        page.wait_for_selector(".dq-tour")
        return page

    return open_tour


def test_the_slider_leads_by_keyboard_and_by_label(toured: Any) -> None:
    page = toured()
    assert NASTY in page.inner_text(".dq-tour .dq-lede >> nth=0")
    assert page.evaluate("window.hacked") is None
    slider = page.get_by_label("From best quality to smallest size")
    slider.focus()
    page.keyboard.press("End")
    assert "Half of the memory" in page.inner_text(".dq-say")
    assert "50 %" in page.inner_text(".dq-saved")
    assert slider.get_attribute("aria-valuetext") == "4-bit, 50 % of the memory"
    assert "plan=viditq-w4a8" in page.url
    page.keyboard.press("Home")
    assert "nothing saved yet" in page.inner_text(".dq-say")
    page.get_by_role("button", name="8-bit").click()
    assert slider.input_value() == "1"
    page.reload()
    page.wait_for_selector(".dq-tour")
    assert "Three quarters of the memory; in 3 of 4" in page.inner_text(".dq-say")


def test_pictures_zoom_and_move_together(toured: Any) -> None:
    page = toured()
    pair = page.locator(".dq-tour .dq-pair")
    transforms = "[...document.querySelectorAll('.dq-tour .dq-pair img')].map(i => getComputedStyle(i).transform)"
    assert page.evaluate(transforms) == ["matrix(1, 0, 0, 1, 0, 0)"] * 2
    pair.focus()
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    first, second = page.evaluate(transforms)
    assert first == second
    assert first.startswith("matrix(4, 0, 0, 4, -")
    assert page.inner_text(".dq-looktools output") == "4×"
    box = pair.bounding_box()
    page.mouse.move(box["x"] + 80, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 40, box["y"] + 60)
    page.mouse.up()
    moved = page.evaluate(transforms)
    assert moved[0] == moved[1] != first
    page.locator(".dq-thumb").nth(2).click()
    assert page.locator(".dq-thumb").nth(2).get_attribute("aria-pressed") == "true"
    assert page.evaluate(transforms) == moved, "the next sample at the same place"


def test_a_blind_test_is_answered_by_keys_kept_and_can_be_passed_on(toured: Any) -> None:
    page = toured("?plan=viditq-w4a8")
    page.get_by_role("button", name="Start the blind test").click()
    page.wait_for_selector(".dq-answer")
    assert "pair 1 of 4" in page.inner_text(".dq-round")
    labels = page.evaluate("[...document.querySelectorAll('.dq-blind img')].map(i => i.alt).join()")
    assert labels == "Picture 1,Picture 2", "nothing gives the answer away"
    page.keyboard.press("1")
    page.keyboard.press("0")
    assert "pair 3 of 4" in page.inner_text(".dq-round")
    seed = page.evaluate("Object.keys(JSON.parse(localStorage['dqviz-blind']))[0].split('/')[2]")

    toured(f"?plan=viditq-w4a8&seed={seed}#blind")
    page.wait_for_function(
        "document.querySelector('.dq-round')?.textContent.includes('pair 3 of 4')"
    )
    page.get_by_role("button", name="Picture 2").click()
    page.keyboard.press("2")
    page.wait_for_selector(".dq-reveal")
    text = page.inner_text(".dq-blind")
    assert "of 3 answers" in text
    assert "95 % interval" in text.replace("\u00a0", " ")
    assert "In 1 of 4 pairs you could not tell" in text
    assert page.locator(".dq-reveal figure").count() == 4

    page.get_by_role("button", name="Test again").click()
    page.get_by_role("button", name="Start the blind test").wait_for()
    assert "seed=" not in page.url
    page.keyboard.press("1")
    assert page.locator(".dq-answer").count() == 0, "keys answer only while a test runs"


def modules(page: Any, code: str, value: Any) -> Any:
    return page.evaluate(
        f"async v => {{ const m = await import(new URL('web/blind.js', document.baseURI)); return {code}; }}",
        value,
    )


def test_intervals_are_wilsons(toured: Any) -> None:
    page = toured()
    cases = [(k, n) for n in (1, 3, 16, 40) for k in range(0, n + 1, max(1, n // 5))]
    found = modules(page, "v.map(([k, n]) => m.wilson(k, n))", cases)
    for (hits, n), pair in zip(cases, found):
        expected = binomtest(hits, n).proportion_ci(method="wilson")
        assert pair == pytest.approx([expected.low, expected.high], abs=1e-9), (hits, n)
    assert modules(page, "m.wilson(0, 0)", None) == [0, 1]


def test_one_seed_is_one_test_and_sides_are_even(toured: Any) -> None:
    page = toured()
    seeds = list(range(1, 201))
    tests = modules(page, "v.map(s => m.pairsOf(s, 24))", seeds)
    assert tests == modules(page, "v.map(s => m.pairsOf(s, 24))", seeds)
    assert len({str(t) for t in tests}) == len(seeds)
    for pairs in tests:
        assert len({p["sample"] for p in pairs}) == 16
        assert {p["sample"] for p in pairs} <= set(range(24))
    firsts = sum(p["first"] for pairs in tests for p in pairs)
    assert binomtest(firsts, 16 * len(seeds)).pvalue > 0.001
    assert len(modules(page, "m.pairsOf(7, 3)", None)) == 3


@pytest.mark.parametrize(
    ("answers", "hits", "words"),
    [
        ([1] * 12, 12, "Better than guessing"),
        ([2] * 12, 0, "Worse than guessing"),
        ([1, 2] * 6, 6, "No better than guessing"),
        ([0] * 12, 0, "could not tell in any pair"),
        ([1, 1, 0], 2, "No better than guessing"),
    ],
)
def test_the_verdict_says_no_more_than_its_interval(
    toured: Any, answers: list[int], hits: int, words: str
) -> None:
    pairs = [{"sample": i, "first": True} for i in range(len(answers))]
    found = modules(toured(), "m.verdict(v[0], v[1])", [pairs, answers])
    assert found["hits"] == hits
    assert found["n"] == sum(a > 0 for a in answers)
    assert words in found["text"]


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1440, False)])
def test_layout(toured: Any, width: int, dark: bool) -> None:
    page = toured("?seed=3", width=width, dark=dark)
    page.wait_for_selector(".dq-answer")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert low_contrast(page) == []
    assert violations(page) == []
    nameless = page.evaluate(
        "[...document.querySelectorAll('.dq-tourpage button, .dq-tourpage input, .dq-tourpage select')]"
        ".filter(e => !(e.getAttribute('aria-label') || e.textContent.trim())).length"
    )
    assert nameless == 0


def test_an_unknown_study_is_said(serve: Serve, new_page: Pages) -> None:
    page = new_page()
    page.goto(f"{serve().url}tour?study={NASTY}")
    page.wait_for_function("document.body.innerText.includes('unknown study')")
    assert page.evaluate("window.hacked") is None
