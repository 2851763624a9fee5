"""Views of what was learned, as plain values: curves, decisions, codewords, units, ranges; without a server."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dqviz.pages import methods as page
from dqviz.study_folder import studies_root
from dqviz.ui.bench import Bench
from dqviz.ui.methods import Methods
from tests import learners
from tests.app.conftest import FakeCompare
from tests.app.learned import aged, ask, method, rows, section, study  # noqa: F401

VECTORS = ["learning", "decisions", "ranks", "codewords", "coherence"]


def test_a_method_that_learns_is_on_the_switch_by_its_card() -> None:
    study()
    answer = ask(method=None)
    assert ("wander", "Wander") in answer["controls"]["method"]
    assert answer["method"] == "wander", "what was measured last is looked at first"
    assert answer["controls"]["bits"] == ["w4a16", "w4a8"]
    assert "incoherence" not in answer["views"], "a view of probes is not of a method without any"


def test_the_curves_hold_every_loss_of_every_step() -> None:
    study()
    drawn = section(ask(), "learning")
    (figure,) = drawn["figures"]
    assert [t["name"] for t in figure["figure"]["data"]] == ["loss", "hard", "penalty"]
    assert figure["figure"]["layout"]["yaxis"]["type"] == "log"
    assert [a["text"] for a in figure["figure"]["layout"]["annotations"]] == [
        "assignments",
        "codebooks",
    ]
    found = rows(figure["csv"])
    assert len(found) == 24
    assert {r["evidence"] for r in found} == {"simulated"}
    assert float(found[0]["loss"]) == pytest.approx(0.02)
    assert drawn["facts"][0] == ["steps", "24", "of 24, done"]
    assert len(drawn["table"]["rows"]) == 2
    assert drawn["table"]["latex"]


def test_lines_break_between_units_and_lone_points_are_marked() -> None:
    units = [f"transformer_blocks.{b}.{u}" for b in range(6) for u in ("attn1", "ff")]
    stages = [f"{u}: {what}" for u in units for what in ("ranges", "rounding")]
    study(steps=240, stages=stages, measures=lambda k: {})
    file = studies_root() / "mine" / "learning" / "wander-w4a16.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line.get("step", 0) % 20 and "losses" in line:
            line["losses"].pop("hard")
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn = section(ask(), "learning")
    loss, hard, _ = drawn["figures"][0]["figure"]["data"]
    assert len(loss["x"]) == 240 + len(units) - 1, "a gap between two units, none inside one"
    assert (loss["mode"], hard["mode"]) == ("lines", "lines+markers")
    layout = drawn["figures"][0]["figure"]["layout"]
    assert [a["text"] for a in layout["annotations"]] == [f"block {b}" for b in range(6)]
    assert len(layout["shapes"]) == len(units) - 1
    assert drawn["facts"][1] == ["stage", "block 5 · ff: rounding", ""]


def test_the_time_left_is_told_while_a_job_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    study(done=7)
    bench = Bench(compare=FakeCompare())
    monkeypatch.setattr(bench.desk, "wake", lambda: None)
    request = {"model": "dit-emoji", "methods": ["rtn"], "bits": "w8a8", "out": str(studies_root() / "mine")}  # fmt: skip
    bench.store.submit("compare", request)
    query = {"study": "mine", "method": "wander", "bits": "w4a16"}

    def left() -> list[str]:
        facts = section(Methods(bench).answer(query), "learning")["facts"]
        return [value for term, value, _ in facts if term == "left"]

    assert left() == []
    job = bench.store.claim()
    assert job is not None
    bench.store.report(job, {"seconds_left": 125.0})
    assert left() == ["2 min 05 s"]
    bench.store.end(job, "failed", "learning diverged at step 7")
    assert left() == []
    words = section(Methods(bench).answer(query), "learning")["words"]
    assert "It failed after step 7 of 24: learning diverged at step 7." in words


def test_without_a_learning_the_command_is_told() -> None:
    study()
    answer = ask(bits="w4a8")
    assert answer["views"] == ["learning"]
    empty = section(answer, "learning")
    assert "holds no learning of Wander at w4a8" in empty["empty"]
    assert empty["learn"]["command"].startswith(
        "dqviz compare dit-emoji --method wander --bits w4a8"
    )
    assert "method=wander" in empty["learn"]["link"]
    assert not answer["live"]


def test_one_under_way_is_live_and_one_that_stopped_says_so() -> None:
    folder = study(done=7)
    answer = ask()
    assert answer["live"], "its log was written a moment ago"
    assert section(answer, "learning")["facts"][0] == ["steps", "7", "of 24, running"]
    aged(folder / "learning" / "wander-w4a16.jsonl")
    answer = ask()
    assert not answer["live"]
    drawn = section(answer, "learning")
    assert drawn["facts"][0] == ["steps", "7", "of 24, stopped"]


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (b"", "begins anew: there is no state to go on from"),
        (7, "goes on from there"),
        (3, "goes on from step 3, the last whose state was kept"),
        (b"cut off", "begins anew: there is no state to go on from"),
    ],
)
def test_one_that_stopped_says_where_it_goes_on(kept: int | bytes, said: str) -> None:
    """A killed one has written more steps into its log than its state has done."""
    log = study(done=7) / "learning" / "wander-w4a16.jsonl"
    aged(log)
    state = log.with_suffix(".safetensors")
    if isinstance(kept, int):
        save_file({"m": np.zeros(3)}, state, {"key": "k", "step": str(kept)})
    elif kept:
        state.write_bytes(kept)
    (words,) = [w for w in section(ask(), "learning")["words"] if "stopped" in w]
    assert "stopped after step 7 of 24; resume its job" in words
    assert words.endswith(f"and it {said}.")


def test_a_job_that_ended_after_the_last_line_is_not_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study(done=7)
    bench = Bench(compare=FakeCompare())
    shown = Methods(bench)
    request = {
        "model": "dit-emoji",
        "methods": ["rtn"],
        "bits": "w8a8",
        "out": str(studies_root() / "mine"),
    }
    monkeypatch.setattr(bench.desk, "wake", lambda: None)
    job = bench.store.submit("compare", request)
    query = {"study": "mine", "method": "wander", "bits": "w4a8"}
    assert shown.answer(query)["live"], "it waits: it may begin to learn"
    bench.store.cancel(job.id)
    assert not shown.answer({**query, "bits": "w4a16"})["live"]


def test_a_log_that_is_being_written_and_one_of_another_version_are_read() -> None:
    folder = study(done=5)
    file = folder / "learning" / "wander-w4a16.jsonl"
    file.write_text(file.read_text() + '{"step": 5, "stage": "assignm')
    assert section(ask(), "learning")["facts"][0][1] == "5"
    file.write_text("")
    assert "has begun" in section(ask(), "learning")["empty"]
    file.unlink()
    assert "has begun" in section(ask(), "learning")["empty"]


def test_one_that_has_begun_is_not_offered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (study() / "learning" / "wander-w4a16.jsonl").write_text("")
    stopped = section(ask(), "learning")
    assert stopped["learn"] == {}
    assert "If it was stopped, resume its job" in stopped["empty"]
    bench = Bench(compare=FakeCompare())
    monkeypatch.setattr(bench.desk, "wake", lambda: None)
    request = {"model": "dit-emoji", "methods": ["rtn"], "bits": "w8a8", "out": str(studies_root() / "mine")}  # fmt: skip
    bench.store.submit("compare", request)
    running = section(Methods(bench).answer({"study": "mine", "method": "wander", "bits": "w4a16"}), "learning")  # fmt: skip
    assert running["learn"] == {}
    assert running["empty"].endswith("its first step is not written down yet.")


def walked(options: dict[str, Any], every: int = 1) -> list[str]:
    """Sentences about a learning of four trajectories of six steps after two of k-means, each a tenth below the last."""
    folder = study(steps=26, options={"steps": 6, "trajectories": 4, **options})
    stages = ["k-means"] * 2 + ["assignments"] * 15 + ["codebooks"] * 9
    lines: list[dict[str, Any]] = [{"steps": 26, "method": "wander", "key": "k"}]
    for k, stage in enumerate(stages):
        trajectory, at = divmod(k - 2, 6)
        losses = {"weight_error": 0.1} if k < 2 else {"loss": 0.9**trajectory * 2.0**at}
        lines += [{"step": k, "stage": stage, "losses": losses}] if k % every == 0 else []
    file = folder / "learning" / "wander-w4a16.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [w for w in section(ask(), "learning")["words"] if "on average" in w]


def test_along_trajectories_whole_ones_are_compared() -> None:
    """The loss is larger by far at some noise levels: ends of a stage that hold different ones say nothing."""
    (said,) = walked({"order": "trajectory"})
    assert said.startswith("assignments: the loss is 10.5 on average in the first trajectory (6 steps)")  # fmt: skip
    assert said.endswith("9.45 in the last, 10 % less."), "of codebooks one alone is whole"
    assert walked({"order": "trajectory"}, every=2) == [], "none was logged whole"
    for moments_at_random in ({"order": "shuffled"}, {"order": "trajectory", "block_input": "teacher"}):  # fmt: skip
        assert [w.count("first quarter") for w in walked(moments_at_random)] == [1, 1]


def test_options_are_known_by_preset_and_default() -> None:
    def run(**options: Any) -> page.Learned:
        return page.Learned("r", "R", {"method": "vq4dit", "options": options}, {}, [])

    assert [run().option(name) for name in ("order", "steps", "mode")] == ["trajectory", 50, None]
    assert [run(preset="quick").option(n) for n in ("order", "steps")] == ["shuffled", 20]
    assert run(order="shuffled").option("order") == "shuffled"
    assert run(preset="of an earlier version", steps=7).option("steps") == 7


def test_two_runs_are_told_apart_and_chosen() -> None:
    study()
    learners.study_with_learning(studies_root() / "mine", lambda k: {}, name="wander-w4a16-2")
    answer = ask()
    drawn = section(answer, "learning")
    (pick,) = drawn["picks"]
    assert pick["options"] == [
        ("wander-w4a16-2", "wander-w4a16-2"),
        ("wander-w4a16", "wander-w4a16"),
    ]
    assert answer["views"] == ["learning"], "its measures have nothing to draw"
    assert set(ask(run="wander-w4a16")["views"]) > {"learning"}
    assert ask(run="nothing of that name")["views"] == ["learning"]
    assert page.TITLE == "Methods"


# -- vectors


def test_a_vector_quantizer_shows_its_decisions_ranks_codewords_and_coherence() -> None:
    study()
    answer = ask()
    assert answer["views"] == VECTORS
    assert [key for key, _ in answer["controls"]["views"]] == VECTORS
    for key in VECTORS:
        drawn = section(answer, key)
        assert drawn["figures"]
        assert drawn["words"]
        assert drawn["badges"][0]["text"] == ("simulated" if key == "learning" else "measured")
    frozen, entropy = (section(ask(decided=way), "decisions") for way in ("frozen", "entropy"))
    assert len(frozen["figures"][0]["figure"]["data"][0]["y"]) == len(learners.LAYERS)
    assert rows(frozen["figures"][0]["csv"]) == rows(entropy["figures"][0]["csv"])
    assert frozen["figures"][0]["figure"] != entropy["figures"][0]["figure"]
    last = [r for r in rows(frozen["figures"][0]["csv"]) if r["step"] == "23"]
    assert [float(r["entropy"]) for r in last] == [0.0] * len(learners.LAYERS)


def test_a_layer_is_chosen_on_a_map_and_shown_in_every_view() -> None:
    study()
    layer = learners.LAYERS[5]
    answer = ask(layer=layer)
    for key in ("ranks", "codewords", "coherence"):
        drawn = section(answer, key)
        assert drawn["picks"][0]["value"] == layer
        cells = drawn["figures"][0]["click"]["cells"]
        assert [name for row in cells for name in row] == learners.LAYERS, "a block in each row"
    histogram = section(answer, "codewords")["figures"][1]
    uses = histogram["figure"]["data"][0]["y"]
    assert uses == learners.vectors(learners.LAYERS, 1)["sites"][layer]["counts"]
    assert uses == sorted(uses, reverse=True)
    assert "5 unused" in histogram["lede"]
    assert section(ask(layer="<nowhere>"), "ranks")["picks"][0]["value"] == learners.LAYERS[0]


def test_shares_of_the_ranks_add_up_and_the_least_coherent_is_found() -> None:
    study()
    answer = ask()
    for row in rows(section(answer, "ranks")["table"]["csv"]):
        assert float(row["rank_1"]) + float(row["rank_2"]) == pytest.approx(1)
    gained = rows(section(answer, "coherence")["table"]["csv"])
    assert all(float(r["now"]) == pytest.approx(float(r["kmeans"]) + 0.1) for r in gained)
    assert (
        f"rose in {len(gained)} of {len(gained)} layers" in section(answer, "coherence")["words"][0]
    )


def test_while_codebooks_are_made_there_is_nothing_to_decide() -> None:
    def late(k: int) -> dict[str, Any]:
        if k < 10:
            return {"sites": {n: {"used": 1.0} for n in learners.LAYERS}}
        return learners.vectors(learners.LAYERS, k / 24)

    study(measures=late)
    found = rows(section(ask(), "decisions")["figures"][0]["csv"])
    assert sorted({int(r["step"]) for r in found}) == [12, 16, 20, 23]


def test_shares_have_the_colours_of_0_to_100_percent() -> None:
    def begun(k: int) -> dict[str, Any]:
        return {"sites": {n: {"frozen": 1e-4 * i, "used": 1.0} for i, n in enumerate(learners.LAYERS)}}  # fmt: skip

    study(measures=begun)
    answer = ask()
    for key in ("decisions", "codewords"):
        shown, bar = section(answer, key)["figures"][0]["figure"]["data"]
        assert (shown["zmin"], shown["zmax"]) == (0, 100)
        assert (bar["marker"]["cmin"], bar["marker"]["cmax"]) == (0, 100)
        assert "%" in bar["marker"]["colorbar"]["title"]["text"]
    found = rows(section(answer, "decisions")["figures"][0]["csv"])
    assert max(float(r["frozen"]) for r in found) == pytest.approx(7e-4), "exported as shares"


def coherence_of(measured: int, **more: Any) -> dict[str, Any]:
    """The view while the second number is known of so many layers."""

    def told(k: int) -> dict[str, Any]:
        own = {n: {"kmeans": 0.05, "now": 0.15 if i < measured else None} for i, n in enumerate(learners.LAYERS)}  # fmt: skip
        return {**learners.vectors(learners.LAYERS, k / 24), "coherence": own}

    study(measures=told, **more)
    return section(ask(), "coherence")


def test_coherence_that_is_not_measured_yet_is_not_told() -> None:
    drawn = coherence_of(0, done=12)
    every, block = drawn["figures"]
    assert every["title"] == "With the codes of k-means"
    assert "now" not in [t["name"] for t in block["figure"]["data"]]
    assert "not measured again" in block["alt"]
    for text in (drawn["table"]["csv"], block["csv"]):
        assert {(r["kmeans"], r["now"]) for r in rows(text)} == {("0.05", "")}
    assert {row["cells"][2]["text"] for row in drawn["table"]["rows"]} == {"–"}
    assert drawn["words"] == ["On average 0.05 with the codes of k-means; measured again when learning ends."]  # fmt: skip


def test_layers_that_are_measured_again_have_their_gain_and_others_a_gap() -> None:
    drawn = coherence_of(2, done=12)
    every, block = drawn["figures"]
    assert every["title"] == "Gain of every layer"
    assert [r["value"] for r in rows(every["csv"])][:3] == ["0.09999999999999999", "0.09999999999999999", ""]  # fmt: skip
    (now,) = [t for t in block["figure"]["data"] if t["name"] == "now"]
    assert now["x"] == [0.15, 0.15, None, None]
    assert "it rose in 2 of 2 layers" in drawn["words"][0]
    assert drawn["words"][1].startswith("6 of 8 layers are measured again when")


def test_what_a_learner_leaves_out_is_not_drawn() -> None:
    def few(k: int) -> dict[str, Any]:
        return {"sites": {n: {"frozen": 0.5, "used": 1.0, "dead": 0} for n in learners.LAYERS}}

    study(measures=few)
    answer = ask()
    assert answer["views"] == ["learning", "decisions", "codewords"]
    assert len(section(answer, "codewords")["figures"]) == 1


def test_a_loss_far_below_another_is_drawn_and_one_that_fades_away_leaves() -> None:
    from dqviz.plots import learning as plots

    steps = range(20)
    curves = {"loss": [(k, 4000.0) for k in steps], "output": [(k, 0.3 - 0.01 * k) for k in steps], "penalty": [(k, 10.0**-k) for k in steps]}  # fmt: skip
    low, high = plots.losses(curves, [("a", 0, 19)], 20)["layout"]["yaxis"]["range"]
    assert 10**low < 0.11
    assert 10**low > 1e-4
    assert 10**high > 4000
    units = {"hard": [(k, 1e-3 if k < 10 else 3.0) for k in steps]}
    low, _ = plots.losses(units, [("a", 0, 9), ("b", 10, 19)], 20)["layout"]["yaxis"]["range"]
    assert 10**low < 1e-3, "small in its own unit is not faded"


def test_a_loss_keeps_its_colour_when_others_come() -> None:
    from dqviz.plots import learning as plots

    def colours(**curves: list[tuple[int, float]]) -> dict[str, str]:
        drawn = plots.losses(curves, [("a", 0, 9)], 10, ["hard"])["data"]
        return {trace["name"]: trace["line"]["color"] for trace in drawn}

    points = [(0, 1.0), (1, 0.9)]
    first = colours(weight_error=points)
    both = colours(loss=points, hard=points, weight_error=points, penalty=points)
    assert both["weight error"] == first["weight error"]
    assert len(set(both.values())) == 4
