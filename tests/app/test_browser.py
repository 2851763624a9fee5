"""The page in a headless Chromium: what only JavaScript and a real layout can show."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quant.errors import BadInput
from tests.app.conftest import FakeCompare, Served, stored
from tests.app.test_fit import FOUND

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]
NASTY = "<img src=x onerror='window.hacked=1'>${window.hacked=1}{{1}}"


def opened(page: Any, served: Served, query: str = "") -> Any:
    page.goto(served.url + query)
    page.wait_for_selector("#dq-result .dq-view > *")
    page.wait_for_selector("#dq-runs select")
    return page


def state(page: Any, *wanted: str) -> None:
    """Wait until the status strip is in one of these states."""
    test = "w => w.includes(document.querySelector('#dq-status .dq-status')?.dataset.state)"
    page.wait_for_function(test, arg=list(wanted))


def run_to_end(page: Any) -> None:
    """Press Run, and wait until the page shows how that very job ended."""
    status = "document.querySelector('#dq-status .dq-status').dataset"
    before = page.evaluate(f"{status}.job")
    page.click("#dq-run")
    ended = (
        f"b => {status}.job && {status}.job !== b && ['idle', 'failed'].includes({status}.state)"
    )
    page.wait_for_function(ended, arg=before)
    page.wait_for_selector(".dq-headline")


def choose_model(page: Any, model: str) -> None:
    page.fill("#dq-model input", model)
    page.keyboard.press("Enter")
    page.wait_for_function(
        "m => document.querySelector('#dq-line code').textContent.includes(m)", arg=model
    )


# The sum of all values of a tile's difference.
BRIGHTNESS = "() => { const c = document.querySelector('.dq-differs canvas'); return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.reduce((a, b) => a + b, 0); }"  # fmt: skip


def test_one_click_runs_and_the_result_can_be_explored(serve: Serve, new_page: Pages) -> None:
    served = serve()
    page = opened(new_page(), served)
    assert page.locator("h1").inner_text() == "DQ-Viz"
    assert "Press Run" in page.inner_text("#dq-result")
    run_to_end(page)
    assert served.compare.requests[0].methods == ("rtn", "viditq")
    assert page.locator(".dq-tile:not(.dq-blank)").count() == 12
    assert "study=" in page.url
    page.wait_for_selector(".dq-plot .scatterlayer")

    page.click(".dq-grid tbody tr:nth-child(2) td:nth-of-type(2) button")
    chosen = [s.input_value() for s in page.locator(".dq-loupebar select").all()]
    assert chosen == ["1", "0", "1"]
    cut = page.locator(".dq-cut")
    cut.focus()
    page.keyboard.press("Home")
    assert (
        page.evaluate("document.querySelector('.dq-stage').style.getPropertyValue('--cut')") == "0%"
    )
    page.wait_for_function(
        "document.querySelector('.dq-diffpanel .dq-sub').textContent.startsWith('Difference ×4')"
    )

    page.get_by_role("button", name="Difference").click()
    page.wait_for_selector(".dq-tile.dq-differs")
    caption = page.locator(".dq-grid caption")
    assert caption.inner_text() == "Pictures, difference ×4"
    faint = page.evaluate(BRIGHTNESS)
    page.get_by_role("button", name="×4", exact=True).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function(f"({BRIGHTNESS})() > {faint}")
    assert caption.inner_text() == "Pictures, difference ×16"
    told = (
        "document.querySelector('.dq-diffpanel .dq-sub').textContent.startsWith('Difference ×16')"
    )
    page.wait_for_function(told)
    page.click(".dq-grid tbody tr:nth-child(1) td:nth-of-type(3) button")
    page.wait_for_function(told)
    with page.expect_download() as download:
        page.locator("section", has_text="Quality, size, time").get_by_role(
            "button", name="CSV"
        ).click()
    assert Path(download.value.path()).read_text().startswith("name,method,bits,psnr_db_mean")
    with page.expect_download() as download:
        page.get_by_role("button", name="Study record (JSON)").click()
    assert "dqviz study" in Path(download.value.path()).read_text()

    page.reload()
    page.wait_for_selector(".dq-headline")
    assert page.locator(".dq-tile:not(.dq-blank)").count() == 12, "the study is still there"


def test_pictures_appear_while_they_are_drawn_and_cancel_stops(
    serve: Serve, new_page: Pages
) -> None:
    compare = FakeCompare(held={(0, 1, 2, 3)}, held_from=(1, 1))
    page = opened(new_page(), serve(compare))
    page.click("#dq-run")
    page.wait_for_function("document.querySelectorAll('.dq-tile:not(.dq-blank)').length >= 4")
    assert page.inner_text("#dq-run") == "Run next"
    page.wait_for_function("document.querySelector('.dq-when').textContent.includes('%')")
    page.wait_for_function("document.querySelectorAll('.dq-tile:not(.dq-blank)').length === 8")
    page.click("#dq-cancel")
    state(page, "cancelled")
    assert "1 finished run kept" in page.inner_text("#dq-status")
    assert page.locator(".dq-tile:not(.dq-blank)").count() == 4
    page.wait_for_function("document.querySelector('#dq-run').innerText === 'Run'")
    page.click("#dq-run")
    state(page, "running")
    page.keyboard.press("Escape")
    state(page, "cancelled")


def test_an_error_names_the_value_and_keeps_the_form(serve: Serve, new_page: Pages) -> None:
    served = serve(FakeCompare(fails=BadInput(f"class '{NASTY}' was never trained; nearest: cat")))
    page = opened(new_page(), served)
    page.fill("#dq-seeds textarea", "0-1")
    page.keyboard.press("Control+Enter")
    state(page, "failed")
    assert "nearest: cat" in page.inner_text("#dq-status [role=alert]")
    assert page.input_value("#dq-seeds textarea") == "0-1"
    assert served.compare.requests[0].seeds == (0, 1)
    assert page.evaluate("window.hacked") is None

    page.fill("#dq-seeds textarea", "9-1")
    page.keyboard.press("Tab")
    page.click("#dq-run")
    page.wait_for_function(
        "document.querySelector('#dq-status').innerText.includes('runs backwards')"
    )


def test_what_failed_at_once_leaves_the_page_as_it_was(serve: Serve, new_page: Pages) -> None:
    served = serve(FakeCompare(fails=BadInput("there is no such folder"), fails_in_run=-1))
    page = opened(new_page(), served)
    page.click("#dq-run")
    state(page, "failed")
    page.wait_for_selector(".dq-empty")
    assert page.locator(".dq-tile, .dq-headline").count() == 0
    served.compare.fails = None
    run_to_end(page)
    kept = page.inner_text(".dq-headline")
    served.compare.fails = BadInput("there is no such folder")
    page.click("#dq-run")
    state(page, "failed")
    page.wait_for_selector(".dq-plot")
    assert page.inner_text(".dq-headline") == kept


def test_the_answer_whether_it_fits_is_of_the_form_as_it_is(
    serve: Serve, new_page: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, hold = [], threading.Event()

    def ask(request: Any) -> dict[str, Any]:
        asked.append(request)
        hold.wait(20)
        return FOUND

    monkeypatch.setattr("dqviz.ui.fit.ask", ask)
    page = opened(new_page(1440), serve())
    box = page.locator("#dq-check").bounding_box()
    assert box["y"] + box["height"] < 900, "it is above the fold"
    page.click("#dq-check")
    page.click("#dq-check")
    page.wait_for_selector(".dq-fit-busy")
    assert page.inner_text("#dq-fit") == "Looking at the model…"
    page.fill("#dq-seeds textarea", "0-2")
    page.wait_for_selector(".dq-fit", state="detached")
    page.click("#dq-check")  # the form as it is now, though the answer of before is still to come
    page.wait_for_selector(".dq-fit-busy")
    hold.set()
    page.wait_for_selector(".dq-fit-refused")
    assert [len(request.seeds) for request in asked] == [4, 3], "a second click meanwhile is none"
    card = page.locator(".dq-fit").bounding_box()
    assert box["y"] + box["height"] < card["y"]
    assert card["y"] + card["height"] <= 900
    page.get_by_role("button", name="W4A4", exact=True).click()
    page.wait_for_selector(".dq-fit", state="detached")


def test_blank_frames_stay_blank_and_no_border_is_cut(serve: Serve, new_page: Pages) -> None:
    page = opened(new_page(), serve())
    page.click("#dq-advanced button")
    frames = page.locator("#dq-frames textarea")
    assert frames.input_value() == ""
    assert frames.get_attribute("placeholder") == "the model's own"
    frames.fill("0")
    page.wait_for_timeout(300)
    assert page.inner_text("#dq-line code").startswith("dqviz compare")
    frames.fill("many")
    page.wait_for_function(
        "document.querySelector('#dq-line code').textContent.startsWith(\"# frames 'many'\")"
    )
    drop, following = (
        page.locator(s).bounding_box()
        for s in ("#dq-plan .upload-container", "#dq-candidates label > span")
    )
    assert following["y"] - (drop["y"] + drop["height"]) >= 12
    assert (
        page.evaluate(
            "getComputedStyle(document.querySelector('#dq-plan .upload-container')).borderStyle"
        )
        == "dashed"
    )


def test_a_command_breaks_before_options_alone(serve: Serve, new_page: Pages) -> None:
    page = opened(new_page(), serve())
    lines = page.evaluate("""() => [...document.querySelectorAll('#dq-line .dq-part')]
      .map(part => [part.textContent, part.getClientRects().length, part.offsetHeight])""")
    assert "--method viditq" in [text for text, _, _ in lines]
    assert {rects for _, rects, _ in lines} == {1}
    assert len({high for _, _, high in lines}) == 1, "each on one line"
    whole = page.inner_text("#dq-line code").split()
    assert whole[:4] == ["dqviz", "compare", "dit-emoji", "--method"]


def test_a_table_that_is_cut_shows_it_and_its_rows_stay_low(serve: Serve, new_page: Pages) -> None:
    page = opened(new_page(390), serve())
    run_to_end(page)
    cut = page.evaluate("""() => [...document.querySelectorAll('.dq-scroll')]
      .filter(n => n.querySelector('.dq-table') && n.scrollWidth > n.clientWidth)
      .map(n => getComputedStyle(n).backgroundImage.split('linear-gradient').length - 1)""")
    assert cut
    assert set(cut) == {4}
    high = page.evaluate("""() => [...document.querySelectorAll('[aria-label=Scope] tbody tr')]
      .map(r => r.offsetHeight - r.querySelector('th .dq-value').offsetHeight)""")
    assert max(high) < 24, "as high as their names and the room around them"
    page.wait_for_selector(".dq-plot .xtitle")
    assert page.evaluate("""() => [...document.querySelectorAll('.dq-plot .xtitle')].every(t => {
      const [text, plot] = [t, t.closest('.dq-plot')].map(n => n.getBoundingClientRect());
      return plot.left <= text.left && text.right <= plot.right;
    })""")


def test_runs_can_be_edited_by_keyboard(serve: Serve, new_page: Pages) -> None:
    served = serve()
    page = opened(new_page(), served)
    page.get_by_role("button", name="+ Add run").click()
    page.get_by_label("Bits of run 3").fill("W8A8")
    page.get_by_label("Bits of run 3").press("Enter")
    page.get_by_label("Method of run 1").select_option("viditq")
    page.get_by_role("button", name="Remove run 2").press("Enter")
    page.wait_for_function(
        "document.querySelector('#dq-line code').textContent.includes('--bits w4a8,w8a8')"
    )
    run_to_end(page)
    assert served.compare.requests[0].bits == ("w4a8", "w8a8")
    page.get_by_role("button", name="W4A4", exact=True).click()
    page.wait_for_function(
        "document.querySelector('#dq-line code').textContent.includes('--bits w4a4')"
    )


def test_names_are_text(serve: Serve, new_page: Pages) -> None:
    model = {
        **stored()["result"]["model"],
        "title": NASTY,
        "classes": {"0": NASTY, "1": "b", "2": "c"},
    }
    page = opened(new_page(), serve(FakeCompare(model=model)))
    run_to_end(page)
    assert NASTY in page.inner_text(".dq-headline h2")
    assert NASTY in page.inner_text(".dq-grid tbody")
    page.wait_for_selector(".dq-plot .scatterlayer")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#dq-result img[src=x]").count() == 0


def test_an_unknown_study_in_the_address(serve: Serve, new_page: Pages) -> None:
    page = opened(new_page(), serve(), f"?study={NASTY}")
    state(page, "failed")
    assert "unknown study" in page.inner_text("#dq-status")
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_layout(serve: Serve, new_page: Pages, width: int, dark: bool) -> None:
    page = opened(new_page(width, dark), serve())
    run_to_end(page)
    page.wait_for_selector(".dq-plot .scatterlayer")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.body.classList.contains('dark')") is dark
    background = page.evaluate(
        "getComputedStyle(document.querySelector('.dq-card')).backgroundColor"
    )
    assert (background == "rgb(255, 255, 255)") is not dark
    assert low_contrast(page) == []
    page.click(".dq-theme")
    assert page.evaluate("document.body.classList.contains('dark')") is not dark


def low_contrast(page: Any) -> list[str]:
    """Texts of ours below a contrast of 4.5 to the surface that they lie on."""
    return page.evaluate("""() => {
      const channel = v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
      const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
      const parse = c => c.match(/[\\d.]+/g).map(Number);
      const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
        if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
      const bad = new Set();
      for (const e of document.querySelectorAll('.dq-view *, .dq-top *, .dq-runlist *, #dq-form label span')) {
        if (e.closest('svg, :disabled, .dq-tile, .dq-stage') || !e.offsetParent) continue;
        if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
        const a = light(parse(getComputedStyle(e).color)), b = light(ground(e));
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < 4.5) bad.add(`${e.className}: ${e.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
      }
      return [...bad];
    }""")


def test_everything_that_can_be_pressed_has_a_name(serve: Serve, new_page: Pages) -> None:
    page = opened(new_page(), serve())
    run_to_end(page)
    nameless = page.evaluate("""() => [...document.querySelectorAll('.dq-view button, .dq-view select, .dq-view input, .dq-runlist button, .dq-runlist input, .dq-runlist select, .dq-top button')]
      .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label'))).map(e => e.outerHTML.slice(0, 80))""")
    assert nameless == []
    assert page.locator("h1").count() == 1


def test_a_real_comparison_of_a_tiny_model(serve: Serve, new_page: Pages, tiny_dit: Path) -> None:
    from dqviz.comparison import compare

    served = serve(
        lambda request, on_event, cancelled, key: compare(request, on_event, cancelled, key=key)
    )
    page = opened(new_page(), served)
    page.set_default_timeout(120_000)
    choose_model(page, str(tiny_dit))
    page.wait_for_function("document.querySelector('#dq-steps input').value === '4'")
    page.fill("#dq-seeds textarea", "0-1")
    page.keyboard.press("Tab")
    run_to_end(page)
    assert page.inner_text(".dq-headline h2").startswith("Tiny random DiT")
    assert page.locator(".dq-tile:not(.dq-blank)").count() == 6
    assert "Yardstick" in page.inner_text("#dq-result")
