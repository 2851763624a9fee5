"""`dqviz bench`: rows by the contract, the least of interleaved runs, tables that `auto` decides by, what is refused."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pytest
import torch

from dqviz import machine
from dqviz.benching import (  # fmt: skip
    BenchRequest,
    bench,
    evaluations,
    linears,
    peaks,
    peers,
    rows,
    run,
    stored,
    subject,
    timing,
    tuning,
)
from dqviz.benching.peaks import Peaks
from dqviz.benching.rows import shown
from dqviz.benching.subject import Layer, subject_of
from dqviz.cli import main
from dqviz.events import Progress
from kernels import tables
from kernels.int_linear import tuned
from quant.errors import BadInput, Cancelled, EnvironmentFault
from quant.latency import latency_of
from quant.layers import QuantLinear
from tests.kernels.linears import needs_onednn

PERCENT = machine.Others.percent
KEYS = {"op", "shape", "backend", "peer", "ratio", "seconds", "bytes", "flops", "roofline"}


@pytest.fixture(autouse=True)
def _an_idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "busy", lambda: 1.0)
    monkeypatch.setattr(machine.Others, "percent", lambda others: 1.0)
    monkeypatch.setattr(peaks, "SIDE", 64)
    monkeypatch.setattr(peaks, "COPIED", 2**10)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One format, no larger batches."""
    monkeypatch.setattr(tuning, "BITS", ((4, 8),))
    monkeypatch.setattr(subject, "SPREAD", (1,))


def asked(model: object, **more: Any) -> BenchRequest:
    return BenchRequest.parse({"model": str(model), "device": "cpu", "runs": 1, **more})


def test_every_row_says_what_ran_beside_what(
    tiny_dit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(f"bench --model {tiny_dit} --device cpu --runs 1 --json")) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["evidence"] == "measured"
    assert {"device", "kind", "threads", "versions", "date", "busy_percent"} <= made.keys()
    assert made["tables"] == []
    rows = made["rows"]
    for row in rows:
        assert row.keys() >= KEYS
        assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["seconds"], abs=1e-4)
        assert row["roofline"] > 0
    assert {row["peer"] for row in rows} >= {"float32", peers.DYNAMIC}
    assert {row["op"] for row in rows} == {"int_linear", "evaluation"}
    whole = next(row for row in rows if row["op"] == "evaluation")
    layers = subject_of(str(tiny_dit), "cpu").layers(1)
    assert whole["shape"] == {"samples": 1, "layers": sum(layer.count for layer in layers)}
    assert whole["flops"] == sum(layer.operations * layer.count for layer in layers)
    taken = [row for row in rows if row["op"] == "int_linear" and row["auto"]]
    assert len({(str(row["shape"]), row["bits"]) for row in taken}) == 3 * len(layers)


def test_people_get_a_line_for_each_of_ours(tiny_dit: Path) -> None:
    told: list[Any] = []
    made = bench(asked(tiny_dit), told.append)
    ends = [event for event in told if isinstance(event, Progress)]
    assert ends[-1].done == ends[-1].total
    assert any(event.seconds_left is not None for event in ends)
    text = shown({**made, "warnings": ["it was busy"]}).splitlines()
    assert "interleaved runs" in text[1]
    assert text[3].split()[:2] == ["op", "m"]
    ours = {(str(r["shape"]), r["bits"], r["backend"]) for r in made["rows"]}
    assert sum(line.startswith(("int_linear", "evaluation")) for line in text) == len(ours)
    assert "note: it was busy" in text


def test_shapes_are_those_of_all_branches_of_the_layers_that_are_quantized() -> None:
    found = subject_of("dit-xl-2", "cpu").layers(3)
    assert found == [
        Layer(3 * 2 * 256, 1152, 1152, 112),
        Layer(3 * 2 * 256, 1152, 4608, 28),
        Layer(3 * 2 * 256, 4608, 1152, 28),
    ]
    assert found[0].operations == 2 * 1536 * 1152 * 1152


def test_rows_of_a_model_are_those_that_it_has(tiny_dit: Path) -> None:
    found = subject_of(str(tiny_dit), "cpu")
    assert found.layers(2) == replace(found, model=None).layers(2), (
        "its configuration says the same"
    )


def test_what_cannot_be_evaluated_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    place = torch.device("cpu"), torch.float32
    with pytest.raises(
        BadInput, match="pixart-xl-2 the shapes alone are known, and it is prompted"
    ):
        subject_of("pixart-xl-2", "cpu").whole(*place)


