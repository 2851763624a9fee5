"""Sweeps into a study: once, stopped, killed and continued; as a command and as a job."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dqviz import migrations, work
from dqviz.cli import main
from dqviz.events import Done, Progress
from dqviz.jobs import DONE, JobStore
from dqviz.study import Study
from dqviz.study_folder import DATABASE
from dqviz.sweep_inputs import Inputs, inputs_of, measure_cells
from dqviz.sweep_log import SweepLog, unfinished
from dqviz.sweeping import SweepRequest, as_command, check_fields, sweep
from dqviz.tables import swept as shown_sweep
from dqviz.worker import work as work_off
from quant.blueprint import Blueprint
from quant.errors import BadInput, Cancelled
from quant.sensitivity.cells import Cell, cells_of
from quant.sensitivity.floor import floors
from quant.sensitivity.sampling import Drawer
from quant.sensitivity.table import COLUMNS, rows_of

ROOT = Path(__file__).resolve().parents[2]
SITES = [f"transformer_blocks.{b}.attn1.to_q" for b in range(2)]


def asked(model: Path, folder: Path, **more: Any) -> SweepRequest:
    """Two layers, two widths, two windows, the cheapest tier that draws."""
    plain = {
        "model": str(model), "out": folder, "tier": "layer", "bits": "4,8", "windows": 2,
        "sites": "attn1.to_q", "seeds": "300-301", "calibration_seeds": "100-101",
    }  # fmt: skip
    return SweepRequest.parse({**plain, **more})


@pytest.fixture(scope="module")
def swept(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep with the events it sent; read only."""
    events: list[Any] = []
    folder = tmp_path_factory.mktemp("swept") / "study"
    made = sweep(asked(tiny_dit, folder), events.append)
    return {"made": made, "events": events, "folder": folder}


def test_a_sweep_says_what_it_measured(swept: dict[str, Any]) -> None:
    made = swept["made"]
    said = {"cells", "tier", "seconds", "denoiser_calls", "naive_calls", "noise_floor", "study"}
    assert said <= made.keys()
    assert made["cells"] == 2 * 2 * 2 * 3, "operands, widths, sites; all steps and two windows"
    assert made["denoiser_calls"] == 2 * 4, "one pass of full precision"
    assert made["naive_calls"] == made["cells"] * 2 * 4
    progress = [e for e in swept["events"] if isinstance(e, Progress)]
    assert [p.done for p in progress] == sorted(p.done for p in progress)
    assert progress[-1].done == progress[-1].total
    assert isinstance(swept["events"][-1], Done)


def test_a_study_lists_its_sensitivities_and_opens_read_only(swept: dict[str, Any]) -> None:
    study = Study.open(swept["folder"], read_only=True)
    (row,) = study.sensitivities()
    assert (row["name"], row["status"], row["tier"]) == ("layer-rtn", "done", "layer")
    table = study.sensitivity("layer-rtn")
    assert all(tuple(line) == COLUMNS for line in table)
    rows = rows_of(table, "the table")
    assert [r.cell for r in rows] == list(cells_of(SITES, ("4", "8"), 2))
    assert [f.to_json() for f in floors(rows).values()] == row["record"]["noise_floor"]
    assert {line["evidence"] for line in table} == {"simulated"}
    assert {line["group"] for line in table} == {"visual"}
    at_eight = [line["inside_floor"] for line in table if line["bits"] == "8"]
    assert sum(at_eight) >= len(at_eight) / 2, "half of the 8-bit cells lie below their median"
    assert all(len(line["per_sample"]) == 2 for line in table)
    blueprint = Blueprint.parse(study.blueprint("layer-rtn"), "the blueprint")
    assert set(blueprint.bytes) == set(SITES)
    with pytest.raises(BadInput, match="unknown sensitivity 'layer'; nearest: layer-rtn"):
        study.sensitivity("layer")


