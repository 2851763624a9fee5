"""Work with a method that learns: said before, watched, stopped, gone on to the same result, kept in the study."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dqviz import machine
from dqviz.cli import main
from dqviz.comparison import compare
from dqviz.events import Progress, RunFinished, Stage
from dqviz.export import quantize_to
from dqviz.learnings import part_of, stage_label
from dqviz.request import CompareRequest
from dqviz.study import Study
from dqviz.terminal import ANNOUNCED
from dqviz.watch import Watch
from quant import cards
from quant.errors import BadInput, Cancelled, EnvironmentFault
from tests import learners

STEPS = 12


@pytest.fixture(autouse=True)
def method() -> Iterator[Any]:
    with learners.registered() as found:
        yield found


def request(model: Path, out: Path, **more: Any) -> CompareRequest:
    fields: dict[str, Any] = {
        "model": str(model), "methods": ["wander", "rtn"], "bits": "w4a16", "seeds": "0-1", "steps": 2,
        "calibration_seeds": "100", "ladder": False, "out": out,
    }  # fmt: skip
    return CompareRequest.parse(fields | more)


class Watched:
    """What is told, and a wish to stop after so many steps of the learner."""

    def __init__(self, stop_after: int = 0) -> None:
        self.events: list[Any] = []
        self.stop_after, self.learning, self.learned = stop_after, False, 0

    def __call__(self, event: Any) -> None:
        self.events.append(event)
        if isinstance(event, Stage):
            self.learning = event.name == "learn"
        self.learned += isinstance(event, Progress) and self.learning

    def cancelled(self) -> bool:
        return 0 < self.stop_after <= self.learned

    def stages(self, name: str) -> list[str]:
        return [e.text for e in self.events if isinstance(e, Stage) and e.name == name]


def numbers(result: dict[str, Any]) -> list[Any]:
    return [{k: v for k, v in r.items() if k != "seconds_per_sample"} for r in result["runs"]]


def test_a_stopped_comparison_goes_on_with_the_learning_to_the_same_result(
    tiny_dit: Path, tmp_path: Path
) -> None:
    whole = compare(request(tiny_dit, tmp_path / "whole"))
    folder = tmp_path / "parts"
    first = Watched(stop_after=5)
    with pytest.raises(Cancelled, match="1 finished runs stay"):
        compare(request(tiny_dit, folder), first, first.cancelled, key="k")
    assert first.learned == 5, "it stops within one step"
    state, log = (folder / "learning" / f"wander-w4a16.{end}" for end in ("safetensors", "jsonl"))
    assert state.is_file()
    assert len([line for line in Study.open(folder).learning("wander-w4a16") if "losses" in line]) == 5  # fmt: skip
    second = Watched()
    found = compare(request(tiny_dit, folder), second, key="k")
    assert second.learned == STEPS - 5, "what was learned is not learned again"
    assert numbers(found) == numbers(whole)
    assert found["runs"][1]["psnr_db"] != found["runs"][2]["psnr_db"], "learning changed the weights"  # fmt: skip
    assert not state.exists(), "the run is stored: its state is done with"
    assert log.is_file()


def test_a_killed_learning_goes_on_from_the_state_on_disk(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed: nothing is written at the end, the log is ahead of the state, and the study says running."""
    from quant import learning

    whole = compare(request(tiny_dit, tmp_path / "whole"))
    keep = learning._keep
    monkeypatch.setattr(learning, "Learning", partial(learning.Learning, every=0.0))
    monkeypatch.setattr(learning, "_keep", lambda *a: keep(*a) if a[3] <= 4 else None)
    watched = Watched(stop_after=7)
    with pytest.raises(Cancelled):
        compare(request(tiny_dit, tmp_path / "parts"), watched, watched.cancelled, key="k")
    monkeypatch.setattr(learning, "_keep", keep)
    again = Watched()
    found = compare(request(tiny_dit, tmp_path / "parts"), again, key="k")
    assert again.learned == STEPS - 4
    assert numbers(found) == numbers(whole)
    lines = Study.open(tmp_path / "parts").learning("wander-w4a16")
    assert [line["step"] for line in lines if "losses" in line] == list(range(STEPS))


