"""The Activations page as plain values: what it shows of a capture, and what it refuses of a link."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqviz.pages import activations as page
from dqviz.pages.activations import grids
from dqviz.pages.activations.selection import (
    cells,
    kept_rows,
    labels,
    part_label,
    part_of,
    row_filters,
)
from dqviz.plots import arrays, heatmap, histogram, profile, ridge, surface
from dqviz.seen_file import InputEntry, SeenFile
from kernels.quantize_rows.reference import asymmetric, symmetric
from quant import seen_layout
from quant.summaries import STATISTICS
from tests.captures import write_capture

STAGES = ("input", "scaled", "rotated")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> page.Opened:
    path = tmp_path_factory.mktemp("capture") / "c.safetensors"
    write_capture(path, blocks=3, inputs=6, stages=STAGES, reservoir=200)
    return page.Opened(SeenFile(path), "study", "first", "A model", "key")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> page.Opened:
    path = tmp_path_factory.mktemp("capture") / "c.safetensors"
    write_capture(path, blocks=1, inputs=2, branches=1)
    return page.Opened(SeenFile(path), "study", "first", "A model", "key")


def numbers(packed: dict[str, Any]) -> np.ndarray:
    """What plotly.js will see of a packed array."""
    flat = np.frombuffer(base64.b64decode(packed["bdata"]), "<f4")
    return flat.reshape([int(n) for n in packed["shape"].split(",")]) if "shape" in packed else flat


def panel(opened: page.Opened, key: str, **query: Any) -> dict[str, Any]:
    chosen, notes = page.select(query, opened.seen)
    assert notes == []
    return next(s for s in page.panels(opened, chosen) if s["key"] == key)


# -- selection


def test_an_empty_link_shows_the_strongest_cell(opened: page.Opened) -> None:
    chosen, notes = page.select({}, opened.seen)
    values = cells(opened.seen, "incoherence", "input", "conditional")
    row, step = np.unravel_index(np.nanargmax(values), values.shape)
    assert notes == []
    assert (chosen.site, chosen.step) == (opened.seen.inputs[row].name, step)


def test_a_link_comes_back_as_it_was(opened: page.Opened) -> None:
    first, _ = page.select({"statistic": "kurtosis", "branch": "difference", "stage": "scaled", "step": "3", "site": "transformer_blocks.1.ff.net.2", "bits": "6", "format": "asym", "scale": "all", "cover": "99", "order": "size", "axis": "log", "surface": "3d", "map": "table", "rows": "role:fc2"}, opened.seen)  # fmt: skip
    link = {k: str(v) for k, v in first.to_json().items()}
    assert page.select(link, opened.seen) == (first, [])
    assert first.step == 3
    assert first.bits == 6


def test_a_site_may_be_named_by_a_layer_that_reads_it(opened: page.Opened) -> None:
    chosen, notes = page.select({"site": "transformer_blocks.2.attn1.to_k"}, opened.seen)
    assert (chosen.site, notes) == ("transformer_blocks.2.attn1", [])


KEYS = ["statistic", "rows", "site", "step", "branch", "stage", "bits", "format", "scale", "cover", "order", "axis", "surface", "map"]  # fmt: skip
HOSTILE = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.text(),
    st.booleans(),
    st.lists(st.text(), max_size=2),
    st.dictionaries(st.text(), st.integers(), max_size=2),
    st.sampled_from(["../../etc/passwd", "<img src=x onerror=alert(1)>", "-1", "1e9", "NaN", "0"]),
)


@settings(max_examples=150, deadline=None)
@given(query=st.dictionaries(st.sampled_from(KEYS), HOSTILE))
def test_any_link_gives_a_view_that_exists(opened: page.Opened, query: dict[str, Any]) -> None:
    chosen, notes = page.select(query, opened.seen)
    assert page.select(chosen.to_json(), opened.seen) == (chosen, []), "only what exists is chosen"
    assert 0 <= chosen.step < opened.seen.steps
    assert opened.seen.entry(chosen.site).name == chosen.site
    assert all(len(note) < 220 and note.isprintable() for note in notes)


@pytest.mark.parametrize(("key", "value"), [("site", "nowhere"), ("step", 5), ("step", "-1"), ("bits", 5), ("statistic", "x"), ("branch", "both"), ("stage", "cooked"), ("rows", "block:99")])  # fmt: skip
def test_what_a_capture_lacks_is_said(opened: page.Opened, key: str, value: object) -> None:
    _, notes = page.select({key: value}, opened.seen)
    assert len(notes) == 1
    assert str(value) in notes[0]


def test_without_guidance_there_is_one_branch(plain: page.Opened) -> None:
    assert [value for value, _, _ in page.controls(plain)["branch"]] == ["conditional"]
    chosen, notes = page.select({"branch": "difference"}, plain.seen)
    assert chosen.branch == "conditional"
    assert len(notes) == 1
    json.dumps(page.panels(plain, chosen), allow_nan=False)


def test_every_input_has_a_label_of_its_own(opened: page.Opened) -> None:
    found = labels(opened.seen)
    assert len(set(found)) == len(found) == 18
    assert found[0] == "block 0 · self q k v"


def test_filters_part_the_inputs(opened: page.Opened) -> None:
    for kind in ("part", "role", "group", "block"):
        keys = [key for key, _, _ in row_filters(opened.seen) if key.startswith(kind)]
        places = [i for key in keys for i in kept_rows(opened.seen, key)]
        assert sorted(places) == list(range(18)), kind


@pytest.mark.parametrize(
    ("roles", "labelled"),
    [
        (("self_q", "fc1", "fc2"), {"self-attention", "feed-forward"}),
        (
            ("self_q", "temporal_q", "cross_k", "fc1"),
            {"spatial attention", "temporal attention", "cross-attention", "feed-forward"},
        ),
        (
            ("joint_q", "cross_q", "context_fc1", "single_in"),
            {
                "joint attention",
                "joint attention, its text side",
                "feed-forward, its text side",
                "single-stream layers",
            },
        ),
        (("unknown", "adaln"), {"conditioning, embedders, head"}),
    ],
)
def test_kinds_of_attention_are_groups(roles: tuple[str, ...], labelled: set[str]) -> None:
    entries = [InputEntry(f"{r}.{i}", (r,), (r,), i, 8, 4, "none", ()) for i, r in enumerate(roles)]
    parts = {part_of(entry) for entry in entries}
    assert {part_label(part, parts) for part in parts} == labelled


# -- the map


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("branch", ["conditional", "unconditional", "difference"])
def test_the_map_holds_the_statistic(opened: page.Opened, statistic: str, branch: str) -> None:
    chosen, _ = page.select({"statistic": statistic, "branch": branch}, opened.seen)
    found = page.overview(opened, chosen)
    drawn = numbers(found["map"]["figure"]["data"][0]["z"])
    both = opened.seen.summary(statistic)
    expected = both[..., 0] - both[..., 1] if branch == "difference" else both[..., ["conditional", "unconditional"].index(branch)]  # fmt: skip
    order = [[e.name for e in opened.seen.inputs].index(name) for name in found["rows"]]
    np.testing.assert_allclose(drawn, expected[order], rtol=1e-6)
    assert found["map"]["source"]["recipe"] == opened.fingerprint
    assert opened.fingerprint in found["map"]["file"]
    json.dumps(found, allow_nan=False)


def test_the_map_says_where_to_look(opened: page.Opened) -> None:
    chosen, _ = page.select({"statistic": "absmax"}, opened.seen)
    words = " ".join(page.overview(opened, chosen)["map"]["words"])
    values = cells(opened.seen, "absmax", "input", "conditional")
    row, step = np.unravel_index(np.nanargmax(values), values.shape)
    assert f"{labels(opened.seen)[row]} at step {step} " in words
    assert arrays.short(float(values[row, step])) in words


def test_the_difference_is_drawn_about_zero(opened: page.Opened) -> None:
    chosen, _ = page.select({"branch": "difference"}, opened.seen)
    trace = page.overview(opened, chosen)["map"]["figure"]["data"][0]
    assert trace["zmin"] == -trace["zmax"]


def test_the_table_has_every_row_and_its_csv_every_cell(opened: page.Opened) -> None:
    chosen, _ = page.select({"map": "table"}, opened.seen)
    section = page.overview(opened, chosen)["table"]
    assert len(section["rows"]) == 18
    assert len(section["csv"].splitlines()) == 1 + 18 * opened.seen.steps
    assert opened.fingerprint in section["latex"]


def test_the_map_of_weights_has_every_layer_and_stage(opened: page.Opened) -> None:
    chosen, _ = page.select({"map": "weights"}, opened.seen)
    found = page.overview(opened, chosen)
    drawn = numbers(found["map"]["figure"]["data"][0]["z"])
    layers = [site for e in opened.seen.inputs for site in e.sites]
    assert drawn.shape == (len(layers), 3) == (24, 3)
    assert found["columns"] == list(STAGES)
    assert len(set(found["labels"])) == 24
    at = layers.index("transformer_blocks.1.ff.net.2")
    expected = opened.seen.weights(layers[at], "scaled")["incoherence"]
    assert drawn[at, 1] == pytest.approx(expected)
    assert np.isnan(drawn[:3, 1]).all(), "the first input has no stages"


def test_a_stage_that_an_input_lacks_is_a_gap(opened: page.Opened) -> None:
    chosen, _ = page.select({"stage": "rotated", "site": "transformer_blocks.0.attn1"}, opened.seen)
    found = page.overview(opened, chosen)
    assert np.isnan(numbers(found["map"]["figure"]["data"][0]["z"])[0]).all()
    assert "no stage 'rotated'" in page.about(opened, chosen)["note"]
    hint = next(s for s in page.panels(opened, chosen) if s["key"] == "stages")
    assert "does not transform" in hint["text"]


def test_without_stages_the_page_says_what_to_run(plain: page.Opened) -> None:
    hint = panel(plain, "stages")
    assert hint["command"] == "dqviz capture key --method viditq --bits w4a8"
    assert page.empty()["command"].startswith("dqviz capture ")


# -- panels


@pytest.mark.parametrize("query", [{}, {"axis": "log", "bits": 8}, {"format": "asym", "scale": "step", "cover": "99"}, {"scale": "all", "order": "size", "surface": "3d"}, {"branch": "difference", "stage": "scaled"}])  # fmt: skip
def test_every_panel_of_every_input_is_json_with_words(
    opened: page.Opened, query: dict[str, Any]
) -> None:
    for entry in opened.seen.inputs[:7]:
        chosen, _ = page.select({**query, "site": entry.name, "step": 2}, opened.seen)
        sections = page.panels(opened, chosen)
        json.dumps(sections, allow_nan=False)
        assert [s["key"] for s in sections] == ["values", "channels", "tokens", "ridge", "line", "rows", "stages", "weights"]  # fmt: skip
        for section in sections:
            if section["kind"] == "plot":
                assert section["words"], section["key"]
                assert section["badges"], section["key"]
                assert opened.fingerprint in section["file"]


def test_the_histogram_is_of_the_chosen_cell(opened: page.Opened) -> None:
    name = "transformer_blocks.1.ff.net.0.proj"
    section = panel(opened, "values", site=name, step=3, axis="log", branch="unconditional")
    counts, _ = opened.seen.histogram(name, 3, 1)
    drawn = numbers(section["figure"]["data"][0]["y"])[:-1]
    np.testing.assert_allclose(drawn.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(drawn.max(), counts.max() / counts.sum(), rtol=1e-5)
    assert section["count"].startswith("16 rows of 32 values")


def test_the_density_sums_to_one(opened: page.Opened) -> None:
    trace = panel(opened, "values", step=1)["figure"]["data"][0]
    at, density = numbers(trace["x"]).astype(float), numbers(trace["y"])[:-1].astype(float)
    assert (density * np.diff(at)).sum() == pytest.approx(
        1, abs=0.02
    )  # empty bins are lifted to the floor


def test_channels_are_all_there_and_outliers_are_named(opened: page.Opened) -> None:
    name = "transformer_blocks.2.attn1"
    section = panel(opened, "channels", site=name, step=0)
    read = opened.seen.channels(name, 0, 0)
    traces = {t["name"]: t for t in section["figure"]["data"]}
    np.testing.assert_allclose(numbers(traces["largest"]["y"]), read["maximum"], rtol=1e-6)
    np.testing.assert_allclose(numbers(traces["smallest"]["y"]), read["minimum"], rtol=1e-6)
    size = np.maximum(np.abs(read["minimum"]), np.abs(read["maximum"]))
    beyond = {int(c) for c in np.flatnonzero(size > 5 * np.median(size))}
    marked = traces.get("outlier channel", {"x": []})["x"]
    assert set(marked) == beyond
    assert f"Channel {size.argmax()} reaches" in section["words"][0]


def test_many_channels_are_pooled_by_their_extremes() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3000)).astype(np.float32)
    read = {"minimum": x.min(0), "maximum": x.max(0), "mean": x.mean(0), "second_moment": (x * x).mean(0)}  # fmt: skip
    figure = profile.figure(read, np.array([], int), False)
    top = numbers(figure["data"][0]["y"])
    assert len(top) <= profile.MOST_POINTS
    assert top.max() == x.max()
    assert "4 to a point" in figure["layout"]["xaxis"]["title"]["text"]


def test_a_surface_keeps_its_largest_value_and_says_how_it_is_pooled(opened: page.Opened) -> None:
    name = "transformer_blocks.0.ff.net.2"
    flat = panel(opened, "tokens", site=name, step=1)
    values = opened.seen.surface(name, 1).values
    np.testing.assert_allclose(numbers(flat["figure"]["data"][0]["z"]), values, rtol=1e-6)
    hill = panel(opened, "tokens", site=name, step=1, surface="3d")
    assert numbers(hill["figure"]["data"][0]["z"]).max() == pytest.approx(values.max(), rel=1e-6)
    assert "largest of 1 × 2" in hill["lede"]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300))
def test_pooling_keeps_an_outlier(rows: int, columns: int) -> None:
    values = np.zeros((rows, columns), np.float32)
    values[rows // 2, columns // 3] = 7
    tiles, tall, wide = surface.pooled(values)
    assert max(tiles.shape) <= surface.MOST_CELLS
    assert tiles[rows // 2 // tall, columns // 3 // wide] == 7


def test_a_stripe_is_told_from_a_band() -> None:
    from dqviz.pages.activations.panels import _token_words

    stripe, band = np.ones((20, 30)), np.ones((20, 30))
    stripe[:, 4], band[7] = 50, 50
    assert _token_words(stripe, 1, 1)[0].startswith("Upright stripes")
    assert "channel 4" in _token_words(stripe, 1, 1)[0]
    assert "tokens 14 to 15" in _token_words(band, 1, 2)[0]
    assert _token_words(np.ones((5, 5)), 1, 1)[0].startswith("No stripe")


def test_before_and_after_shows_each_stage(opened: page.Opened) -> None:
    section = panel(opened, "stages", site="transformer_blocks.2.ff.net.2")
    assert [r["cells"][0]["text"] for r in section["table"]["rows"]] == ["before transforms", "after: scaled", "after: rotated"]  # fmt: skip
    axes = {t["xaxis"] for t in section["figure"]["data"]}
    assert axes == {"x", "x2", "x3"}
    assert "→" in section["words"][0]


def test_weights_of_every_layer_that_reads_the_input(opened: page.Opened) -> None:
    section = panel(opened, "weights", site="transformer_blocks.1.attn1")
    assert [t["name"] for t in section["figure"]["data"]] == ["to_q", "to_k", "to_v"]
    assert len(section["table"]["rows"]) == 9


# -- grids


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    bits=st.sampled_from([2, 4, 6, 8]),
    both=st.booleans(),
    shift=st.floats(-3, 3),
)
def test_rounding_per_row_is_that_of_the_kernels(
    seed: int, bits: int, both: bool, shift: float
) -> None:
    x = np.random.default_rng(seed).normal(shift, 1, (5, 24)).astype(np.float32)
    found = grids.effect(x, bits, both, None)
    tensor = torch.from_numpy(x)
    if both:
        codes, scale = symmetric(tensor, bits, "row")
        back, zero = codes * scale, codes == 0
    else:
        codes, scale, z = asymmetric(tensor, bits, "row")
        back, zero = (codes - z) * scale, codes == z
    error = ((tensor - back) ** 2).sum().item()
    assert found.sqnr_db == pytest.approx(10 * np.log10((tensor**2).sum().item() / error), abs=0.05)
    assert found.zero == pytest.approx(zero.float().mean().item(), abs=0.02)


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(-50, 0),
    high=st.floats(0, 50),
    bits=st.sampled_from([2, 4, 6, 8]),
    both=st.booleans(),
)
def test_a_grid_covers_its_range(low: float, high: float, bits: int, both: bool) -> None:
    grid = grids.grid(low, high, bits, both)
    assert grid.count == 2**bits - both
    assert len(grid.levels) == grid.count
    assert 0 in grid.levels
    first, last = grid.ends
    assert first <= low + grid.step / 2 + 1e-6
    assert last >= high - grid.step / 2 - 1e-6


def test_clipping_is_what_lies_beyond() -> None:
    x = np.array([[-10.0, -1, 0, 1, 10, 0.4]])
    fixed = grids.grid(-1, 1, 4, True)
    found = grids.effect(x, 4, True, fixed)
    assert found.clipped == pytest.approx(2 / 6)
    assert grids.effect(x, 4, True, grids.grid(-10, 10, 4, True)).clipped == 0


def test_more_bits_never_round_worse(opened: page.Opened) -> None:
    rows = opened.seen.rows("transformer_blocks.1.ff.net.2")[0]
    found = [grids.effect(rows, b, True, None).sqnr_db or 0 for b in (3, 4, 6, 8)]
    assert found == sorted(found)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), share=st.floats(0.5, 1.0))
def test_a_covered_range_holds_its_share(seed: int, share: float) -> None:
    x = np.random.default_rng(seed).standard_t(3, 4000)
    edges = seen_layout.bin_edges()
    counts = np.histogram(x, edges)[0]
    low, high = grids.covered(float(x.min()), float(x.max()), counts, edges, share)
    inside = np.mean((x >= low) & (x <= high))
    assert inside == pytest.approx(share, abs=0.05)  # a bin is a fifth wide


def test_a_clipped_static_grid_clips_as_it_says(opened: page.Opened) -> None:
    section = panel(opened, "values", scale="all", cover="99", step=opened.seen.steps - 1)
    facts = dict(section["facts"])
    assert facts["clipped"] != "0 %"
    assert dict(panel(opened, "values", scale="all")["facts"])["clipped"] == "0 %"


# -- figures


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234.5, "1\u202f234"), (0.01234, "0.0123"), (-2.5, "−2.5"), (1e-7, "1.00e−7"), (3e8, "3.00e8"), (float("nan"), "–"), (100, "100")],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert arrays.short(value) == text


@settings(max_examples=60)
@given(low=st.floats(1e-6, 10), ratio=st.floats(1.01, 1e6))
def test_ticks_of_logarithmic_axes_lie_inside(low: float, ratio: float) -> None:
    found = arrays.log_ticks(low, low * ratio)
    assert 2 <= len(found["tickvals"]) <= 8
    assert all(low * 0.99 <= v <= low * ratio * 1.02 for v in found["tickvals"])
    assert len(found["ticktext"]) == len(found["tickvals"])


def test_a_logarithmic_colour_scale_ends_where_its_values_do() -> None:
    stops = arrays.log_stops(arrays.SEQUENTIAL, 0.5, 200)
    assert [stops[0][0], stops[-1][0]] == [0, 1]
    assert [p for p, _ in stops] == sorted(p for p, _ in stops)
    middle = next(c for p, c in stops if p * 199.5 + 0.5 >= 10 - 1e-3)
    assert middle == arrays.blended(arrays.SEQUENTIAL, 0.5)


def test_a_map_without_numbers_is_still_drawn() -> None:
    nothing = np.full((3, 4), np.nan)
    figure = heatmap.sites(nothing, list("abc"), ["x"] * 3, None, "log", "t")
    json.dumps(figure, allow_nan=False)
    assert heatmap.height(168) < 700


@pytest.mark.parametrize("steps", [1, 7, 50, 250])
def test_ridges_are_few_and_hold_the_chosen_one(steps: int) -> None:
    for chosen in (0, steps // 2, steps - 1):
        shown = ridge.shown_steps(steps, chosen)
        assert chosen in shown
        assert shown == sorted(set(shown))
        assert len(shown) <= ridge.MOST_RIDGES


def test_an_empty_histogram_is_still_drawn() -> None:
    edges = seen_layout.bin_edges()
    counts = np.zeros(len(edges) - 1, int)
    for log in (False, True):
        figure = histogram.figure([("a", counts)], edges, np.zeros(0), (0, 0), (0, 0), False, log)
        json.dumps(figure, allow_nan=False)


NASTY = "<img src=x onerror=alert(1)>"


def test_names_reach_figures_as_text(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    write_capture(tmp_path / "a.safetensors", blocks=1, inputs=2)
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        tensors = {k.replace("transformer_blocks.0.attn1.to_out.0", NASTY): file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  # fmt: skip
        head = {k: v.replace("transformer_blocks.0.attn1.to_out.0", NASTY).replace("self_out", "unknown") for k, v in (file.metadata() or {}).items()}  # fmt: skip
    save_file(tensors, tmp_path / "b.safetensors", metadata=head)
    opened = page.Opened(SeenFile(tmp_path / "b.safetensors"), "study", "first", NASTY, "key")
    chosen, _ = page.select({"site": NASTY}, opened.seen)
    assert chosen.site == NASTY
    for section in [page.overview(opened, chosen)["map"], *page.panels(opened, chosen)]:
        assert "<img" not in json.dumps(section.get("figure"))
        assert "<" not in section.get("file", "")