def test_the_same_sweep_is_made_once(tiny_dit: Path, swept: dict[str, Any], tmp_path: Path) -> None:
    again = sweep(asked(tiny_dit, swept["folder"], batch_size=1))
    assert again["reused"]
    assert {k: v for k, v in again.items() if k != "reused"} == {
        k: v for k, v in swept["made"].items() if k != "reused"
    }
    other = asked(tiny_dit, tmp_path / "s", bits="4", windows=1)
    names = [sweep(r)["sensitivity"] for r in (other, asked(tiny_dit, tmp_path / "s"))]
    assert names == ["layer-rtn", "layer-rtn-2"]


def test_a_cancelled_sweep_keeps_its_cells_and_ends_with_the_same_table(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"tier": "exact", "pictures": False}
    whole = sweep(asked(tiny_dit, tmp_path / "whole", **request))
    add, left = SweepLog.add, [6]

    def stop(self: SweepLog, *given: Any) -> None:
        add(self, *given)
        left[0] -= 1
        if not left[0]:
            raise Cancelled("stop")

    monkeypatch.setattr(SweepLog, "add", stop)
    with pytest.raises(Cancelled, match="goes on from there"):
        sweep(asked(tiny_dit, tmp_path / "cut", **request))
    study = Study.open(tmp_path / "cut", read_only=True)
    (row,) = study.sensitivities()
    assert row["status"] == "running"
    assert len(study.sensitivity(row["name"])) == 6
    with (study.folder / unfinished(row["key"])).open("a") as stream:
        stream.write('{"rows":[{"cel')  # cut off in the middle
    assert len(study.sensitivity(row["name"])) == 6
    made = sweep(asked(tiny_dit, tmp_path / "cut", **request))
    assert made["resumed_cells"] == 6
    assert made["denoiser_calls"] > whole["denoiser_calls"], "full precision was drawn twice"
    files = [tmp_path / name / made["file"] for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    left = sorted(f.name for f in files[1].parent.iterdir())
    assert left == ["exact-rtn.blueprint.json", "exact-rtn.jsonl"], "nothing else is left over"


@pytest.mark.parametrize("tier", ["layer", "gradient"])
def test_cancelled_at_every_batch_it_ends_with_the_same_table_and_draws_nothing_twice(
    tier: str, tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"tier": tier, "seeds": "300-303", "batch_size": 1, "probes": 2}
    whole = sweep(asked(tiny_dit, tmp_path / "whole", **request))
    add, evaluate, evaluations = SweepLog.add_batch, Drawer.evaluate, []

    def stop(self: SweepLog, *given: Any) -> None:
        add(self, *given)
        raise Cancelled("stop")

    def counted(self: Drawer, *given: Any) -> Any:
        evaluations.append(1)
        return evaluate(self, *given)

    monkeypatch.setattr(SweepLog, "add_batch", stop)
    monkeypatch.setattr(Drawer, "evaluate", counted)
    for attempt in range(4):
        with pytest.raises(Cancelled, match="goes on from there"):
            sweep(asked(tiny_dit, tmp_path / "cut", **request))
        study = Study.open(tmp_path / "cut", read_only=True)
        (row,) = study.sensitivities()
        assert study.sensitivity(row["name"]) == [], "no cell is final before the last batch"
        lines = (study.folder / row["file"]).read_text().splitlines()
        assert len(lines) == attempt + 1
    made = sweep(asked(tiny_dit, tmp_path / "cut", **request))
    assert (made["resumed_cells"], made["resumed_samples"]) == (0, 4)
    assert len(evaluations) == made["denoiser_calls"] == whole["denoiser_calls"]
    assert made["backward_calls"] == whole["backward_calls"]
    files = [tmp_path / name / made["file"] for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_batches_then_cells_in_any_order_end_with_the_same_table(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some batches, then some parts as a cluster makes them, then the rest here: all that is there is used."""
    request = {"tier": "gradient", "batch_size": 1, "probes": 2}
    whole = sweep(asked(tiny_dit, tmp_path / "whole", **request))
    stopped_after_a_batch(asked(tiny_dit, tmp_path / "cut", **request), monkeypatch)
    (row,) = Study.open(tmp_path / "cut", read_only=True).sensitivities()
    log = SweepLog(tmp_path / "cut" / row["file"])
    part = [Cell.parse({n: v for n, v in line.items() if n in Cell.model_fields}, "a row")
            for line in map(json.loads, (tmp_path / "whole" / whole["file"]).read_text().splitlines())][::3]  # fmt: skip
    inputs = inputs_of(asked(tiny_dit, tmp_path / "cut", **request))
    measure_cells(inputs, None, [c for c in inputs.cells if c not in part], log.add)
    made = sweep(asked(tiny_dit, tmp_path / "cut", **request))
    assert (made["resumed_cells"], made["resumed_samples"]) == (len(part), 1)
    files = [tmp_path / name / made["file"] for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def stopped_after_a_batch(request: SweepRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a sweep, and stop it when one batch is on disk."""
    add = SweepLog.add_batch

    def stop(self: SweepLog, *given: Any) -> None:
        add(self, *given)
        raise Cancelled("stop")

    with monkeypatch.context() as patch:
        patch.setattr(SweepLog, "add_batch", stop)
        with pytest.raises(Cancelled):
            sweep(request)


def test_a_cluster_does_not_say_that_it_took_over_batches(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers have no use for what batches gave: they measure their cells from the beginning."""
    request = asked(tiny_dit, tmp_path / "s", batch_size=1)
    stopped_after_a_batch(request, monkeypatch)

    def here(inputs: Inputs, _: object, done: frozenset[Cell], keep: Any, tell: Any) -> None:
        measure_cells(inputs, None, done, keep, tell)

    monkeypatch.setattr("dqviz.spreading.check_cluster", lambda address: None)
    monkeypatch.setattr("dqviz.spreading.spread", here)
    made = sweep(request.model_copy(update={"ray": "auto"}))
    assert (made["resumed_cells"], made["resumed_samples"]) == (0, 0)


@pytest.mark.parametrize(("tier", "kills"), [("exact", 8), ("gradient", 4)])
def test_killed_at_random_moments_it_ends_with_the_same_table(
    tier: str, kills: int, tiny_dit: Path, tmp_path: Path
) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork; the kills need one")
    script = Path(__file__).with_name("killed_sweeps.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_dit), str(tmp_path), tier, str(kills), "0"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["killed"] == kills, said
    assert 0 < said["resumed"] < said["lines"], said
    files = [tmp_path / name / "sensitivity" / f"{tier}-rtn.jsonl" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_table_that_is_gone_is_measured_again(tiny_dit: Path, tmp_path: Path) -> None:
    made = sweep(asked(tiny_dit, tmp_path / "s"))
    table = tmp_path / "s" / made["file"]
    before = table.read_bytes()
    table.unlink()
    with pytest.raises(BadInput, match="sweep again"):
        Study.open(tmp_path / "s").sensitivity(made["sensitivity"])
    again = sweep(asked(tiny_dit, tmp_path / "s"))
    assert not again["reused"]
    assert table.read_bytes() == before


def test_weights_are_weighed_by_a_calibration(tiny_dit: Path, tmp_path: Path) -> None:
    made = sweep(asked(tiny_dit, tmp_path / "s", tier="weight"))
    assert (made["denoiser_calls"], made["evidence"]) == (0, "simulated")
    assert list((tmp_path / "s").glob("seen*.safetensors"))
    assert Study.open(tmp_path / "s").sensitivities()[0]["manifest"]["calibration"] is not None


def test_a_job_sweeps_and_the_command_line_makes_the_same(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = asked(tiny_dit, tmp_path / "s", steps=3, method="quarot")
    store = JobStore(tmp_path / "home")
    job = store.submit("sensitivity", request.to_json())
    assert job.title.endswith("sensitivity at 4,8 bits, tier layer, quarot")
    work_off(store)
    done = store.get(job.id)
    assert (done.state, done.done) == (DONE, done.total), done.message
    words = as_command(request)
    assert work.KINDS["sensitivity"].command(request.to_json()) == words
    assert main([*shlex.split(words)[1:], "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["reused"]
    assert made["command"] == words
    assert main(shlex.split(words)[1:]) == 0
    shown = capsys.readouterr().out
    assert "was there already" in shown
    assert "noise floor of" in shown
    assert "of 2 sites" in shown


def test_one_of_a_thing_is_said_as_one(tiny_dit: Path, tmp_path: Path) -> None:
    request = asked(
        tiny_dit, tmp_path / "s", bits="4", steps=1, seeds="300", windows=1, sites="0.attn1.to_q"
    )
    made = sweep(request)
    shown = shown_sweep({**made, "resumed_cells": 1, "resumed_samples": 2})
    assert "2 cells of 1 site, tier layer, rtn; simulated, 1 sample\n1 evaluation instead" in shown
    assert "1 cell and 2 samples" in shown
    for told in ("resumed_cells", "resumed_samples"):  # sweeps of earlier versions lack them
        made.pop(told)
    assert "taken over" not in shown_sweep(made)
    assert " in " not in shown_sweep({**made, "seconds": None}).splitlines()[2]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tier": "gradients"}, "unknown tier 'gradients'; nearest: gradient"),
        ({"method": "vidit"}, "unknown method 'vidit'; nearest: viditq"),
        ({"bits": ""}, "no bits were given"),
        ({"bits": "4,9"}, "bits '9' of a cell are not understood"),
        ({"bits": "4,4"}, "each width once"),
        ({"bits": "5", "method": "vq4dit"}, "makes weights of 2, 3 or 4 bits, not 5"),
        ({"sites": "attn["}, "no regular expression"),
        ({"windows": 0}, "windows 0"),
        ({"windows": 5, "steps": 4}, "windows 5"),
        ({"steps": -1}, "steps -1 is out of range"),
        ({"seeds": "100-103"}, "share seed 100"),
        ({"probes": 0}, "probes 0"),
        ({"batch_size": 0}, "batch size 0"),
    ],
)
def test_bad_input_is_one_line_before_anything_loads(more: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says.replace("[", r"\[")) as error:
        check_fields(asked(Path("dit-emoji"), Path("s"), **more))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"sites": "attn3"}, "finds none of the 12 layers"),
        ({"options": {"alfa": 1}}, "unknown option"),
        ({"windows": 9}, "windows 9"),
        ({"classes": "dog"}, "dog"),
    ],
)
def test_what_only_the_model_can_tell_leaves_no_study(
    tiny_dit: Path, tmp_path: Path, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        sweep(asked(tiny_dit, tmp_path / "s", **more))
    assert not (tmp_path / "s").exists()


def test_a_study_of_an_earlier_version_gets_the_table(tmp_path: Path) -> None:
    model = {"key": "tiny", "fingerprint": "0123", "weights": "abcd"}
    study = Study.create(tmp_path / "s", model, {"dqviz": "0"})
    with sqlite3.connect(study.folder / DATABASE) as db:
        db.execute("DROP TABLE sensitivities")
        db.execute(
            "DELETE FROM migrations WHERE name = ?", (migrations.m009_sensitivities.__name__,)
        )
    db.close()
    assert Study.open(study.folder, read_only=True).sensitivities() == []
    assert Study.open(study.folder).sensitivities() == []


def test_a_sensitivity_that_points_out_of_its_study_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text('{"secret": 1}\n')
    model = {"key": "tiny", "fingerprint": "0123", "weights": "abcd"}
    study = Study.create(tmp_path / "s", model, {"dqviz": "0"})
    name = study.begin_sensitivity("a", "k", {}, tier="layer", method="rtn", record={})
    study.end_sensitivity(name, [], {}, {})
    with sqlite3.connect(study.folder / DATABASE) as db:
        db.execute("UPDATE sensitivities SET file = '../secret.jsonl'")
    db.close()
    for read in (study.sensitivity, study.blueprint):
        with pytest.raises(BadInput, match="lies outside"):
            read(name)