def test_progress_names_the_stage_and_tells_the_time_that_learning_leaves(
    tiny_dit: Path, tmp_path: Path
) -> None:
    watched = Watched()
    compare(request(tiny_dit, tmp_path / "study"), watched)
    assert watched.stages("learn") == [
        "learning: Wander w4a16",
        "learning: Wander w4a16, assignments",
        "learning: Wander w4a16, codebooks",
    ]
    progress = [e for e in watched.events if isinstance(e, Progress)]
    assert [e.done for e in progress] == sorted(e.done for e in progress)
    assert len({e.total for e in progress}) == 1
    assert (progress[-1].done, progress[-1].seconds_left) == (progress[-1].total, 0)
    begins = next(i for i, e in enumerate(watched.events) if isinstance(e, Stage) and e.name == "learn")  # fmt: skip
    during = [e for e in watched.events[begins:] if isinstance(e, Progress)][:STEPS]
    assert {e.run for e in during} == {"wander-w4a16"}
    assert all(e.seconds_left is not None and e.seconds_left > 0 for e in during)


def test_the_time_of_a_stage_apart_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A denoiser step takes 1 s, a step of the learner 10 s: neither speaks for the other."""
    clock = [0.0]
    monkeypatch.setattr("dqviz.watch.time.perf_counter", lambda: clock[0])
    told: list[Progress] = []
    watch = Watch(lambda e: told.append(e) if isinstance(e, Progress) else None, None, False)
    watch.plan(4 + 5 + 6)
    watch.stage("draw", "", 4)
    clock[0] = 4.0
    watch.advance(4)
    assert told[-1].seconds_left == 11
    watch.stage("learn", "", 5, apart=True)
    clock[0] = 14.0
    watch.advance_to(0.2, 5, 40.0)
    assert told[-1].seconds_left == 40 + 6
    clock[0] = 54.0
    watch.advance_to(1.0, 5, 0.0)
    watch.stage("draw", "", 6)
    clock[0] = 57.0
    watch.advance(3)
    assert told[-1].seconds_left == 3
    watch = Watch(lambda e: told.append(e) if isinstance(e, Progress) else None, None, False)
    watch.plan(4 + 5 + 6)
    watch.skip(4)
    watch.stage("learn", "", 5, apart=True)
    clock[0] += 10.0
    watch.advance_to(0.2, 5, 40.0)
    assert told[-1].seconds_left == 40 + 10 * 6, "where nothing was drawn, by what it is worth"


def test_time_and_memory_are_said_before_anything_is_drawn(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched()
    compare(request(tiny_dit, tmp_path / "study"), watched)
    (text,) = watched.stages("learning")
    assert text.startswith("to be learned; predicted for this machine: Wander about ")
    assert "MiB of memory" in text
    said = text.removeprefix("to be learned; ")
    assert watched.stages("draw")[0] == f"full precision, before learning; {said}", (
        "it stays to be read"
    )
    at = next(i for i, e in enumerate(watched.events) if isinstance(e, Stage) and e.name == "learning")  # fmt: skip
    assert not any(isinstance(e, Progress) for e in watched.events[:at])
    real = machine.available_memory
    monkeypatch.setattr(learners, "memory", lambda shapes, options: real() * 2)
    with pytest.raises(EnvironmentFault, match="of it is for learning: give wander options"):
        compare(request(tiny_dit, tmp_path / "other"))
    assert not (tmp_path / "other").exists(), "before anything is written"


def test_learning_after_a_calibration_is_predicted_once_at_the_start(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learners, "CARD", replace(learners.CARD, needs=("rows",)))
    cards.methods.cache_clear()
    watched = Watched()
    compare(request(tiny_dit, tmp_path / "study"), watched)
    lines = [text for name in ANNOUNCED for text in watched.stages(name)]
    assert sum(line.count("Wander about") for line in lines) == 1
    assert watched.stages("learning")[0].startswith("to be learned; predicted"), "at the start"


def test_stages_are_told_as_people_call_places() -> None:
    labels = {
        "transformer_blocks.5.ff: rounding": ("block 5 · ff: rounding", "block 5 · ff"),
        "transformer_blocks.5.attn1.to_q: free": ("block 5 · attn1.to_q: free", "block 5 · attn1.to_q"),
        "assignments: transformer_blocks.3": ("assignments: block 3", "block 3"),
        "k-means": ("k-means", "k-means"),
    }  # fmt: skip
    assert {stage: (stage_label(stage), part_of(stage)) for stage in labels} == labels


def test_the_log_is_listed_by_the_study(tiny_dit: Path, tmp_path: Path) -> None:
    result = compare(request(tiny_dit, tmp_path / "study", options={"wander.steps": 6}))
    study = Study.open(tmp_path / "study")
    (row,) = study.learnings()
    assert (row["name"], row["method"], row["bits"]) == ("wander-w4a16", "wander", "w4a16")
    assert row["manifest"]["options"] == {"steps": 6}
    assert row["record"]["evidence"] == "simulated"
    head, *lines = study.learning("wander-w4a16")
    assert (head["method"], head["steps"]) == ("wander", 6)
    assert lines[-1]["measures"]["sites"]
    assert result["runs"][1]["learning"] == "learning/wander-w4a16.jsonl"
    assert "learning" not in result["runs"][2]
    with pytest.raises(BadInput, match="learning"):
        study.learning("rtn-w4a16")


def test_what_diverges_is_told_with_its_layer_and_the_state_stays(
    tiny_dit: Path, tmp_path: Path
) -> None:
    asked = request(tiny_dit, tmp_path / "study", options={"wander.nan_at": 3})
    with pytest.raises(BadInput, match=r"step 3 of 12 \(assignments\): transformer_blocks.0.* holds NaN"):  # fmt: skip
        compare(asked)
    study = Study.open(tmp_path / "study")
    assert [c["status"] for c in study.comparisons()] == ["failed"]
    assert [line["step"] for line in study.learning("wander-w4a16") if "losses" in line] == [
        0,
        1,
        2,
    ]


def test_quantize_learns_in_the_study_and_goes_on(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = request(tiny_dit, tmp_path / "study", methods=["wander"])
    watched = Watched(stop_after=4)
    with pytest.raises(Cancelled):
        quantize_to(asked, tmp_path / "a", on_event=watched, cancelled=watched.cancelled)
    assert not (tmp_path / "a").exists()
    again = Watched()
    quantize_to(asked, tmp_path / "a", on_event=again)
    assert again.learned == STEPS - 4
    words = ["--method", "wander", "--bits", "w4a16", "--steps", "2", "--calibration-seeds", "100"]
    place = ["--out", str(tmp_path / "b"), "--study", str(tmp_path / "study")]
    assert main(["quantize", str(tiny_dit), *words, *place, "--json"]) == 0
    said = capsys.readouterr()
    assert "predicted for this machine: Wander about" in said.err
    assert json.loads(said.out)["method"] == "wander"
    files = [tmp_path / n / "diffusion_pytorch_model.safetensors" for n in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    study = Study.open(tmp_path / "study")
    assert [r["name"] for r in study.learnings()] == ["quantize-wander-a", "quantize-wander-b"]
    assert not list((study.folder / "learning").glob("*.safetensors"))


def test_a_finished_run_is_not_learned_again(tiny_dit: Path, tmp_path: Path) -> None:
    stopped = Watched()

    def after_the_run() -> bool:
        return any(isinstance(e, RunFinished) and e.run["method"] == "wander" for e in stopped.events)  # fmt: skip

    with pytest.raises(Cancelled):
        compare(request(tiny_dit, tmp_path / "s"), stopped, after_the_run, key="k")
    again = Watched()
    compare(request(tiny_dit, tmp_path / "s"), again, key="k")
    assert again.learned == 0
    last = [e for e in again.events if isinstance(e, Progress)][-1]
    assert last.done == last.total
