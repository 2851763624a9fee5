"""The page Sensitivity and precision as the server answers it: tables, totals, solvers, plans, jobs; no browser."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqviz.allocating import AllocateRequest, allocate
from dqviz.study import Study
from dqviz.study_folder import RECORDED, studies_root
from dqviz.ui.bench import Bench
from dqviz.ui.precision import Precision, server_functions
from quant.errors import BadInput
from quant.random_plans import DESIGN
from quant.schema import Plan
from tests.app.conftest import FakeCompare
from tests.tables import blueprint, write_table

Ask = Callable[..., dict[str, Any]]
FF = "transformer_blocks.1.ff.net.2"
MEASURED = "cpu-avx512-vnni"  # whose table comes along


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("DQVIZ_HOME", str(tmp_path / "home"))
    return Bench(compare=FakeCompare())


def asking(bench: Bench) -> Ask:
    functions = {f.__name__: f for f in server_functions(bench)}

    def ask(name: str = "", /, **query: Any) -> dict[str, Any]:
        return json.loads(functions[f"precision_{name}".rstrip("_")]([query]))

    return ask


@pytest.fixture
def ask(bench: Bench) -> Ask:
    write_table(studies_root() / "mine", windows=2)
    return asking(bench)


def uniform(data: dict[str, Any], weight: str = "8", activation: str = "8") -> dict[str, Any]:
    count, windows = len(data["sites"]), len(data["windows"])
    return {"weight": [weight] * count, "activation": [[activation] * count] * windows}


def question(data: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"study": data["study"], "table": data["table"], "plan": uniform(data), **more}


def test_the_page_holds_all_that_totals_are_made_of(ask: Ask) -> None:
    data = ask()
    assert (data["study"], data["table"]) == ("mine", "gradient-rtn")
    assert data["windows"] == ["steps 0–4", "steps 5–9"]
    assert [s["block"] for s in data["sites"][::6]] == ["block 0", "block 1", "block 2"]
    (kept,) = data["kept"]
    assert kept["reason"] == "head: small"
    formats = {f["label"]: f for f in data["formats"]}
    assert formats["4"]["weight"] == formats["16"]["activation"] == ""
    assert "sweep with --bits 3,4,5,8" in formats["5"]["weight"]
    assert "sweep with --bits 3,4,8,16" in formats["16"]["weight"]
    whole = data["cells"]["latent_error"]["weight"]["4"]
    assert len(whole["value"]) == 18
    assert len(data["cells"]["latent_error"]["activation"]["4"]["value"]) == 36
    assert set(whole["inside_floor"]) <= {0, 1}
    # What the browser adds up is what the solver takes: of a uniform plan, and of what a solver chose.
    solved = ask("solve", **question(data, budgets={"avg_bits": 4, "activation_bits": 6}))
    plan, used = solved["plan"], solved["used"]
    bytes_ = sum(data["bytes"][i][b] for i, b in enumerate(plan["weight"])) + data["rest_bytes"]
    assert bytes_ / 1e6 == pytest.approx(used["size_mb"], rel=1e-12)
    asked = {"budgets": {"avg_bits": 4, "activation_bits": 6}, "pins": list(range(54))}
    assert {d["key"] for d in data["devices"]} >= {"a100-80gb", MEASURED}
    for device in data["devices"]:
        ratio = device["rest"] + sum(
            data["shares"][k]
            * device["shapes"][device["shape"][i]][f"{w},{plan['activation'][k][i]}"]
            for i, w in enumerate(plan["weight"])
            for k in range(2)
        )
        again = ask("solve", **{**question(data, **asked), "plan": plan, "device": device["key"]})
        assert ratio == pytest.approx(again["used"]["latency_ratio"], rel=1e-12)
        assert ("floor" in device["said"]) == (device["key"] != MEASURED)
    told = data["cells"]["latent_error"]
    loss = sum(told["weight"][w]["cost"][i] for i, w in enumerate(plan["weight"]))
    for k, labels in enumerate(plan["activation"]):
        loss += sum(told["activation"][a]["cost"][2 * i + k] for i, a in enumerate(labels))
    assert loss == pytest.approx(solved["loss"], rel=1e-9)


def test_budgets_hold_and_pins_stay(ask: Ask) -> None:
    data = ask()
    plan = uniform(data, "8", "8")
    site = next(i for i, s in enumerate(data["sites"]) if s["name"] == FF)
    plan["weight"][site] = "3"
    pins = [site * 3]
    asked = {**question(data, pins=pins, budgets={"avg_bits": 4.5}), "plan": plan}
    for name in ("suggest", "solve"):
        found = ask(name, **asked)
        assert found["used"]["avg_bits"] <= 4.5 + 1e-9
        assert found["plan"]["weight"][site] == "3"
        assert found["gap"] >= 0
    words = shlex.split(found["command"])
    assert f"{FF}=w3" in words
    assert words[:2] == ["dqviz", "allocate"]
    assert found["loss"] <= ask("suggest", **asked)["loss"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"budgets": {}}, "no budget is on"),
        ({"budgets": {"avg_bits": 2}}, "avg_bits=2 is out of reach"),
        ({"budgets": {"avg_bits": 4}, "pins": list(range(0, 54, 3))}, "pinned cells already exceed"),
        ({"budgets": {"bits": 4}}, "unknown budget 'bits'"),
        ({"budgets": {"avg_bits": "4"}}, "out of range"),
        ({"budgets": {"avg_bits": 4}, "metric": "fid"}, "unknown metric 'fid'"),
        ({"budgets": {"avg_bits": 4}, "device": "abacus"}, "unknown device 'abacus'"),
        ({"budgets": {"avg_bits": 4}, "pins": [9999]}, "there is no cell 9999"),
        ({"budgets": {"avg_bits": 4}, "plan": {"weight": ["8"]}}, "2 windows, not 0"),
        ({"table": "other"}, "unknown table 'other'"),
        ({"study": "../mine"}, "unknown study"),
    ],
)  # fmt: skip
def test_what_cannot_be_solved_is_one_line(ask: Ask, more: dict[str, Any], says: str) -> None:
    found = ask("solve", **{**question(ask()), **more})
    assert says in found["error"]
    assert "\n" not in found["error"]


def test_a_format_that_the_table_lacks_is_refused_with_the_reason(ask: Ask) -> None:
    data = ask()
    found = ask("appraise", **{**question(data), "plan": uniform(data, "5")})
    assert "w5 cannot be: the table has no number for it" in found["error"]


def test_the_curve_falls_and_holds_the_activations(ask: Ask) -> None:
    found = ask("curve", **question(ask()))
    losses = [p["predicted"]["mean"] for p in found["points"]]
    bits = [p["avg_bits"] for p in found["points"]]
    assert bits == sorted(bits)
    assert losses == sorted(losses, reverse=True)
    assert found["activation_bits"] == pytest.approx(8)
    assert all(p["activation_bits"] <= 8 + 1e-6 for p in found["points"])
    assert len(found["points"]) > 8


def test_the_file_is_a_plan_that_quantize_takes(ask: Ask) -> None:
    data = ask()
    plan = uniform(data, "4", "16")
    plan["activation"][1] = ["8"] * 18
    file = ask("file", **{**question(data), "plan": plan})
    assert file["name"] == "mine-gradient-rtn-plan.json"
    read: Plan = Plan.parse(json.loads(file["text"]), "the file")
    assert read.windows == blueprint(windows=2).windows
    site = read.sites[FF]
    assert site.weight is not None
    assert site.weight.bits == 4
    first, second = site.activations
    assert first is None
    assert second is not None
    assert second.bits == 8


def test_another_study_is_shown_where_one_does_not_open(ask: Ask) -> None:
    found = ask(study="gone")
    assert found["study"] == "mine"
    assert "unknown study 'gone'" in found["notes"][0]
    found = ask(study="mine", table="gone")
    assert found["table"] == "gradient-rtn"
    assert "unknown table 'gone'" in found["notes"][0]


def test_without_a_table_the_page_says_what_to_run(bench: Bench) -> None:
    ask = asking(bench)
    found = ask()
    assert shlex.split(found["empty"]["command"])[:2] == ["dqviz", "sensitivity"]
    assert {m["key"] for m in found["models"]} == {str(m["key"]) for m in bench.models}
    assert "gradient" in dict(found["tiers"])
    model = {"key": "dit-emoji", "ref": "dit-emoji", "title": "A model", "fingerprint": "f"}
    Study.create(studies_root() / "bare", model, {"dqviz": "0"})
    found = ask(study="bare")
    assert "Study bare has no table yet" in found["empty"]["text"]
    assert "--study" in found["empty"]["command"]
    assert "unknown model" in ask("start", what="sweep", model="/etc")["error"]
    assert "error" in ask("state", job="none")


def test_a_plan_is_kept_and_verified_by_a_job(
    swept: Path, tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DQVIZ_HOME", str(tmp_path / "home"))
    studies_root().mkdir(parents=True)
    shutil.copytree(swept, studies_root() / "real")
    bench = Bench(compare=FakeCompare(), models=[{"key": str(tiny_dit), "title": "Tiny"}])
    ask = asking(bench)
    data = ask()
    plan = uniform(data, "8", "8")
    plan["weight"][0] = "4"
    plan["activation"][1][1] = "16"
    jobs = []
    monkeypatch.setattr(bench.desk, "submit", lambda kind, asked: jobs.append((kind, asked)) or Job)
    told = ask("start", **{**question(data), "plan": plan}, verify=2, calibrate=0)
    assert told == {"job": "j"}
    ((kind, request),) = jobs
    assert kind == "allocate"
    made = allocate(AllocateRequest.parse(request))
    again = ask(study="real")
    (kept,) = again["allocations"]
    assert kept["verified"]["seeds"] == made["verified"]["seeds"]
    shown = ask("curve", **question(again))["kept"][kept["name"]]
    assert shown["predicted"]["mean"] == pytest.approx(made["predicted_loss"]["mean"])
    loaded = ask("load", study="real", table=data["table"], name=kept["name"])
    assert loaded["plan"] == plan
    assert "unknown plan 'x'" in ask("load", study="real", table=data["table"], name="x")["error"]
    told = ask("start", **question(data), verify=-1)
    assert "not a whole number" in told["error"]


def test_measuring_a_kept_plan_adds_to_it(
    swept: Path, tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DQVIZ_HOME", str(tmp_path / "home"))
    studies_root().mkdir(parents=True)
    folder = Path(shutil.copytree(swept, studies_root() / "real"))
    bench = Bench(compare=FakeCompare(), models=[{"key": str(tiny_dit), "title": "Tiny"}])
    ask, jobs = asking(bench), []
    monkeypatch.setattr(bench.desk, "submit", lambda kind, asked: jobs.append(asked) or Job)
    budgets = {"avg_bits": 6.0, "activation_bits": 8.0}
    made = allocate(AllocateRequest.parse({"study": folder, "budgets": budgets, "ties": ["qkv"]}))
    data = ask()
    name = made["allocation"]
    loaded = ask("load", study="real", table=data["table"], name=name)
    assert (loaded["budgets"], loaded["qkv"], loaded["pins"]) == (budgets, True, [])
    desk = {**question(data, budgets=budgets, qkv=True), "plan": loaded["plan"]}
    for verify in (3, 2):
        ask("start", **desk, verify=verify, calibrate=0)
        assert allocate(AllocateRequest.parse(jobs[-1]))["allocation"] == name
        (kept,) = Study.open(folder, read_only=True).allocations()
        assert len(kept["record"]["verified"]["seeds"]) == 3, "fewer seeds do not take its place"
    assert kept["record"]["budgets"] == budgets
    assert kept["record"]["pins"] == []


def test_a_plan_set_by_hand_comes_back_with_what_it_was_set_under(ask: Ask) -> None:
    data = ask()
    site = next(i for i, s in enumerate(data["sites"]) if s["name"] == FF)
    plan = uniform(data)
    plan["weight"][site], plan["activation"][1][site] = "3", "4"
    pins = [3 * site, 3 * site + 2]
    budgets = {"size_mb": 0.9}
    more = {"plan": plan, "pins": pins, "budgets": budgets, "device": "rtx-4090"}
    kept = by_hand(ask, **{**question(data), **more})
    loaded = ask("load", study="mine", table=data["table"], name=kept)
    assert loaded["plan"] == plan
    assert (loaded["pins"], loaded["budgets"], loaded["qkv"]) == (pins, budgets, False)
    assert (loaded["metric"], loaded["device"]) == ("latent_error", "rtx-4090")
    more |= {"pins": pins[:1], "budgets": {}, "device": "a100-80gb"}
    assert by_hand(ask, **{**question(data), **more}) == kept
    loaded = ask("load", study="mine", table=data["table"], name=kept)
    assert (loaded["pins"], loaded["budgets"], loaded["device"]) == (pins[:1], {}, "a100-80gb")


def test_a_plan_for_a_processor_that_is_not_known_here_comes_back_without_it(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ask()
    asked = {**question(data, pins=[0]), "plan": uniform(data), "device": MEASURED}
    kept = by_hand(ask, **asked)
    monkeypatch.setattr("kernels.tables.PACKAGED", Path("nowhere"))
    loaded = ask("load", study="mine", table=data["table"], name=kept)
    assert (loaded["pins"], loaded["device"]) == ([0], "a100-80gb")
    assert f"latency on {MEASURED}, of which nothing is known here" in " ".join(loaded["notes"])


def test_a_broken_table_of_times_is_said_and_the_page_opens(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "times" / "cpu-abacus" / "int_linear.json"
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")
    monkeypatch.setenv("DQVIZ_CONFIGS", str(tmp_path / "times"))
    found = ask()
    assert "cpu-abacus" not in [device["key"] for device in found["devices"]]
    assert f"{path} is no table of measured times" in found["notes"][0]


def by_hand(ask: Ask, **query: Any) -> str:
    """Keep a plan as the job of the page does; its name."""
    jobs: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dqviz.ui.desk.Desk.submit", lambda _, kind, asked: jobs.append(asked) or Job)
        assert ask("start", **query, verify=0, calibrate=0) == {"job": "j"}
    return str(allocate(AllocateRequest.parse(jobs[0]))["allocation"])


def test_ties_that_the_page_does_not_hold_are_said(ask: Ask) -> None:
    data = ask()
    asked = {"study": studies_root() / "mine", "budgets": {"avg_bits": 4}, "ties": ["*.ff.*"]}
    name = allocate(AllocateRequest.parse(asked))["allocation"]
    loaded = ask("load", study="mine", table=data["table"], name=name)
    assert loaded["qkv"] is False
    assert "ties *.ff.*" in loaded["notes"][0]


@pytest.mark.parametrize(("samples", "few"), [(1, True), (3, True), (4, False)])
def test_kept_plans_are_predicted_by_the_calibration_that_there_is_now(
    ask: Ask, samples: int, few: bool
) -> None:
    data = ask()
    asked = {"study": studies_root() / "mine", "budgets": {"avg_bits": 4}}
    name = allocate(AllocateRequest.parse(asked))["allocation"]
    before = ask("curve", **question(data))["kept"][name]["predicted"]
    assert before["lo"] is None
    drawn = [
        {"cost": c, "measured": 10 * c, "per_sample": [10 * c] * samples}
        for c in np.geomspace(0.001, 10, 12).tolist()
    ]
    study = Study.open(studies_root() / "mine")
    record = {"calibration": {"plans": drawn}, "seeds": [1], "design": DESIGN}
    study.add_calibration("key", "latent_error", record)
    after = ask("curve", **question(data))["kept"][name]["predicted"]
    assert after["mean"] == pytest.approx(10 * before["mean"])
    assert after["lo"] is not None
    told = ask()["calibrations"]["latent_error"]
    assert (told["plans"], told["samples"], told["few"]) == (12, samples, few)


@pytest.mark.parametrize(("upward", "within"), [(1e-3, False), (1.0, True), (1e3, False)])
def test_a_prediction_beyond_the_drawn_plans_says_so(ask: Ask, upward: float, within: bool) -> None:
    data = ask()
    told = ask("appraise", **question(data))
    assert told["within"] is None, "without a calibration"
    cost = told["predicted_loss"]["mean"] * upward
    drawn = [{"cost": c, "measured": 10 * c} for c in np.geomspace(cost / 2, cost * 2, 12).tolist()]
    study = Study.open(studies_root() / "mine")
    record = {"calibration": {"plans": drawn}, "seeds": [1], "design": DESIGN}
    study.add_calibration("key", "latent_error", record)
    told = ask("appraise", **question(data))
    assert told["within"] is within
    assert told["predicted_loss"]["lo"] is not None


def test_a_kept_plan_of_other_windows_says_why_it_has_no_prediction(ask: Ask) -> None:
    data = ask()
    asked = {"study": studies_root() / "mine", "budgets": {"avg_bits": 4}}
    name = allocate(AllocateRequest.parse(asked))["allocation"]
    with pytest.MonkeyPatch.context() as patch:
        other = Study.open(studies_root() / "mine", read_only=True).allocated_plan(name)
        patch.setattr(Study, "allocated_plan", lambda *_: {**other, "windows": other["windows"][:1]})  # fmt: skip
        told = ask("curve", **question(data))["kept"][name]
    assert "windows" in told["why"]


def test_a_plan_is_read_without_the_records_of_all(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ask()
    name = by_hand(ask, **question(data))
    study = Study.open(studies_root() / "mine", read_only=True)
    with monkeypatch.context() as patch:
        patch.setattr(Study, "allocations", lambda _: pytest.fail("all records were read"))
        plan = study.allocated_plan(name)
    assert set(plan["sites"]) >= {FF}
    with pytest.raises(BadInput, match=f"unknown allocation 'x'; .*{name}"):
        study.allocated_plan("x")


class Job:
    id = "j"


def test_names_that_are_no_model_of_the_app_are_not_drawn(ask: Ask, bench: Bench) -> None:
    data = ask()
    bench.models = ()
    assert "unknown model" in ask("start", **question(data), verify=2)["error"]


def test_tables_stay_parsed(ask: Ask, bench: Bench) -> None:
    shown = Precision(bench)
    assert shown.open("mine", None) is shown.open("mine", "gradient-rtn")


def test_the_study_that_comes_along_fills_the_page(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("dqviz.study_folder", "dqviz.studies"):
        monkeypatch.setattr(f"{module}.RECORDED", RECORDED)
    ask = asking(bench)
    data = ask()
    assert (data["study"], data["evidence"]) == ("dit-emoji", "recorded")
    assert len(data["sites"]) == 36
    for operand, columns in (("weight", 1), ("activation", len(data["windows"]))):
        for label in ("3", "4", "6", "8"):
            values = data["cells"]["latent_error"][operand][label]["value"]
            assert len(values) == 36 * columns
            assert None not in values
    (plan,) = data["allocations"]
    assert plan["verified"]["evidence"] == "recorded"
    assert data["calibrations"]["latent_error"]["plans"] == 12
    kept = ask("load", study="dit-emoji", name=plan["name"])
    loaded, budgets = kept["plan"], kept["budgets"]
    solved = ask("solve", **question(data, plan=loaded, budgets=budgets))
    assert solved["used"]["avg_bits"] <= budgets["avg_bits"]
    told = ask("appraise", **question(data, plan=loaded))
    (predicted,) = ask("curve", **question(data))["kept"].values()
    assert told["predicted_loss"]["mean"] == pytest.approx(predicted["predicted"]["mean"], rel=1e-3)