@pytest.mark.parametrize(
    ("model", "more", "free", "says"),
    [
        ("dit-xl-2", {}, 2**30, r"one evaluation of dit-xl-2 needs about 1\d\.. GiB of memory and 1.0 GiB are free"),
        ("dit-xl-2", {"batch_size": 1024}, 2**35, r"timing a layer of 524288 x 1152 x 4608 needs about 5\d\.. GiB"),
        ("dit-xl-2", {"tune": True, "runs": 7, "batch_size": 1024}, 2**36, r"layer of 2097152 x 1152 x 4608 needs"),
        ("pixart-xl-2", {"batch_size": 1024}, 2**35, "timing a layer of"),
    ],
)  # fmt: skip
def test_memory_is_looked_at_before_the_start(
    model: str, more: dict[str, Any], free: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the largest layer, of its larger batches where a table is made, and of one evaluation."""
    monkeypatch.setattr(machine, "available_memory", lambda: free)
    for started in ("_timed", "_tuned", "_check_tuning"):
        monkeypatch.setattr(run, started, lambda *_: {"rows": []})
    with pytest.raises(EnvironmentFault, match=says):
        bench(asked(model, **more))
    monkeypatch.setattr(machine, "available_memory", lambda: 2**40)
    assert bench(asked(model, **more))["rows"] == []


def test_one_evaluation_of_a_model_is_looked_at_too(
    tiny_dit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = subject_of(str(tiny_dit), "cpu")
    monkeypatch.setattr(machine, "available_memory", lambda: 2**20)
    with pytest.raises(EnvironmentFault, match=r"one evaluation of .*tiny-dit needs about .* MiB"):
        found.require_memory(found.layers(1))


@needs_onednn
def test_what_is_said_of_memory_is_an_upper_bound() -> None:
    cpu, shape = torch.device("cpu"), Layer(2048, 512, 2048)
    with torch.inference_mode(), machine.PeakMemory() as peak:
        before = psutil.Process().memory_info().rss
        linears.timed(shape, 1, cpu, torch.float32)
        tuning.measure(tuning.Case(*shape[:3], 8, 8, None, True), 1, cpu)
    assert peak.peak_bytes is not None
    assert peak.peak_bytes - before <= shape.memory


def test_the_least_of_interleaved_runs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    now = iter([0, 0, 0, 5, 0, 2, 0, 3, 0, 4, 0, 1])  # the first run of each is not looked at
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: float(next(now))))
    calls = {name: lambda name=name: called.append(name) for name in "ab"}
    best = timing.fastest(calls, 2, pause=lambda: called.append("-"))
    assert "".join(called) == "-a-b" * 3
    assert best == {"a": 2.0, "b": 1.0}


def test_a_peer_that_fails_is_left_out_with_its_reason() -> None:
    def broken() -> None:
        raise RuntimeError("no\n engine")

    out: dict[str, str] = {}
    assert list(timing.able({"good": lambda: None, "bad": broken}, out)) == ["good"]
    assert out == {"bad": "no engine"}


def test_wrong_numbers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: Any, w: Any, b: Any, bits: int, symmetric: bool, backend: str) -> torch.Tensor:
        return torch.ones(len(x), 48) * (1 if backend == "simulate" else 1.1)

    monkeypatch.setattr(linears, "int_linear", wrong)
    found = linears.timed(Layer(8, 32, 48), 1, torch.device("cpu"), torch.float32)
    assert {backend for _, backend in found.ours} == {"simulate"}
    assert "its numbers are off by 1.0e-01" in found.left_out["w8a8 integer"]


def test_a_peer_quantizes_the_sites_alone() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))
    made = peers.quantized(network, {"1"})[peers.DYNAMIC]
    assert type(made[0]) is torch.nn.Linear
    assert "quantized" in type(made[1]).__module__
    assert type(network[1]) is torch.nn.Linear


def test_a_floor_is_bytes_or_operations() -> None:
    own = Peaks("", bytes_per_second=10.0, floating=4.0, integers=8.0)
    assert own.floor(100, 16, integers=True) == 10.0
    assert own.floor(10, 16, integers=True) == 2.0
    assert own.floor(10, 16, integers=False) == 4.0
    assert Peaks("an unknown GPU").floor(1, 1, True) is None


def test_the_floor_of_an_evaluation_is_by_what_each_layer_takes() -> None:
    """In full precision where `auto` simulates, even though it was asked for integers where they are faster."""

    def layer(count: int, taken: str) -> linears.Timed:
        return linears.Timed(Layer(1, 1, 8, count), {}, {}, {"w8a8": 1}, {"w8a8": taken})

    layers = [layer(2, "integer"), layer(3, "simulate")]
    own = Peaks("", bytes_per_second=1e9, floating=4.0, integers=8.0)
    made = evaluations.Evaluated({("w8a8", "auto"): 100.0, ("w8a8", "integer"): 100.0}, {"p": 1.0})
    found = {row["backend"]: row["roofline"] for row in rows.of_evaluation(made, layers, 1, own)}
    assert found == {"auto": (2 * 2 + 3 * 4) / 100, "integer": 5 * 2 / 100}


# -- tables


@needs_onednn
def test_auto_is_what_a_plan_of_these_bits_takes(tiny_dit: Path) -> None:
    """Weights of 8 bits in a plan have zeros of their own, which products correct."""
    network = subject_of(str(tiny_dit), "cpu")
    path = tables.file(tables.own(), tuned.device_name(), tuned.OP)
    path.parent.mkdir(parents=True)
    listed = []
    for layer in network.layers(1):
        for bits, act_bits in linears.BITS:
            case = tuning.Case(*layer[:3], bits, act_bits, None, False)._asdict()
            listed += [{**case, "ratio": 3.0}, {**case, "corrected": True, "ratio": 0.5}]
    path.write_text(json.dumps({"rows": listed}), encoding="utf-8")
    made = bench(asked(tiny_dit))
    taken = {(r["bits"], r["backend"]) for r in made["rows"] if r["auto"] and r["op"] != "evaluation"}  # fmt: skip
    assert taken == {("w8a8", "simulate"), ("w8a7", "simulate"), ("w4a8", "integer")}
    for bits, backend in taken - {("w8a7", "simulate")}:
        whole = evaluations._quantized(network.model, bits, "auto", lambda: None)
        sites = [site for site in whole.modules() if isinstance(site, QuantLinear)]
        assert {site.why(network.layers(1)[0].m)[0] for site in sites} == {backend}


@needs_onednn
def test_auto_decides_by_the_table_that_tune_wrote(
    tiny_dit: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "fastest", lambda calls, *_, **__: {"fp32": 9.0, "simulate": 6.0, "integer": 2.0})  # fmt: skip
    made = bench(asked(tiny_dit, tune=True, runs=7))
    path = tables.file(tables.own(), tuned.device_name(), "int_linear")
    assert made["tables"] == [str(path)]
    assert path.is_relative_to(tables.own())
    table = json.loads(path.read_text(encoding="utf-8"))
    assert table["cores"] == torch.get_num_threads()
    assert table["torch"] == torch.__version__
    layers = subject_of(str(tiny_dit), "cpu").layers(1)
    assert len(table["rows"]) == 2 * len(layers)
    for layer in layers:
        kind = tuned.kind("integer", linears.weight_of(8, 8, 4), 8, True)
        choice = tuned.choice(tuned.CPU, (layer.m, layer.k, layer.n), kind)
        assert choice.backend == "integer"
        assert "measured 3.00x" in choice.why
    peers_of = {(row["peer"], row["ratio"]) for row in made["rows"]}
    assert peers_of == {("simulate", 3.0), ("float32", 4.5)}
    assert "table: " in shown(made)
    own = latency_of(tuned.device_name())
    one = layers[0]
    assert own.site_seconds(one.m, one.k, one.n) == 9.0, "plans are priced by it from then on"


@needs_onednn
def test_new_rows_stand_beside_those_that_are_there(tmp_path: Path) -> None:
    cases = [tuning.Case(m, 8, 8, 8, 8, None, False) for m in (1, 2, 3)]
    rows = [{**case._asdict(), "ratio": 1.0} for case in cases]
    path, place = stored.file(tmp_path, tuned.CPU, tuned.OP), stored.place(tuned.CPU)
    stored.save(path, place, cases, rows)
    # the third is not exact any more
    stored.save(path, place, cases[1:], [{**rows[1], "ratio": 2.0}])
    assert [(row["m"], row["ratio"]) for row in tables.read(path)["rows"]] == [(1, 1.0), (2, 2.0)]
    assert [entry.name for entry in path.parent.iterdir()] == ["int_linear.json"]


@needs_onednn
def test_a_table_of_another_place_stays_as_it_is(tiny_dit: Path, tmp_path: Path) -> None:
    case = tuning.Case(1, 8, 8, 8, 8, None, False)
    path = stored.file(tables.own(), tuned.CPU, tuned.OP)
    stored.save(path, stored.place(tuned.CPU), [case], [{**case._asdict(), "ratio": 1.0}])
    told = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**told, "torch": "1.0"}), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"was measured with torch 1.0, and here it is .*DQVIZ_CONFIGS"):  # fmt: skip
        bench(asked(tiny_dit, tune=True, runs=7))
    assert path.read_bytes() == before
    path.write_text("{", encoding="utf-8")
    with pytest.raises(BadInput, match="is no table of measured times"):
        stored.kept(path, {})


@needs_onednn
def test_a_broken_table_is_one_line(tiny_dit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tables.file(tables.own(), tuned.device_name(), tuned.OP)
    path.parent.mkdir(parents=True)
    path.write_text('{"rows": 3}', encoding="utf-8")
    assert main(["bench", "--model", str(tiny_dit), "--device", "cpu", "--runs", "1"]) == 2
    said = capsys.readouterr().err
    assert f"{path} is no table of measured times (rows are 3, not a list); delete it" in said
    assert "internal" not in said


@needs_onednn
def test_cancelling_leaves_no_table(tiny_dit: Path, few: None) -> None:
    asked_after = iter(range(60))
    with pytest.raises(Cancelled):
        bench(asked(tiny_dit, tune=True, runs=7), None, lambda: next(asked_after) > 50)
    assert not tables.own().exists()


@needs_onednn
def test_a_busy_machine_makes_no_table_and_is_said(
    tiny_dit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "busy", lambda: 55.0)
    assert main(["bench", "--model", str(tiny_dit), "--device", "cpu", "--tune"]) == 3
    assert "55 % busy before the start, above 10 %" in capsys.readouterr().err
    monkeypatch.setattr(run, "_timed", lambda *_: {"rows": [], "left_out": {}})
    (warning,) = bench(asked(tiny_dit))["warnings"]
    assert "busy before the start" in warning


@needs_onednn
def test_work_that_begins_while_it_measures_leaves_no_table(
    tiny_dit: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.Others, "percent", lambda others: 42.0)
    with pytest.raises(EnvironmentFault, match="42 % busy while it measured, above 10 %"):
        bench(asked(tiny_dit, tune=True, runs=7))
    assert not tables.own().exists()


def test_others_are_what_this_process_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 seconds of all cores 12 were busy, 10 of them by this process; iowait is idle, guests are users too."""

    class Seconds(NamedTuple):
        user: float
        idle: float
        iowait: float
        guest: float

    times = iter([Seconds(5, 100, 0, 1), Seconds(17, 120, 8, 3)])
    own = iter([3.0, 13.0])
    monkeypatch.setattr("psutil.cpu_times", lambda: next(times))
    monkeypatch.setattr(machine.time, "process_time", lambda: next(own))
    assert PERCENT(machine.Others()) == pytest.approx(5.0)


@needs_onednn
def test_where_no_table_can_be_written_nothing_is_measured(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "afile"
    file.write_text("")
    monkeypatch.setenv(tables.VARIABLE, str(file))
    monkeypatch.setattr(run, "_tuned", lambda *_: pytest.fail("it measured"))
    with pytest.raises(BadInput, match=r"cannot be written \(.*afile: Not a directory\); name another folder with DQVIZ_CONFIGS"):  # fmt: skip
        bench(asked(tiny_dit, tune=True, runs=7))
    new = tables.file(tmp_path / "new", "cpu", tuned.OP)
    stored.check(new, {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["afile"], "it leaves nothing"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--model dit-emojy", "unknown model 'dit-emojy'"),
        ("--device gpu", "unknown device 'gpu'; nearest: cpu. They are: auto, cpu, cuda"),
        ("--runs 0", "runs 0 is out of range; 1 to 1000"),
        ("--tune --runs 3", "runs 3 is out of range; 7 to 1000; --tune wants more"),
        ("--batch-size 0", "batch size 0 is out of range"),
    ],
)
def test_bad_input_is_one_line(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cpu", *words.split()]) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_a_backend_that_the_environment_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DQVIZ_BACKEND", "triton")
    with pytest.raises(BadInput, match="DQVIZ_BACKEND=triton lets one backend run"):
        bench(asked("dit-emoji"))
