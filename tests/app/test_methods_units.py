"""The Methods page of what learns unit by unit: units, and what comes after the GELU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqviz import capturing
from dqviz.seen_file import SeenFile
from dqviz.study import Study
from dqviz.study_folder import studies_root
from quant.errors import BadInput
from tests import learners
from tests.app.learned import aged, ask, method, rows, section, study  # noqa: F401
from tests.captures import write_capture

UNITS = ["learning", "units", "post-gelu", "gelu-values", "migration"]
GELU = "transformer_blocks.1.ff.net.2"


def learned_units(mode: str = "joint", **more: Any) -> Path:
    fill = {"measures": lambda k: learners.units(2, k / 24, mode), "options": {"mode": mode}}
    return study(**{**fill, **more})


def test_units_go_from_nearest_to_learned_with_hard_codes() -> None:
    learned_units()
    answer = ask()
    assert answer["views"] == UNITS
    drawn = section(answer, "units")
    (figure,) = drawn["figures"]
    by_name = {t["name"]: t for t in figure["figure"]["data"]}
    assert {"nearest", "learned", "learned, soft"} <= set(by_name)
    assert len(by_name["learned"]["x"]) == 4
    assert (
        drawn["words"][0]
        == "joint: 20 % less error than rounding to nearest on average (geometric mean), and less in 4 of 4 units."
    )
    found = rows(drawn["table"]["csv"])
    assert [float(r["hard_now"]) / float(r["hard_before"]) for r in found] == pytest.approx(
        [0.8] * 4
    )
    assert drawn["badges"][0]["text"] == "simulated"


def test_units_grow_while_they_are_learned() -> None:
    learned_units(done=10)
    drawn = section(ask(), "units")
    assert 0 < len(drawn["table"]["rows"]) < 4


def test_the_end_is_told_of_a_learning_that_came_to_it() -> None:
    def said() -> str:
        return section(ask(), "units")["words"][1]

    folder = learned_units(done=10)
    assert said().startswith("Undecided so far: 1 % of the weights")
    aged(folder / "learning" / "wander-w4a16.jsonl")
    assert said().startswith("Undecided where it stopped: 1 %")
    learned_units("separate")
    assert said().startswith("Still undecided at the end: 1 %")


def test_a_method_without_modes_is_called_by_its_title() -> None:
    """Its learner may tell a mode all the same: it is that of the code that it shares."""
    learned_units(options={})
    learners.study_with_learning(studies_root() / "mine", lambda k: learners.units(2, k / 24), name="wander-w4a16-2")  # fmt: skip
    drawn = section(ask(), "units")
    assert drawn["words"][0].startswith("Wander w4a16: 20 % less error")
    assert "wander-w4a16-2 leaves" in drawn["words"][-1]
    assert "joint" not in json.dumps(drawn)


def test_names_of_a_legend_have_room_on_a_small_screen() -> None:
    """Three names in lines of their own, above three rows that keep their height."""
    from dqviz.plots import learning as plots

    figure = plots.moved(["a", "b", "c"], [1, 2, 3], [2, 3, 4], ("nearest", "learned"), "error", log=True)  # fmt: skip
    figure["data"].append({"type": "scatter", "name": "soft"})
    wide = plots.rows_height(3)
    small = plots.small(figure, wide)
    inside = wide - sum(figure["layout"]["margin"][side] for side in "tb")
    margin = small["narrow"]["margin"]
    assert small["narrow_height"] - margin["t"] - margin["b"] == inside
    assert margin["t"] >= 3 * plots.LINE
    assert small["narrow"]["legend"]["yref"] == "container", "from the figure's top down"


def test_joint_beside_separate_on_the_hard_error() -> None:
    learned_units("separate")
    fill = {"measures": lambda k: learners.units(2, k / 24, "joint"), "options": {"mode": "joint"}}
    learners.study_with_learning(studies_root() / "mine", **fill, name="wander-w4a16-2")
    drawn = section(ask(run="wander-w4a16-2"), "units")
    (pick,) = drawn["picks"]
    assert pick["options"] == [("-", "nothing"), ("wander-w4a16", "wander-w4a16, mode=separate")]
    assert pick["value"] == "wander-w4a16", "two runs are beside one another at once"
    assert "joint leaves 11.1 % less error than separate on average over 4 units, and less in 4" in drawn["words"][-1]  # fmt: skip
    assert len(drawn["figures"]) == 2
    (r, *_) = rows(drawn["figures"][1]["csv"])
    assert float(r["joint"]) < float(r["separate"])
    assert len(section(ask(run="wander-w4a16-2", against="-"), "units")["figures"]) == 1


def test_ranges_after_the_gelu_move_over_the_steps_and_give_the_negatives_few_bins() -> None:
    learned_units()
    drawn = section(ask(layer=GELU), "post-gelu")
    ranges, below = drawn["figures"]
    assert len(ranges["figure"]["data"]) == 4, "two ends of two layers"
    assert ranges["click"]["cells"][1] == GELU
    wide = [t["meta"] for t in ranges["figure"]["data"] if t["line"]["width"] > 2]
    assert wide == [1, 1]
    assert [t["x"] for t in below["figure"]["data"]] == [[78, 78], [2, 2]]
    assert any(
        "78 % of its values are negative and get 2 % of the bins" in w for w in drawn["words"]
    )
    assert any("1 as it is, 1 shifted and migrated" in w for w in drawn["words"])


def test_a_capture_for_a_method_that_learns_is_one_of_the_inputs_alone() -> None:
    learned_units()
    missing = ask()["missing"]
    assert missing["capture"].startswith("dqviz capture dit-emoji --study")
    asked = {"model": "dit-emoji", "method": "wander", "bits": "w4a16"}
    with pytest.raises(BadInput, match="capture without --method, and learn with dqviz compare"):
        capturing.check_fields(capturing.CaptureRequest.parse(asked))


def test_channels_are_drawn_before_and_after_their_factors() -> None:
    learned_units(measures=lambda k: learners.units(2, k / 24, channels=32))
    drawn = section(ask(layer=GELU), "migration")
    assert not drawn["note"]
    found = rows(drawn["figures"][0]["csv"])
    assert len(found) == 32
    for row in found:
        assert float(row["range_after"]) == pytest.approx(float(row["range"]) / int(row["factor"]))
    marked = {int(r["channel"]): int(r["factor"]) for r in found if r["outlier"] == "True"}
    assert marked == {3: 3, 17: 2}
    names = [t["name"] for t in drawn["figures"][0]["figure"]["data"]]
    assert names == ["before", "way", "after migration", "outlier channel"]
    assert "the widest range falls to 4" in drawn["words"][1]
    plain = section(ask(layer="transformer_blocks.0.ff.net.2"), "migration")
    assert "0 of 32 channels are outliers" in plain["words"][0]
    assert (
        "as it is 0.015, shifted and migrated 0.02, shifted 0.03. The least is kept"
        in plain["words"][1]
    )


def test_factors_may_be_told_of_all_channels_or_of_the_outliers() -> None:
    from dqviz.pages.methods.migration import factors_of

    outliers = np.array([1, 3])
    assert factors_of({"m": [1, 2, 1, 4]}, outliers, 4).tolist() == [1, 2, 1, 4]
    assert factors_of({"m": [2, 4]}, outliers, 4).tolist() == [1, 2, 1, 4]
    assert factors_of({}, outliers, 4).tolist() == [1, 1, 1, 1]


def test_ranges_that_a_learner_does_not_tell_come_from_a_capture() -> None:
    folder = learned_units()
    alone = section(ask(layer=GELU), "migration")
    assert alone["note"]
    assert alone["figures"] == []
    file = write_capture(folder / "new.safetensors")
    Study.open(folder).add_capture("plain", file, {}, record={"samples": 2})
    seen = SeenFile(folder / "captures" / "plain.safetensors")
    drawn = section(ask(layer=GELU), "migration")
    found = rows(drawn["figures"][0]["csv"])
    assert len(found) == seen.entry(GELU).channels
    each = [seen.channels(GELU, s, b) for s in range(seen.steps) for b in range(seen.branches)]
    wide = np.max([c["maximum"] for c in each], 0) - np.min([c["minimum"] for c in each], 0)
    assert [float(r["range"]) for r in found] == pytest.approx(wide.tolist())


def test_values_after_the_gelu_need_a_capture_and_tell_shares_before_and_after() -> None:
    folder = learned_units(bits="w4a8")
    alone = section(ask(layer=GELU), "gelu-values")
    assert "come from a capture" in alone["note"]
    file = write_capture(folder / "new.safetensors")
    Study.open(folder).add_capture("plain", file, {}, record={"samples": 2})
    values, steps, _ = SeenFile(folder / "captures" / "plain.safetensors").rows(GELU)
    for of in ("all", "2"):
        drawn = section(ask(layer=GELU, of_step=of), "gelu-values")
        here = values if of == "all" else values[steps == 2]
        before, after = rows(drawn["table"]["csv"])
        assert float(before["negative"]) == pytest.approx((here < 0).mean())
        low, high = values.min(), values.max()
        assert float(before["bins_negative"]) == pytest.approx(-low / (high - low))
        assert float(before["level_spacing"]) == pytest.approx((high - low) / 255)
        assert after["values"] == "shifted and migrated"
        assert float(after["high"]) - float(after["low"]) < high - low
        counted = rows(drawn["figures"][0]["csv"])
        assert sum(int(r["count"]) for r in counted if r["values"] == "as recorded") == here.size
        assert [p["value"] for p in drawn["picks"]] == [GELU, of]
        assert {b["text"] for b in drawn["badges"]} == {"measured", "simulated"}
    plain = section(ask(layer="transformer_blocks.0.ff.net.2", of_step="none"), "gelu-values")
    assert len(rows(plain["table"]["csv"])) == 1
    assert "stored as it is" in plain["words"][-1]
    assert plain["picks"][1]["value"] == "all"


def test_where_only_factors_are_asked_for_nothing_is_said_to_be_shifted() -> None:
    learned_units("migrate")
    found = rows(section(ask(), "post-gelu")["table"]["csv"])
    assert [r["gate"] for r in found] == ["plain", "migrate"]
    cells = [row["cells"][-1]["text"] for row in section(ask(), "post-gelu")["table"]["rows"]]
    assert cells == ["as it is", "migrated"]
