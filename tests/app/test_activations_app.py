"""The Activations page as the server answers it: captures of studies, links, jobs; no browser."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dqviz.report.captured import captured
from dqviz.studies import writable
from dqviz.study import Study
from dqviz.study_folder import RECORDED
from dqviz.ui.activations import Captures, server_functions
from dqviz.ui.bench import Bench
from dqviz.ui.library import Library
from tests.app.conftest import FakeCompare
from tests.captures import write_capture

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DQVIZ_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "studies"


@pytest.fixture
def study(home: Path, tmp_path: Path) -> Study:
    model = {"key": "dit-emoji", "title": "A <b>model</b>", "fingerprint": "f", "weights": "w"}
    made = Study.create(home / "mine", model, {"dqviz": "0"})
    for name, stages in (("plain", ("input",)), ("viditq", ("input", "scaled"))):
        file = write_capture(tmp_path / "c.safetensors", stages=stages)
        made.add_capture(name, file, {"samples": []})
    return made


@pytest.fixture
def ask() -> Ask:
    answer = {f.__name__: f for f in server_functions(Bench(compare=FakeCompare()))}

    def call(name: str = "activations", **query: Any) -> dict[str, Any]:
        return json.loads(answer[name](query))

    return call


def test_the_latest_capture_opens_first(study: Study, ask: Ask) -> None:
    found = ask()
    assert (found["study"], found["capture"]) == ("mine", "viditq")
    assert found["studies"]["mine"] == ["viditq", "plain"]
    assert found["headline"]["title"] == "A <b>model</b>"
    assert {"overview", "panels", "about", "controls", "selection", "notes"} <= set(found)


@pytest.fixture
def copied(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A person's own copy of the study that came along."""
    for module in ("dqviz.study_folder", "dqviz.studies"):
        monkeypatch.setattr(f"{module}.RECORDED", RECORDED)
    copy = writable(RECORDED / "dit-emoji")
    assert copy.parent.resolve() == home.resolve()
    return copy


def test_recorded_statistics_stay_recorded_in_a_copy(copied: Path, ask: Ask) -> None:
    """A first Run copies the study that came along; its capture was still taken elsewhere."""
    found = ask(study="dit-emoji")
    listed = Study.open(copied, read_only=True).captures()
    assert found["capture"] == listed[-1]["name"]
    shown = [b for b in found["headline"]["badges"] if b["text"] in ("recorded", "measured")]
    assert [b["text"] for b in shown] == ["recorded"]
    assert listed[-1]["created"][:10] in shown[0]["title"]
    assert listed[-1]["record"]["device"] in shown[0]["title"]
    drawn = json.dumps([found["overview"], found["panels"]])
    assert '"evidence": "recorded' in drawn
    assert "measured" not in re.findall(r'"(?:evidence|text)": "([^"]*)"', drawn)
    said = {s["source"]["evidence"] for s in captured(Study.open(copied, read_only=True))}
    assert said == {"recorded"}


def test_a_capture_made_into_a_copy_is_measured(copied: Path, tmp_path: Path, ask: Ask) -> None:
    copy = Study.open(copied)
    copy.add_capture(
        "own", write_capture(tmp_path / "o.safetensors"), {}, record={"evidence": "measured"}
    )
    found = ask(study="dit-emoji", capture="own")
    assert "measured" in [b["text"] for b in found["headline"]["badges"]]


def test_every_capture_that_comes_along_says_so_itself() -> None:
    for folder in RECORDED.iterdir():
        for row in Study.open(folder, read_only=True).captures():
            assert row["record"]["evidence"] == "recorded"
            assert row["record"]["device"]


def test_only_what_is_wanted_is_answered(study: Study, ask: Ask) -> None:
    found = ask(study="mine", want=["panels"], site="transformer_blocks.1.ff.net.2", step=4)
    assert "overview" not in found
    assert "controls" not in found
    assert found["about"]["label"] == "block 1 · fc2"
    assert found["selection"]["step"] == 4


def test_without_a_capture_the_page_says_what_to_run(ask: Ask) -> None:
    assert ask()["empty"]["command"].startswith("dqviz capture ")


@pytest.mark.parametrize("name", ["../mine", "/etc", "mine/../mine", "<script>", 7, ["mine"]])
def test_a_study_that_is_not_listed_is_refused_politely(study: Study, ask: Ask, name: Any) -> None:
    found = ask(study=name)
    assert found["study"] == "mine", "another one is shown"
    if isinstance(name, str):
        assert name in " ".join(found["notes"])


@pytest.mark.parametrize("name", ["../../study", "gone", "plain.safetensors"])
def test_a_capture_that_a_study_lacks(study: Study, ask: Ask, name: str) -> None:
    found = ask(study="mine", capture=name, want=["page"])
    assert found["capture"] == "viditq"
    assert name in found["notes"][0]


def bare(home: Path, **model: Any) -> Study:
    """A study without a capture."""
    held = {"key": "dit-emoji", "ref": "dit-emoji", "fingerprint": "f", **model}
    return Study.create(home / "bare one", held, {})


