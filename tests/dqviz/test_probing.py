"""Probes into a study: once each, stopped and continued, as a command and as a job."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dqviz import migrations, work
from dqviz.cli import main
from dqviz.commands.options import options_of
from dqviz.events import Done, Progress, Stage
from dqviz.jobs import DONE, JobStore
from dqviz.probing import ProbeRequest, as_command, check_fields, probe
from dqviz.study import Study
from dqviz.study_folder import DATABASE
from dqviz.worker import work as work_off
from quant.errors import BadInput, Cancelled
from quant.probes import ProbeCard

MODEL = {"key": "tiny", "fingerprint": "0123", "weights": "abcd"}


class Fake:
    """Two probes that measure at once: the frame is looked at, not what they measure."""

    cards = {
        "one": ProbeCard("one", "First", ("viditq",), ("rows",), "of rows"),
        "two": ProbeCard("two", "Second", ("viditq", "trdq"), ("model",), "draws", "measured"),
    }

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.stop_at = ""
        self.refuses = ""

    def list_probes(self, method: str | None = None) -> dict[str, ProbeCard]:
        return {k: c for k, c in self.cards.items() if method is None or method in c.methods}

    def load_probe(self, key: str) -> Any:
        asked, stop_at = self.asked, self.stop_at  # as they are now

        class Module:
            @staticmethod
            def measure(model: Any, seen: Any, sampler: Any, samples: Any, **more: Any) -> Any:
                asked.append({"key": key, "seen": seen, "samples": samples, **more})
                if key == self.refuses:
                    raise BadInput("there is no such thing here")
                for done in range(4):
                    if key == stop_at and done == 2:
                        raise Cancelled("cancelled")
                    more["on_step"](done + 1, 4)
                return {"of": key, "steps": sampler.steps}

        return Module


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    for name in ("list_probes", "load_probe"):
        monkeypatch.setattr(f"quant.probes.{name}", getattr(made, name))
    return made


def asked(model: Path, folder: Path, **more: Any) -> ProbeRequest:
    plain = {"model": str(model), "out": folder, "method": "viditq", "bits": "w4a8"}
    return ProbeRequest.parse({**plain, "calibration_seeds": "100-101", **more})


def test_probes_of_a_method_go_into_the_study_once(
    tiny_dit: Path, tmp_path: Path, fake: Fake
) -> None:
    events: list[Any] = []
    made = probe(asked(tiny_dit, tmp_path / "s"), events.append)
    assert [p["name"] for p in made["probes"]] == ["viditq-w4a8-one", "viditq-w4a8-two"]
    assert [p["evidence"] for p in made["probes"]] == ["simulated", "measured"]
    assert not any(p["reused"] for p in made["probes"])
    study = Study.open(tmp_path / "s")
    assert study.probe("viditq-w4a8-one") == {"of": "one", "steps": 4}
    assert [r["probe"] for r in study.probes()] == ["one", "two"]
    assert study.probes()[0]["manifest"]["method_options"]["alpha"] == "search"
    assert made["probes"][0]["bytes"] + 1 == (tmp_path / "s" / made["probes"][0]["file"]).stat().st_size  # fmt: skip
    first, second = fake.asked
    assert first["seen"] is not None
    assert second["seen"] is None, "it reads no statistics"
    assert (first["method"], str(first["bits"]), len(first["samples"])) == ("viditq", "w4a8", 2)
    assert [e.name for e in events if isinstance(e, Stage)] == ["load", "calibrate", "probe", "probe"]  # fmt: skip
    progress = [e for e in events if isinstance(e, Progress)]
    assert progress[-1].done == progress[-1].total == 3 * 2 * 4
    assert [p.done for p in progress] == sorted(p.done for p in progress)
    assert isinstance(events[-1], Done)

    again = probe(asked(tiny_dit, tmp_path / "s", batch_size=2))
    assert [p["reused"] for p in again["probes"]] == [True, True]
    assert len(fake.asked) == 2
    other = probe(asked(tiny_dit, tmp_path / "s", options={"alpha": 0.5}, only="one"))
    assert [p["name"] for p in other["probes"]] == ["viditq-w4a8-one-2"]


def test_a_probe_that_draws_needs_no_calibration(tiny_dit: Path, tmp_path: Path, fake: Fake) -> None:  # fmt: skip
    events: list[Any] = []
    probe(asked(tiny_dit, tmp_path / "s", only="two"), events.append)
    assert "calibrate" not in [e.name for e in events if isinstance(e, Stage)]
    assert not list((tmp_path / "s").glob("seen*"))


def test_what_was_finished_before_a_stop_is_kept(tiny_dit: Path, tmp_path: Path, fake: Fake) -> None:  # fmt: skip
    fake.stop_at = "two"
    with pytest.raises(Cancelled):
        probe(asked(tiny_dit, tmp_path / "s"))
    assert [r["probe"] for r in Study.open(tmp_path / "s").probes()] == ["one"]
    fake.stop_at = ""
    made = probe(asked(tiny_dit, tmp_path / "s"))
    assert [p["reused"] for p in made["probes"]] == [True, False]
    assert [a["key"] for a in fake.asked] == ["one", "two", "two"]


def test_what_a_model_does_not_have_stops_only_who_asks_for_it(
    tiny_dit: Path, tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.refuses = "one"
    made = probe(asked(tiny_dit, tmp_path / "s"))
    assert made["skipped"] == {"one": "there is no such thing here"}
    assert [p["probe"] for p in made["probes"]] == ["two"]
    assert main(_split(made["command"])[1:]) == 0
    assert "not one: there is no such thing here" in capsys.readouterr().out
    with pytest.raises(BadInput, match="no such thing"):
        probe(asked(tiny_dit, tmp_path / "s", only="one"))


def test_a_job_probes_and_says_so(tiny_dit: Path, tmp_path: Path, fake: Fake) -> None:
    store = JobStore(tmp_path / "home")
    job = store.submit("probe", asked(tiny_dit, tmp_path / "s").to_json())
    assert job.title.endswith("all probes of viditq w4a8")
    assert job.study == tmp_path / "s"
    work_off(store)
    done = store.get(job.id)
    assert (done.state, done.done) == (DONE, done.total), done.message
    assert len(Study.open(tmp_path / "s").probes()) == 2


def test_the_command_line_makes_the_same(
    tiny_dit: Path, tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    request = asked(tiny_dit, tmp_path / "s", options={"alpha": {"*.fc2": 0.5}, "transform": "both"}, only="two", steps=3)  # fmt: skip
    words = as_command(request.model_copy(update={"options": {"transform": "both"}}))
    assert main([*_split(words)[1:], "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["command"] == words
    assert made["probes"][0]["steps"] == 3
    assert work.KINDS["probe"].command(request.to_json()) == as_command(request)
    pair = _split(as_command(request))[_split(as_command(request)).index("--option") + 1]
    assert options_of([pair]) == {"alpha": {"*.fc2": 0.5}}
    assert main(_split(words)[1:]) == 0
    assert "was there already" in capsys.readouterr().out


def _split(words: str) -> list[str]:
    import shlex

    return shlex.split(words)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"method": "vidit"}, "viditq"),
        ({"method": "rtn"}, "method rtn has no probes; trdq, viditq have"),
        ({"only": "three"}, "unknown probe of viditq"),
        ({"method": "trdq", "only": "one"}, "They are: two"),
        ({"bits": "w4"}, "w4"),
        ({"steps": 0}, "steps 0"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_bad_input_is_one_line_before_anything_loads(more: dict[str, Any], says: str, fake: Fake) -> None:  # fmt: skip
    with pytest.raises(BadInput, match=says):
        check_fields(asked(Path("dit-emoji"), Path("s"), **more))


def test_an_option_that_the_method_lacks_leaves_no_study(tiny_dit: Path, tmp_path: Path, fake: Fake) -> None:  # fmt: skip
    with pytest.raises(BadInput, match="unknown option"):
        probe(asked(tiny_dit, tmp_path / "s", options={"alfa": 1}))
    assert not (tmp_path / "s").exists()


# -- the study


def test_a_study_of_an_earlier_version_gets_the_table(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "s", MODEL, {"dqviz": "0"})
    with sqlite3.connect(study.folder / DATABASE) as db:
        db.execute("DROP TABLE probes")
        db.execute("DELETE FROM migrations WHERE name = ?", (migrations.m007_probes.__name__,))
    db.close()
    assert Study.open(study.folder, read_only=True).probes() == []
    assert Study.open(study.folder).probes() == []
    added = Study.open(study.folder).add_probe("a b", {"x": 1}, {}, probe="p", method="m", bits="w4a8", record={})  # fmt: skip
    assert added == "a-b"
    assert Study.open(study.folder, read_only=True).probe("a-b") == {"x": 1}


def test_a_probe_that_points_out_of_its_study_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    study = Study.create(tmp_path / "s", MODEL, {"dqviz": "0"})
    name = study.add_probe("p", {}, {}, probe="p", method="m", bits="w4a8", record={})
    with sqlite3.connect(study.folder / DATABASE) as db:
        db.execute("UPDATE probes SET file = '../secret.json'")
    db.close()
    with pytest.raises(BadInput, match="lies outside"):
        study.probe(name)
    with pytest.raises(BadInput, match="unknown probe"):
        study.probe("q")


def test_numbers_that_are_no_json_are_not_kept(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "s", MODEL, {"dqviz": "0"})
    with pytest.raises(ValueError, match="JSON"):
        study.add_probe("p", {"x": float("nan")}, {}, probe="p", method="m", bits="w4a8", record={})
    assert study.probes() == []
