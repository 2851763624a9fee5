"""The Compare page as a function of a result: finished, partial, cancelled, identical, hostile."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqviz.pages import compare as page
from dqviz.pages.exports import to_csv
from dqviz.pages.view import Column, table
from dqviz.plots import ladder as ladder_plot
from dqviz.plots.trajectory import MOST_TICKS, decades

Result = dict[str, Any]


def text_of(section: dict[str, Any]) -> str:
    return json.dumps(section, ensure_ascii=False)


def test_a_finished_result_has_every_section(result: Result, drifts: Result) -> None:
    files = {"Report": "report.html"}
    view = page.render(result, {}, drifts, files, "tiny-dit")
    kinds = [(s["kind"], s.get("title")) for s in view.sections]
    assert kinds[1:] == [
        ("pictures", "Pictures"),
        ("plot", "Error along the trajectory"),
        ("table", "Quality, size, time"),
        ("table", "Pairs"),
        ("plot", "Yardstick"),
        ("table", "Scope"),
        ("command", "The same on the command line"),
        ("downloads", "Take it with you"),
    ]
    json.loads(view.to_json(), parse_constant=pytest.fail)
    assert view.address == "tiny-dit"


def test_the_command_makes_the_comparison_again(result: Result) -> None:
    line = page.render(result).section("command")["text"]
    assert line.startswith("dqviz compare tiny-dit --method rtn --method viditq --bits w4a8")
    assert "--seeds 0-3" in line


def test_nothing_compared_yet_invites_to_run() -> None:
    assert "Run" in page.empty().section("empty")["text"]


def test_a_running_comparison_shows_places_for_what_comes(result: Result) -> None:
    planned = [{"name": "planned 2", "method": "viditq", "bits": "w4a8"}]
    partial = {
        "status": "running",
        "model": {"key": "tiny-dit", "classes": {"0": "apple"}},
        "request": result["request"],
        "runs": result["runs"][:2],
        "planned": planned,
    }
    view = page.render(partial)
    pictures = view.section("pictures")
    assert [r["name"] for r in pictures["runs"]] == ["Full precision", "RTN", "ViDiT-Q"]
    assert [r["colour"] for r in pictures["runs"]] == [0, 1, 2]
    assert pictures["samples"][0] == {"seed": 0, "label": "apple"}
    assert len(view.section("table", "Quality, size, time")["rows"]) == 2


def test_before_the_first_run_there_are_only_places(result: Result) -> None:
    view = page.render({"status": "running", "request": result["request"], "runs": []})
    assert [s["kind"] for s in view.sections] == ["headline", "pictures", "command"]


def test_a_cancelled_result_says_what_was_kept(result: Result) -> None:
    cancelled = {
        **result,
        "status": "cancelled",
        "runs": result["runs"][:1],
        "pairs": [],
        "ladder": [],
    }
    headline = page.render(cancelled).section("headline")
    assert headline["badges"][0]["text"] == "cancelled"
    assert "1 finished run kept" in headline["facts"]


def test_identical_pictures_have_no_decibels(result: Result) -> None:
    same = copy.deepcopy(result)
    nothing = dict.fromkeys(("mean", "lo", "hi", "min", "max", "worst", "of_mean_mse"))
    same["runs"][1]["psnr_db"] |= {**nothing, "identical": True, "per_sample": [None] * 4}
    same["pairs"][0]["diff_db"] = None
    view = page.render(same)
    pictures = view.section("pictures")
    assert pictures["runs"][1]["figure"] == "identical"
    assert pictures["captions"][1] == ["identical"] * 4
    row = view.section("table", "Quality, size, time")["rows"][1]
    assert row["cells"][1]["text"] == "identical"
    assert view.section("headline")["claims"] == []


def test_simulated_runs_show_no_speed(result: Result) -> None:
    rows = page.render(result).section("table", "Quality, size, time")["rows"]
    for run, row in zip(result["runs"][1:], rows[1:]):
        assert run["evidence"] == "simulated"
        assert row["cells"][-2]["text"] == "–"
        assert row["cells"][-1]["badge"]["text"] == "simulated"


PAIR = {"a": "viditq", "b": "rtn", "win_rate": 0.9}
LABELS = {"viditq": "ViDiT-Q W4A8", "rtn": "RTN W4A8"}


@pytest.mark.parametrize(
    ("diff", "n", "verdict", "tone", "words"),
    [
        ((5.2, 4.8, 5.6), 64, "a better", "better", "ViDiT-Q W4A8 is better than RTN W4A8 by 5.2 dB [4.8, 5.6] on 64 seeds."),
        ((-5.2, -5.6, -4.8), 64, "b better", "better", "RTN W4A8 is better than ViDiT-Q W4A8 by 5.2 dB [4.8, 5.6] on 64 seeds."),
        ((0.2, -0.3, 0.7), 64, "no difference shown", "none", "No difference shown between ViDiT-Q W4A8 and RTN W4A8"),
        ((5.2, 4.8, 5.6), 8, "too few samples", "few", "Too few samples for a claim: on these 8, ViDiT-Q W4A8 is ahead"),
        ((5.2, 4.8, 5.6), 16, None, "better", "is better than RTN W4A8"),
        ((5.2, None, None), 1, "too few samples", "few", "by 5.2 dB."),
        ((5.2, 4.8, 5.6), 64, "no difference shown", "none", "No difference shown"),
    ],
)  # fmt: skip
def test_a_claim_says_no_more_than_the_interval(
    diff: tuple[float, float, float], n: int, verdict: str | None, tone: str, words: str
) -> None:
    pair = {**PAIR, "diff_db": dict(zip(("mean", "lo", "hi"), diff)), "n": n, "claim": verdict}
    claim = page.claim(pair, LABELS)
    assert claim["tone"] == tone
    assert words in claim["text"]


def test_a_smoke_test_is_called_one() -> None:
    pair = {**PAIR, "diff_db": {"mean": 5.0, "lo": 4.0, "hi": 6.0}, "n": 20, "claim": "a better"}
    assert "smoke test" in page.claim(pair, LABELS)["sub"]
    assert "smoke test" not in page.claim({**pair, "n": 64}, LABELS)["sub"]


def test_runs_of_different_size_are_not_ranked() -> None:
    pair = {**PAIR, "diff_db": {"mean": 5.0, "lo": 4.0, "hi": 6.0}, "n": 64, "aligned": False}
    assert "not a ranking" in page.claim(pair, LABELS)["sub"]


def test_a_run_has_one_colour_everywhere(result: Result, drifts: Result) -> None:
    view = page.render(result, {}, drifts)
    pictures = [r["colour"] for r in view.section("pictures")["runs"]]
    metrics = [r["cells"][0]["run"] for r in view.section("table", "Quality, size, time")["rows"]]
    readout = [
        r["run"] for r in view.section("plot", "Error along the trajectory")["readout"]["rows"]
    ]
    lines = view.section("plot", "Error along the trajectory")["figure"]["data"]
    assert pictures == metrics == [0, *readout] == [0, 1, 2]
    assert [t["line"]["color"] for t in lines[::2]] == ["var(--run-1)", "var(--run-2)"]


def test_two_runs_of_one_method_are_told_apart(result: Result) -> None:
    twice = copy.deepcopy(result)
    twice["runs"][2] |= {"method": "rtn"}
    names = [r["cells"][0]["text"] for r in page.render(twice).section("table", "Pairs")["rows"]]
    assert names == [f"RTN W4A8 ({twice['runs'][2]['name']})"]


def test_the_ladder_places_runs_among_rungs(result: Result) -> None:
    figure = page.render(result).section("plot", "Yardstick")["figure"]
    labels = figure["layout"]["yaxis"]["ticktext"]
    assert len(labels) == len(result["ladder"]) + 2
    assert {"RTN W4A8", "ViDiT-Q W4A8", "another seed"} <= set(labels)


def test_lossless_runs_are_marked(result: Result) -> None:
    name = result["runs"][2]["name"]
    rows = page.render({**result, "lossless": [name]}).section("table", "Quality, size, time")[
        "rows"
    ]
    assert rows[2]["cells"][1]["badge"]["text"] == "lossless here"
    assert "badge" not in rows[1]["cells"][1]


def test_scope_counts_every_site_once(result: Result) -> None:
    section = page.render(result).section("table", "Scope")
    scope = result["runs"][1]["scope"]
    sites = len(scope["quantized"]) + len(scope["kept"])
    assert sum(int(r["cells"][1]["text"]) for r in section["rows"]) == sites
    assert sum(int(r["cells"][2]["text"]) for r in section["rows"]) == len(scope["quantized"])
    assert len(section["details"][0]["lines"]) == sites


def test_scope_says_what_each_site_ran_on(result: Result) -> None:
    """Once where runs agree; studies of older versions say nothing."""
    said = copy.deepcopy(result)
    for run in said["runs"][1:]:
        run["scope"]["why"] = dict.fromkeys(run["scope"]["quantized"], "integer: asked for")
    first = said["runs"][1]["scope"]["quantized"][0]
    section = page.render(said).section("table", "Scope")
    assert f"{first}  (integer: asked for)" in section["details"][0]["lines"]
    assert first in page.render(result).section("table", "Scope")["details"][0]["lines"]


def test_a_run_that_holds_weights_as_stored_says_so(result: Result) -> None:
    held = copy.deepcopy(result)
    held["runs"][1] |= {"backend": "integer", "residency": "memory"}
    rows = page.render(held).section("table", "Quality, size, time")["rows"]
    assert rows[1]["cells"][-1]["sub"] == "integer, weights as stored"


def test_scopes_that_differ_are_shown_apart(result: Result) -> None:
    other = copy.deepcopy(result)
    moved = other["runs"][2]["scope"]["quantized"].pop()
    other["runs"][2]["scope"]["kept"][moved] = "asked for"
    section = page.render(other).section("table", "Scope")
    assert [c["label"] for c in section["columns"][2:4]] == ["RTN W4A8", "ViDiT-Q W4A8"]
    assert any("kept by ViDiT-Q W4A8" in line for line in section["details"][0]["lines"])


NASTY = "<img src=x onerror=alert(1)>"


def test_names_reach_figures_without_markup(result: Result, drifts: Result) -> None:
    evil = copy.deepcopy(result)
    evil["runs"][1] |= {"method": "else", "path": "x", "title": NASTY}
    evil["ladder"][0]["title"] = NASTY
    view = page.render(evil, {}, drifts)
    for title in ("Error along the trajectory", "Yardstick"):
        assert "<img" not in text_of(view.section("plot", title)["figure"])


def test_file_names_are_safe(result: Result) -> None:
    evil = {**result, "model": {"key": "../../x y/<z>"}}
    for section in page.render(evil).sections:
        assert set(section.get("file", "")) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_"), (
            section["file"]
        )


def test_csv_holds_full_precision_and_no_formulas() -> None:
    text = to_csv([{"name": "=1+1", "value": 1.23456789}, {"name": "b", "value": -2.0}])
    assert text.splitlines() == ["name,value", "'=1+1,1.23456789", "b,-2.0"]
    assert to_csv([]) == ""
    assert table("t", [Column("a")], [])["csv"] == ""


@given(st.floats(1e-9, 1e3), st.floats(1.0, 1e8))
def test_a_logarithmic_axis_has_two_labels_and_holds_its_numbers(low: float, ratio: float) -> None:
    axis = decades(low, low * ratio)
    bottom, top = axis["range"]
    assert bottom < math.log10(low) <= math.log10(low * ratio) < top
    assert 2 <= len(axis["tickvals"]) <= MOST_TICKS + 3
    assert all(bottom <= math.log10(tick) <= top for tick in axis["tickvals"])


def test_the_narrow_yardstick_has_short_lines() -> None:
    name = "bf16 (rounded, computed in float32)"
    figure = ladder_plot.figure([(None, name, {"mean": 40.0})])
    narrow = ladder_plot.narrow(figure)
    assert narrow["xaxis"]["title"]["text"] == "PSNR (dB)"
    assert max(len(line) for line in narrow["yaxis"]["ticktext"][0].split("<br>")) <= 16
