"""Attention sharing and the window editor: what they say is what the engine counts."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqviz.pages.methods import Opened, Probed, Selection, sharing, windows
from dqviz.plots import windows as plots
from quant.sharing_choice import SharingRequest, chosen_sharing, saving
from tests import probes


def opened(**measured: Any) -> Opened:
    """A study that holds these probes."""
    record = {"evidence": "measured", "samples": 2, "steps": 4}
    held = {k: Probed(k, data, record, {"method_options": {"windows": 4, "tier": "C"}}) for k, data in measured.items()}  # fmt: skip
    return Opened("mine", "A model", "dit-emoji", "trdq", "w4a8", probes=held)


def chosen(site: str = "", **values: str) -> Selection:
    return Selection(site, 0, values)


# attention sharing


def counted(found, by, mode, threshold):
    """What the engine says of that choice."""
    request = SharingRequest(mode=mode, chosen_by=by, threshold=threshold)
    made = chosen_sharing(request, found.attentions, found)
    return saving(made, found.timesteps, dict(zip(found.attentions, found.work)), found.network)


def agrees(made, said):
    """The page's numbers are the engine's."""
    return made["cells"] == said["cells"] and np.allclose(
        [made["qk_rows"], made["multiply_adds"]], [said["qk_rows"], said["multiply_adds"]]
    )


@given(
    seed=st.integers(0, 5),
    by=st.sampled_from(["similarity", "error", "released"]),
    mode=st.sampled_from(["map", "output"]),
    threshold=st.floats(0, 1),
)
def test_what_sharing_saves_is_what_the_engine_counts(seed, by, mode, threshold):
    found = sharing.similarity_of(probes.similarity(attentions=7, seed=seed))
    shared = sharing.shared_cells(found, by, mode, threshold)
    said = counted(found, by, mode, threshold)
    assert agrees(sharing.saved(found, shared, mode), said)
    other = "output" if mode == "map" else "map"
    if shared.any():
        assert not agrees(sharing.saved(found, shared, other), said), "the modes save different work"  # fmt: skip


@pytest.mark.parametrize("by", ["similarity", "error"])
@pytest.mark.parametrize("mode", ["map", "output"])
def test_a_point_of_the_curve_is_a_threshold_to_take(by, mode):
    data = probes.similarity(attentions=5, steps=9)
    section = sharing.section(opened(similarity=data), chosen())
    line, point = section["curves"][f"{by}:{mode}"]["data"]
    assert line["x"] == sorted(line["x"]), "a lower threshold saves no less"
    assert line["customdata"] == sorted(line["customdata"], reverse=True)
    assert len(line["x"]) > 5
    assert (point["x"], point["y"]) == ([], [])
    found = sharing.similarity_of(data)
    for saved, threshold in zip(line["x"][1:], line["customdata"][1:]):
        assert saved == pytest.approx(100 * counted(found, by, mode, threshold)["multiply_adds"])


def test_the_section_of_sharing_is_plain_and_claims_no_time():
    section = sharing.section(opened(similarity=probes.similarity()), chosen(threshold="nan", share="<b>", by="error", last="99"))  # fmt: skip
    text = json.dumps(section, allow_nan=False)
    assert section["chosen"] == {"share": "map", "by": "error", "threshold": 0.9, "first": 0, "last": 5}  # fmt: skip
    assert section["predicted"]["text"] == "predicted"
    assert "second" not in text
    rows = section["csv"].splitlines()
    assert len(rows) == 1 + 4 * 6
    assert rows[0].startswith("attention,label,step,timestep,cosine,minimum,output_error_map")


def test_where_there_is_no_guidance_pair_the_reason_stands():
    section = sharing.section(opened(similarity={"off": "guidance is 1: there is one branch"}), chosen())  # fmt: skip
    assert (section["kind"], section["text"]) == ("hint", "guidance is 1: there is one branch")


def test_attentions_that_share_a_block_keep_their_own_labels():
    rows, blocks = sharing.labels(("blocks.0.attn1", "blocks.0.attn2", "blocks.1.attn1", "mid"))
    assert rows == ["block 0 · blocks.0.attn1", "block 0 · blocks.0.attn2", "block 1", "mid"]
    assert blocks == ["block 0", "block 0", "block 1", "mid"]


# windows


@st.composite
def measured(draw):
    """Steps, and errors of some runs of them: at least the whole."""
    steps = draw(st.integers(2, 7))
    runs = list(itertools.combinations(range(steps + 1), 2))
    kept = draw(st.sets(st.sampled_from(runs))) | {(0, steps)}
    errors = {run: draw(st.floats(0.01, 1)) for run in sorted(kept)}
    return steps, errors


@given(measured(), st.integers(1, 4))
def test_the_best_borders_are_the_best_of_all(found, count):
    steps, errors = found
    cuts = [(0, *inner, steps) for inner in itertools.combinations(range(1, steps), count - 1)]
    levels = [level for cut in cuts if (level := windows.level(errors, cut)) is not None]
    cut = windows.best(errors, steps, count)
    assert bool(cut) == bool(levels)
    if cut:
        assert len(cut) == count + 1
        assert windows.level(errors, cut) == pytest.approx(min(levels))


def test_the_error_of_windows_is_the_mean_over_their_steps():
    errors = {(0, 4): 0.4, (0, 1): 0.1, (1, 4): 0.3}
    assert windows.level(errors, [0, 4]) == pytest.approx(0.4)
    assert windows.level(errors, [0, 1, 4]) == pytest.approx((0.1 + 3 * 0.3) / 4)
    assert windows.level(errors, [0, 2, 4]) is None, "what was not measured is not made up"


@pytest.mark.parametrize(
    ("text", "probed", "found"),
    [
        ("3.5", None, [3, 5]),
        ("5.3.5.99.0.-1.x.٣", None, [3, 5]),
        ("0", None, []),
        (None, [2, 6], [2, 6]),
        (None, 2, [4]),
        (None, "step", [1, 2, 3, 4, 5, 6, 7]),
        (None, 1, []),
        (None, None, [2, 4, 6]),
    ],
)
def test_borders_of_an_address_or_of_what_was_probed(text, probed, found):
    assert windows.borders(text, 8, probed) == found


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_equal_windows_are_those_that_the_method_cuts(steps):
    from quant.plans import steps_of, windows_between

    times = np.linspace(999, 1, steps).tolist()
    for name, cut in windows.presets(steps).items():
        own = steps_of(windows_between(times, len(cut) - 1), times)
        assert [w[0] for w in own] == cut[:-1], name


def test_axes_run_from_the_noisiest_step_on():
    data = probes.windows(steps=8)
    axes = windows.axes(data)
    assert set(axes) == set(plots.AXES)
    for places in axes.values():
        assert len(places) == 9
        assert places == sorted(places)
    assert axes["step"][:2] == [-0.5, 0.5]
    without = windows.axes({**data, "log_snr": [None, *data["log_snr"][1:]]})
    assert set(without) == {"step", "timestep"}
    assert windows.axes({"timesteps": [7.0], "log_snr": [1.0]})["step"] == [-0.5, 0.5]


def test_the_editor_shows_all_inputs_or_the_one_that_is_chosen():
    data = probes.windows(steps=8)
    view = opened(windows=data)
    every = windows.section(view, chosen(tier="A", axis="snr"))
    assert (every["tier"], every["axis"], every["over"], every["borders"]) == ("A", "snr", "all", [2, 4, 6])  # fmt: skip
    json.dumps(every, allow_nan=False)
    name = data["inputs"][1]["name"]
    one = windows.section(view, chosen(name, over="one"))
    whole = data["intervals"].index([0, 8])
    assert one["errors"]["0-8"] == data["error"][1][whole]
    assert every["errors"]["0-8"] == pytest.approx(np.mean([row[whole] for row in data["error"]]))
    assert set(every["presets"]) == {"1", "2", "4", "step"}
    assert every["best"]["2"] == [0, 4, 8]
    lines = {trace["name"]: trace for trace in every["figure"]["data"]}
    assert lines["one window"]["y"] == [windows.percent(every["errors"]["0-8"])] * 2 + [None]
    assert lines["your windows"]["x"] == []
    assert len(every["csv"].splitlines()) == 1 + len(data["inputs"]) * len(data["intervals"])


@pytest.mark.parametrize(
    ("one", "two", "step", "said"),
    [
        (0.4, 0.3, 0.2, ["a window per step leaves the least"]),
        (0.4, 0.2, 0.199, ["a window per step leaves the least", "2 equal windows do about as well"]),
        (0.4, 0.2, 0.3, ["2 equal windows leave the least", "fewer rows"]),
        (0.2, 0.3, 0.3, ["No equal cut leaves less"]),
    ],
)  # fmt: skip
def test_words_name_the_fewest_windows_that_do(one, two, step, said):
    data = {**probes.windows(steps=8), "intervals": [[0, 8], [0, 4], [4, 8], *([s, s + 1] for s in range(8))]}  # fmt: skip
    data["error"] = [[one, two, two] + [step] * 8] * len(data["inputs"])
    data["alpha"] = data["error"]
    words = windows.section(opened(windows=data), chosen())["words"]
    assert len(words) == len(said)
    assert all(part in sentence for part, sentence in zip(said, words))


def test_windows_measured_later_join_those_before():
    before, later = probes.windows(steps=8), probes.windows(steps=8, seed=1)
    later |= {"intervals": [[0, 8], [0, 3], [3, 8]]}
    later |= {k: [row[:3] for row in later[k]] for k in ("error", "alpha")}

    def held(data, alpha):
        return Probed("p", data, {"samples": 2, "evidence": "simulated"}, {"method_options": {"alpha": alpha, "windows": [3]}})  # fmt: skip

    view = replace(opened(windows=before), probes={"windows": held(later, 0.3)})
    alone = windows.gathered(view)
    assert {tuple(i) for i in alone["intervals"]} == {(0, 8), (0, 3), (3, 8)}
    both = windows.gathered(replace(view, earlier={"windows": [held(before, 0.3)]}))
    assert {tuple(i) for i in both["intervals"]} == {(0, 3), (3, 8), *map(tuple, before["intervals"])}  # fmt: skip
    assert windows.errors_over(both, None)[0, 8] == windows.errors_over(later, None)[0, 8]
    assert windows.errors_over(both, None)[0, 2] == windows.errors_over(before, None)[0, 2]
    other = windows.gathered(replace(view, earlier={"windows": [held(before, 0.5)]}))
    assert other == alone, "another alpha is another transform"


def test_few_inputs_of_a_large_model_are_said():
    data = {**probes.windows(), "of_inputs": 112}
    assert "4 of 112 inputs" in windows.section(opened(windows=data), chosen())["note"]


def test_a_study_hands_back_what_a_probe_measured(tmp_path: Path):
    study = probes.study_with_probes(tmp_path / "mine", windows=probes.windows(blocks=6, steps=20))
    assert [row["probe"] for row in study.probes()] == ["windows"]
    assert study.probe("trdq-w4a8-windows")["of_inputs"] == 12


def test_the_page_asks_for_one_probe_with_these_windows(tmp_path, monkeypatch):
    from dqviz.probing import ProbeRequest, as_command
    from dqviz.study_folder import studies_root
    from dqviz.ui.bench import Bench
    from dqviz.ui.methods import Methods

    monkeypatch.setenv("DQVIZ_HOME", str(tmp_path))
    probes.study_with_probes(studies_root() / "mine", windows=probes.windows())
    asked = {"what": "probe", "study": "mine", "method": "trdq", "bits": "w4a8", "only": ["windows"], "options": {"windows": [5]}}  # fmt: skip
    kind, request = Methods(Bench()).request(asked)
    assert kind == "probe"
    command = as_command(ProbeRequest.parse(request))
    assert "--only windows --option 'windows=[5]'" in command
