"""The Activations page in a headless Chromium: clicks, keys, links, narrow screens, accessibility."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dqviz.seen_file import SeenFile
from dqviz.study import Study
from dqviz.study_folder import studies_root
from tests.app.accessibility import violations
from tests.app.conftest import Served
from tests.app.test_browser import run_to_end
from tests.captures import write_capture

pytestmark = pytest.mark.browser

Pages = Callable[..., Any]
Serve = Callable[..., Served]
ROOT = Path(__file__).resolve().parents[2]
NASTY = "<img src=x onerror='window.hacked=1'>${window.hacked=1}"
STAGES = ("input", "scaled", "rotated")

# Pixel of a cell of the map.
CELL = """([row, step]) => {
  const gd = document.querySelector('.dq-mapstage .dq-plot'), box = gd.getBoundingClientRect();
  const {xaxis: x, yaxis: y} = gd._fullLayout;
  return [box.left + x._offset + x.l2p(step), box.top + y._offset + y.l2p(row)];
}"""
# What the panel of that key has drawn, as numbers.
DRAWN = """key => {
  const trace = document.querySelector(`[data-panel=${key}] .dq-plot`)._fullData?.[0];
  return trace && [...(trace.y ?? []), ...(trace.z ? [...trace.z].flatMap((row) => [...row]) : [])].slice(0, 500).map(Number);
}"""


def cell(page: Any, place: list[int]) -> list[float]:
    """Pixel of a cell, once the map has been drawn."""
    page.wait_for_function("document.querySelector('.dq-mapstage .dq-plot')?._fullLayout?.yaxis?._length")  # fmt: skip
    return page.evaluate(CELL, place)


def shown(page: Any, site: str, step: int) -> None:
    """Wait until that cell is shown."""
    page.wait_for_function(
        "want => document.querySelector('.dq-activations')?.dataset.shown === want",
        arg=f"{site}@{step}",
    )


def opened(page: Any, served: Served, query: str = "") -> Any:
    page.goto(served.url + "activations" + query)
    page.wait_for_selector(".dq-activations[data-shown]")
    page.locator("[data-panel=values] .dq-plot").scroll_into_view_if_needed()  # drawn when seen
    page.wait_for_function("document.querySelector('[data-panel=values] .dq-plot')?.data")
    page.evaluate("scrollTo(0, 0)")
    return page


@pytest.fixture
def app(serve: Serve, tmp_path: Path) -> tuple[Served, SeenFile]:
    served = serve()
    model = {"key": "dit-emoji", "title": "A model", "fingerprint": "f", "weights": "w"}
    study = Study.create(studies_root() / "mine", model, {"dqviz": "0"})
    file = write_capture(tmp_path / "c.safetensors", blocks=3, stages=STAGES, reservoir=200)
    name = study.add_capture("viditq", file, {})
    return served, study.capture(name)


def test_a_click_on_a_cell_shows_its_histogram(app: tuple[Served, SeenFile], new_page: Pages) -> None:  # fmt: skip
    served, seen = app
    page = opened(new_page(1440), served, "?axis=log")
    for row, step in ((6, 3), (1, 0)):
        name = seen.inputs[row].name
        page.mouse.click(*cell(page, [row, step]))
        shown(page, name, step)
        counts, _ = seen.histogram(name, step, 0)
        drawn = page.evaluate(DRAWN, "values")[:-1]
        assert sum(drawn) == pytest.approx(1, abs=1e-3)
        assert max(drawn) == pytest.approx(counts.max() / counts.sum(), rel=1e-4)
        assert page.locator("#dq-site").input_value() == name
        frame = page.locator(".dq-cell").bounding_box()
        x, y = cell(page, [row, step])
        assert abs(frame["x"] + frame["width"] / 2 - x) < 3
        assert abs(frame["y"] + frame["height"] / 2 - y) < 3


def test_one_scrubber_moves_every_panel(app: tuple[Served, SeenFile], new_page: Pages) -> None:
    served, seen = app
    site = "transformer_blocks.2.ff.net.0.proj"
    page = opened(new_page(1440), served, f"?site={site}&step=1")
    shown(page, site, 1)
    keys = ["values", "channels", "tokens", "rows", "stages"]
    for key in keys:
        page.locator(f"[data-panel={key}]").scroll_into_view_if_needed()
        page.wait_for_function(
            "k => document.querySelector(`[data-panel=${k}] .dq-plot`).data", arg=key
        )
    before = {key: page.evaluate(DRAWN, key) for key in keys}
    slider = page.locator("#dq-stepper")
    slider.focus()
    page.keyboard.press("End")
    shown(page, site, seen.steps - 1)
    for key in keys:
        page.locator(f"[data-panel={key}]").scroll_into_view_if_needed()
        if key == "rows":  # all steps are there already; the mark moves
            at = "document.querySelector('[data-panel=rows] .dq-plot').layout.shapes[0].x0"
            page.wait_for_function(f"{at} === {seen.steps - 1}")
            continue
        page.wait_for_function(
            f"([key, old]) => JSON.stringify(({DRAWN})(key)) !== JSON.stringify(old)",
            arg=[key, before[key]],
        )
    assert slider.get_attribute("aria-valuetext") == f"step 4 of 4, timestep {seen.timesteps[4]:g}"
    page.keyboard.press("Home")
    shown(page, site, 0)
    page.keyboard.press("ArrowRight")
    shown(page, site, 1)
    page.get_by_role("button", name="Play the steps").click()
    shown(page, site, seen.steps - 1)
    page.wait_for_selector("button[aria-label='Play the steps'][aria-pressed=false]")


def test_everything_can_be_chosen_from_the_keyboard(app: tuple[Served, SeenFile], new_page: Pages) -> None:  # fmt: skip
    served, seen = app
    names = [e.name for e in seen.inputs]
    page = opened(new_page(1440), served, f"?site={names[0]}&step=0")
    shown(page, names[0], 0)
    stage = page.locator(".dq-mapstage")
    stage.focus()
    outline = "getComputedStyle(document.querySelector('.dq-mapstage')).outlineStyle"
    page.keyboard.press("ArrowDown")
    shown(page, names[1], 0)
    assert page.evaluate(outline) == "solid", "focus is visible"
    page.keyboard.press("ArrowRight")
    shown(page, names[1], 1)
    page.keyboard.press("PageDown")
    shown(page, names[4], 1)
    page.keyboard.press("End")
    shown(page, names[4], 4)
    page.keyboard.press("PageUp")
    shown(page, names[0], 4)
    page.locator("#dq-site").select_option(names[7])
    shown(page, names[7], 4)
    page.get_by_role("button", name="Table", exact=True).click()
    page.get_by_role("button", name="block 1 · self out").press("Enter")
    shown(page, names[5], 4)
    assert "step 4" in page.locator(".dq-table thead").first.inner_text().lower()


def test_a_link_restores_the_view(app: tuple[Served, SeenFile], new_page: Pages) -> None:
    served, seen = app
    page = opened(new_page(1440), served)
    page.select_option("[data-field=statistic]", "kurtosis")
    page.select_option("[data-field=branch]", "unconditional")
    page.select_option("[data-field=stage]", "scaled")
    page.select_option("[data-field=rows]", "role:fc2")
    page.get_by_role("button", name="asymmetric", exact=True).click()
    page.get_by_role("button", name="by size").click()
    page.locator("#dq-site").select_option(seen.inputs[7].name)
    page.locator("#dq-stepper").focus()
    page.keyboard.press("Home")
    shown(page, seen.inputs[7].name, 0)
    page.wait_for_function("location.search.includes('format=asym')")
    link = page.url
    other = new_page(1440)
    other.goto(link)
    shown(other, seen.inputs[7].name, 0)
    assert other.url == link
    assert other.input_value("[data-field=statistic]") == "kurtosis"
    assert other.input_value("[data-field=branch]") == "unconditional"
    assert other.input_value("[data-field=stage]") == "scaled"
    assert other.locator("[aria-pressed=true]", has_text="by size").count() == 1
    assert "Kurtosis" in other.inner_text(".dq-mapholder")


def test_the_map_of_weights_chooses_layer_and_stage(app: tuple[Served, SeenFile], new_page: Pages) -> None:  # fmt: skip
    served, seen = app
    page = opened(new_page(1440), served, "?map=weights&step=2")
    row = 7  # after q, k and v, which share an input
    page.mouse.click(*cell(page, [row, 1]))
    site = "transformer_blocks.1.attn1"
    shown(page, site, 2)
    assert page.input_value("[data-field=stage]") == "scaled"
    page.get_by_role("button", name="Map", exact=True).click()
    page.wait_for_function("document.querySelector('.dq-mapholder h2').textContent.startsWith('Incoherence')")  # fmt: skip
    page.mouse.click(*cell(page, [3, 0]))
    shown(page, seen.inputs[3].name, 0)


def test_a_hostile_link_is_refused_politely(app: tuple[Served, SeenFile], new_page: Pages) -> None:
    served, _ = app
    page = opened(new_page(), served, "?study=../../etc&site=<img src=x onerror=window.hacked=1>&step=1e9&bits=7")  # fmt: skip
    said = page.inner_text(".dq-notes")
    assert "unknown study '../../etc'" in said
    assert "<img src=x" in said, "as text"
    assert page.evaluate("window.hacked") is None
    assert page.locator(".dq-activations img").count() == 0


def test_names_from_files_stay_text(serve: Serve, tmp_path: Path, new_page: Pages) -> None:
    served = serve()
    from safetensors import safe_open
    from safetensors.numpy import save_file

    old = "transformer_blocks.0.attn1.to_out.0"
    with safe_open(write_capture(tmp_path / "a.safetensors", blocks=1), "np") as file:
        tensors = {k.replace(old, NASTY): file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        head = {k: v.replace(old, NASTY).replace("self_out", "unknown") for k, v in (file.metadata() or {}).items()}  # fmt: skip
    save_file(tensors, tmp_path / "b.safetensors", metadata=head)
    model = {"key": NASTY, "title": NASTY, "fingerprint": "f"}
    study = Study.create(studies_root() / "mine", model, {"dqviz": "0"})
    study.add_capture("first", tmp_path / "b.safetensors", {})
    page = opened(new_page(), served)
    page.locator("#dq-site").select_option(NASTY)
    page.wait_for_function("document.querySelector('.dq-activations').dataset.shown.includes('<img')")  # fmt: skip
    assert NASTY in page.inner_text(".dq-bar2")
    assert NASTY in page.inner_text(".dq-headline")
    page.mouse.move(*cell(page, [1, 2]))
    page.get_by_role("button", name="Table", exact=True).click()
    page.wait_for_selector(".dq-linkish")
    assert page.evaluate("window.hacked") is None
    assert page.locator(".dq-activations img").count() == 0


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_shows_above_the_bar_that_stays(app: tuple[Served, SeenFile], new_page: Pages, width: int) -> None:  # fmt: skip
    page = opened(new_page(width), app[0])
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("document.querySelector('.dq-bar2').getBoundingClientRect().top < 10")
    above = page.evaluate("""() => { const b = document.querySelector('.dq-bar2').getBoundingClientRect();
      return [0.02, 0.3, 0.6, 0.98].map(x => document.elementFromPoint(b.left + x * b.width, b.top / 2).className); }""")
    assert all("dq-bar2" in name for name in above)


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_nothing_is_wider_than_the_screen(app: tuple[Served, SeenFile], new_page: Pages, width: int) -> None:  # fmt: skip
    page = opened(new_page(width), app[0])
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("document.querySelector('[data-panel=weights] .dq-plot').data")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cards = page.evaluate("[...document.querySelectorAll('.dq-activations .dq-card')].map(c => c.getBoundingClientRect().right)")  # fmt: skip
    assert max(cards) <= width


def test_figures_and_tables_can_be_taken_along(app: tuple[Served, SeenFile], new_page: Pages) -> None:  # fmt: skip
    served, seen = app
    page = opened(new_page(1440), served)
    from quant.schema import fingerprint

    recipe = fingerprint(seen.manifest)
    for place, label in (("[data-panel=values]", "SVG"), ("[data-panel=channels]", "CSV"), (".dq-mapholder", "CSV"), (".dq-mapholder", "SVG")):  # fmt: skip
        with page.expect_download() as download:
            page.locator(place).get_by_role("button", name=label, exact=True).first.click()
        text = Path(download.value.path()).read_text(encoding="utf-8")
        assert recipe in download.value.suggested_filename
        assert recipe in text
    page.locator("[data-panel=values] summary").click()
    with page.expect_download() as download:
        page.locator("[data-panel=values]").get_by_role("button", name="LaTeX").click()
    assert r"\toprule" in Path(download.value.path()).read_text(encoding="utf-8")


def test_without_a_capture_the_page_says_what_to_run(serve: Serve, new_page: Pages) -> None:
    page = new_page(390)
    page.goto(serve().url + "activations")
    page.wait_for_selector(".dq-activations[data-shown=empty]")
    assert page.evaluate("document.querySelector('.dq-empty').scrollWidth") <= 390
    assert "dqviz capture" in page.inner_text(".dq-empty")
    assert page.get_by_role("button", name="Capture now").is_enabled()


def test_a_study_without_a_capture_offers_one_and_the_others(app: tuple[Served, SeenFile], new_page: Pages) -> None:  # fmt: skip
    served, _ = app
    model = {"key": "dit-emoji", "ref": "dit-emoji", "title": "A model", "fingerprint": "f"}
    Study.create(studies_root() / "bare", model, {})
    page = new_page(390)
    page.goto(served.url + "activations?study=bare")
    page.wait_for_selector(".dq-activations[data-shown=empty]")
    assert "--study" in page.inner_text(".dq-empty code")
    assert page.get_by_role("button", name="Capture now").is_enabled()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".dq-field", has_text="Study").locator("select").select_option("mine")
    page.wait_for_selector(".dq-bar2")
    assert "study=mine" in page.url


def test_the_csv_of_all_steps_holds_every_step(app: tuple[Served, SeenFile], new_page: Pages) -> None:  # fmt: skip
    served, seen = app
    site = seen.inputs[1].name
    page = opened(new_page(1440), served, f"?site={site}&step=2")
    shown(page, site, 2)
    with page.expect_download() as download:
        page.locator("[data-panel=ridge]").get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text("utf-8").splitlines()))
    for step in range(seen.steps):
        counts, edges = seen.histogram(site, step, 0)
        here = {float(r["x"]): float(r["z"]) for r in rows if r["y"] == str(step)}
        filled = counts > 0
        middles = ((edges[1:] + edges[:-1]) / 2)[filled]
        assert [here[min(here, key=lambda x: abs(x - m))] for m in middles] == list(counts[filled])
        assert sum(here.values()) == counts.sum()
    assert {r["evidence"] for r in rows} == {"measured"}


def test_the_landscape_is_drawn_on_request(app: tuple[Served, SeenFile], new_page: Pages) -> None:
    page = opened(new_page(), app[0])
    page.locator("[data-panel=tokens]").scroll_into_view_if_needed()
    page.get_by_role("button", name="3D", exact=True).click()
    page.wait_for_selector("[data-panel=tokens] .gl-container canvas")
    assert page.locator("[data-panel=tokens] .no-webgl").count() == 0
    page.get_by_role("button", name="flat", exact=True).click()
    page.wait_for_selector("[data-panel=tokens] .heatmaplayer image")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("query", ["", "?map=table&stage=scaled"])
def test_no_serious_violation_on_the_page(app: tuple[Served, SeenFile], new_page: Pages, dark: bool, query: str) -> None:  # fmt: skip
    page = opened(new_page(1440, dark), app[0], query)
    assert violations(page) == []
    page.evaluate("document.querySelector('.dq-panels').append(document.createElement('img'))")
    assert any("image-alt" in line for line in violations(page)), "the checker checks"


@pytest.mark.parametrize("dark", [False, True])
def test_no_serious_violation_on_the_compare_page(serve: Serve, new_page: Pages, dark: bool) -> None:  # fmt: skip
    page = new_page(1440, dark)
    page.goto(serve().url)
    page.wait_for_selector("#dq-result .dq-view > *")
    page.wait_for_selector("#dq-runs select")
    assert violations(page) == []
    run_to_end(page)
    page.wait_for_selector(".dq-plot .scatterlayer")
    page.wait_for_timeout(500)  # colours of the buttons fade to their new state
    assert violations(page) == []


def test_the_recorded_study_fills_the_page(
    serve: Serve, new_page: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("dqviz.study_folder", "dqviz.studies"):
        monkeypatch.setattr(f"{module}.RECORDED", ROOT / "assets" / "studies")
    page = opened(new_page(), serve())
    assert "recorded" in page.inner_text(".dq-headline .dq-badge")
    assert page.locator("[data-panel]").count() == 8