def test_a_study_without_a_capture_says_how_to_make_one(study: Study, home: Path, ask: Ask) -> None:
    made = bare(home)
    found = ask(study="bare one")
    assert found["study"] == "bare one"
    assert "bare one" in found["empty"]["text"]
    assert list(found["studies"]) == ["mine"], "others can be chosen"
    words = shlex.split(found["empty"]["command"])
    assert words[:3] == ["dqviz", "capture", "dit-emoji"]
    assert Path(words[words.index("--study") + 1]).resolve() == made.folder.resolve()
    assert "controls" not in found


def test_capture_now_captures_into_that_study(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bare(home, outliers={"factor": 20.0})
    bench = Bench(compare=FakeCompare())
    monkeypatch.setattr(bench.desk, "wake", lambda: None)  # nobody begins it
    answer = {f.__name__: f for f in server_functions(bench)}
    begun = json.loads(answer["capture_start"]({"study": "bare one", "model": "../../evil"}))
    job = bench.store.get(begun["job"])
    assert job.study.resolve() == made.folder.resolve()
    assert job.request["model"] == "dit-emoji"
    assert job.request["outliers"]["factor"] == 20, "of the model that the study holds"


def test_a_model_that_is_not_listed_is_not_captured_for_a_study(home: Path, ask: Ask) -> None:
    bare(home, ref="../../evil")
    assert "unknown model" in ask("capture_start", study="bare one")["error"]


def test_a_damaged_capture_makes_way_for_the_next(study: Study, ask: Ask) -> None:
    file = study.folder / "captures" / "viditq.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    for query in (
        {},
        {"study": "mine"},
        {"study": "mine", "capture": "viditq", "want": ["panels"]},
    ):
        found = ask(**query)
        assert (found["study"], found["capture"]) == ("mine", "plain")
        assert found["studies"]["mine"] == ["viditq", "plain"], "the chooser stays"
        assert {"controls", "overview", "panels"} <= set(found), "all of the page is of the other"
        assert len(found["notes"]) == 1
        assert "capture viditq of study mine does not open" in found["notes"][0]
    file.unlink()
    assert "gone" in ask(study="mine", capture="viditq", want=["panels"])["notes"][0]


def test_a_study_of_damaged_captures_makes_way_for_the_next(study: Study, home: Path, tmp_path: Path, ask: Ask) -> None:  # fmt: skip
    other = Study.create(home / "other", {"key": "dit-emoji", "fingerprint": "f"}, {})
    other.add_capture("whole", write_capture(tmp_path / "o.safetensors"), {})
    for file in (study.folder / "captures").iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    found = ask(study="mine")
    assert (found["study"], found["capture"]) == ("other", "whole")
    assert ["viditq" in found["notes"][0], "plain" in found["notes"][1]] == [True, True]
    for file in (other.folder / "captures").iterdir():
        file.write_bytes(b"")
    found = ask()
    assert set(found["studies"]) == {"mine", "other"}
    assert all(name in found["empty"]["text"] for name in ("viditq", "plain", "whole"))


def test_a_file_outside_the_study_is_never_read(study: Study, tmp_path: Path, ask: Ask) -> None:
    import sqlite3

    outside = write_capture(tmp_path / "secret.safetensors")
    with sqlite3.connect(study.folder / "study.sqlite") as db:
        db.execute("UPDATE captures SET file = ? WHERE name = 'viditq'", (f"../../../{outside.name}",))  # fmt: skip
    assert (study.folder / "../../../secret.safetensors").resolve() == outside.resolve()
    assert "gone" in ask(study="mine", want=["panels"])["notes"][0]


def test_a_replaced_file_is_read_anew(study: Study, tmp_path: Path) -> None:
    captures = Captures(Library())
    first = captures.open("mine", "plain").seen
    assert captures.open("mine", "plain").seen is first
    write_capture(tmp_path / "d.safetensors", steps=3).replace(
        study.folder / "captures" / "plain.safetensors"
    )
    assert captures.open("mine", "plain").seen.steps == 3


def test_a_broken_study_does_not_hide_the_others(study: Study, home: Path, ask: Ask) -> None:
    broken = Study.create(home / "broken", {"key": "x", "fingerprint": "f"}, {})
    (broken.folder / "study.sqlite").write_bytes(b"not a database" * 100)
    assert list(ask()["studies"]) == ["mine"]


def test_only_a_listed_model_is_captured(ask: Ask) -> None:
    assert "unknown model" in ask("capture_start", model="../../evil")["error"]
    assert "no job" in ask("capture_state", job="nothing")["error"]


def test_a_capture_is_queued_as_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(compare=FakeCompare())
    monkeypatch.setattr(bench.desk, "wake", lambda: None)  # nobody begins it
    answer = {f.__name__: f for f in server_functions(bench)}
    begun = json.loads(answer["capture_start"]({"model": "dit-emoji"}))
    job = bench.store.get(begun["job"])
    assert (job.kind, job.request["model"]) == ("capture", "dit-emoji")
    assert json.loads(answer["capture_state"](begun))["state"] == "queued"


@pytest.mark.parametrize("query", [None, 7, "x", [], [[1]], {"want": 3}])
def test_nonsense_is_answered(study: Study, query: Any) -> None:
    first = server_functions(Bench(compare=FakeCompare()))[0]
    assert json.loads(first(query))["study"] == "mine"
