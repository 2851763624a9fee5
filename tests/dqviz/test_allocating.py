"""Plans under budgets: from a study's table alone, held against drawn plans, refined and verified; as command and job."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from dqviz import work
from dqviz.allocating import (
    PLAN_SEEDS,
    VERIFY_FROM,
    AllocateRequest,
    allocate,
    as_command,
    check_fields,
)
from dqviz.cli import main
from dqviz.events import Progress
from dqviz.jobs import DONE, JobStore
from dqviz.request import CALIBRATION_SEEDS
from dqviz.study import Study
from dqviz.sweeping import SWEEP_SEEDS, SweepRequest, sweep
from dqviz.tables import allocated
from dqviz.worker import work as work_off
from quant.errors import BadInput, Cancelled
from quant.plans import read_plan

FF = "transformer_blocks.0.ff.net.2"
BOTH = {"avg_bits": 4.5, "activation_bits": 6.0}


@pytest.fixture(scope="module")
def swept(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with one table of the gradient tier, two windows."""
    out = tmp_path_factory.mktemp("swept") / "study"
    request = {"model": str(tiny_dit), "out": out, "bits": "3,4,6,8", "windows": 2, "probes": 4}
    sweep(SweepRequest.parse({**request, "seeds": "200000-200003"}))
    return out


@pytest.fixture
def study(swept: Path, tmp_path: Path) -> Path:
    """A copy of it, to write into."""
    import shutil

    return Path(shutil.copytree(swept, tmp_path / "study"))


def asked(study: Path, **more: Any) -> AllocateRequest:
    return AllocateRequest.parse({"study": study, "budgets": BOTH, **more})


def test_a_lone_table_makes_a_plan_and_says_that_its_interval_is_missing(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dqviz.allocating.drawn.load", lambda *_, **__: pytest.fail("nothing is drawn")
    )
    out = tmp_path / "plan.json"
    made = allocate(asked(study, out=out))
    said = {"avg_bits", "size_bytes", "predicted_loss", "gap", "binding", "seconds", "plan"}
    assert said <= made.keys()
    assert made["avg_bits"] <= 4.5
    assert made["activation_bits"] <= 6
    assert set(made["binding"]) <= set(BOTH)
    assert made["predicted_loss"]["mean"] > 0
    assert made["predicted_loss"]["lo"] is made["predicted_loss"]["hi"] is None
    assert any("interval is missing" in text for text in made["warnings"])
    assert read_plan(out).fingerprint == made["plan"]
    kept = Study.open(study, read_only=True)
    (row,) = kept.allocations()
    assert row["plan"] == made["plan"]
    assert kept.allocated_plan(row["name"]) == json.loads(out.read_text())
    with pytest.raises(BadInput, match="is there already; nothing is written over"):
        allocate(asked(study, out=out))
    with pytest.raises(BadInput, match="unknown allocation"):
        kept.allocated_plan("no")


def test_quantize_takes_the_plan_and_writes_the_predicted_bytes(
    study: Path, tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = {"avg_bits": 5, "size_mb": 0.54, "activation_bits": 7, "latency_ratio": 0.9}
    made = allocate(asked(study, budgets=budget, pins=[f"{FF}=w8a8"], ties=["qkv"], out=tmp_path / "p.json"))  # fmt: skip
    assert made["size_bytes"] <= 0.54e6
    assert made["latency_ratio"] <= 0.9
    plan = read_plan(tmp_path / "p.json")
    assert plan.sites[FF].weight.bits == 8
    assert {a.bits for a in plan.sites[FF].activations if a} == {8}
    heads = [plan.sites[f"transformer_blocks.1.attn1.to_{x}"] for x in "qkv"]
    assert heads[0] == heads[1] == heads[2]
    line = f"quantize {tiny_dit} --method rtn --plan {tmp_path / 'p.json'} --out {tmp_path / 'q'} --json"
    assert main(shlex.split(line)) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["size_bytes"] == made["size_bytes"]
    (file,) = (tmp_path / "q").rglob("*.safetensors")
    assert file.stat().st_size == made["size_bytes"]


def test_predictions_are_held_against_plans_that_were_drawn(study: Path) -> None:
    events: list[Any] = []
    made = allocate(asked(study, calibrate=12, refine=True, verify=4), events.append)
    loss, verified = made["predicted_loss"], made["verified"]
    assert 0 < loss["lo"] < loss["mean"] < loss["hi"]
    assert made["calibration"]["plans"] == 12
    assert 0 <= made["calibration"]["coverage"] <= 1
    assert made["refined"]["taken"] == (made["refined"]["after"] < made["refined"]["before"])
    assert verified["seeds"] == list(range(VERIFY_FROM, VERIFY_FROM + 4))
    assert verified["n"] == 4
    told = verified["typical"]
    assert told["lo"] <= told["mean"] <= told["hi"] <= max(verified["per_sample"])
    assert told["mean"] <= verified["mean"], "a geometric mean"
    assert loss["mean"] / 5 < told["mean"] < 5 * loss["mean"], "of its order"
    progress = [e for e in events if isinstance(e, Progress)]
    assert [p.done for p in progress] == sorted(p.done for p in progress)
    assert progress[-1].done == progress[-1].total
    later = allocate(asked(study))
    assert later["predicted_loss"]["lo"] is not None, "the study's calibration counts"
    assert not later["warnings"]
    again = allocate(asked(study, refine=True))
    assert again["allocation"] == made["allocation"]
    assert again["verified"] == verified, "what was drawn is not forgotten"


def test_what_was_drawn_before_a_stop_is_kept(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quant.plan_loss import PlanLoss

    of, drawn = PlanLoss.of, []

    def stop(self: PlanLoss, plan: Any) -> Any:
        if len(drawn) == 5:
            raise Cancelled("stop")
        drawn.append(plan.fingerprint)
        return of(self, plan)

    monkeypatch.setattr(PlanLoss, "of", stop)
    with pytest.raises(Cancelled, match="goes on from there"):
        allocate(asked(study, calibrate=12))
    monkeypatch.setattr(PlanLoss, "of", lambda self, plan: (drawn.append(plan.fingerprint), of(self, plan))[1])  # fmt: skip
    made = allocate(asked(study, calibrate=12))
    assert len(drawn) == len(set(drawn)) == 12
    assert made["calibration"]["plans"] == 12


def test_default_seeds_have_none_in_common() -> None:
    ranges = [SWEEP_SEEDS, PLAN_SEEDS, CALIBRATION_SEEDS, range(VERIFY_FROM, VERIFY_FROM + 10_000), range(1024)]  # fmt: skip
    assert sum(map(len, ranges)) == len(set().union(*ranges))


def test_latency_is_that_of_a_measured_processor_where_one_is_named(study: Path) -> None:
    name = "cpu-avx512-vnni"  # whose table comes along
    made = allocate(asked(study, budgets={"latency_ratio": 0.9}, latency_device=name))
    assert made["latency_device"] == name
    assert made["latency_ratio"] <= 0.9
    assert "predicted from measured times (int_linear.json" in made["latency_said"]
    assert f"on {name} (AMD EPYC, 2 threads)" in made["latency_said"]
    assert made["latency_said"] in allocated(made)
    (remark,) = (text for text in made["warnings"] if name in text)
    assert "layers from measured shapes" in remark
    other = allocate(asked(study, budgets={"avg_bits": 5}, latency_device=name))
    assert other["latency_ratio"] is not None
    assert any("layers from measured shapes" in text for text in other["warnings"])
    floor = allocate(asked(study, budgets={"latency_ratio": 0.9}))
    assert "a floor" in floor["latency_said"]
    assert not any("measured shapes" in text for text in floor["warnings"])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"budgets": {}}, "no budget was given"),
        ({"budgets": ["avg_bits"]}, "budget 'avg_bits' is not understood"),
        ({"budgets": ["avg_bits=four"]}, "budget 'avg_bits=four' is not understood"),
        ({"budgets": ["avg_bits=4", "avg_bits=5"]}, "budget avg_bits was given twice, 4 and 5"),
        ({"budgets": {"average": 4}}, "unknown budget 'average'"),
        ({"budgets": {"avg_bits": 0}}, "avg_bits=0 is out of range"),
        ({"calibrate": 3}, "calibrate 3 is out of range; 12 to 64"),
        ({"plan_seeds": "400000", "verify": 1}, "share seed 400000"),
        ({"latency_device": "abacus"}, "unknown device 'abacus'"),
        ({"batch_size": 0}, "batch size 0"),
    ],
)
def test_bad_input_is_one_line_before_a_study_is_read(more: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says) as error:
        check_fields(asked(Path("no-such-study"), **more))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"plan_seeds": "200003-200009", "calibrate": 12}, "--plan-seeds and the sweep share seed 200003"),
        ({"sensitivity": "gradient"}, "unknown sensitivity 'gradient'; nearest: gradient-rtn"),
        ({"pins": ["*.ff.net.3=w8"]}, "finds no layer of the table; nearest"),
        ({"pins": ["*=w8"]}, "pinned cells already exceed avg_bits=4.5 .*w8"),
        ({"budgets": {"size_mb": 0.001}}, "size_mb=0.001 is out of reach"),
    ],
)  # fmt: skip
def test_what_the_study_can_tell_is_one_line_too(
    study: Path, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInput, match=says) as error:
        allocate(asked(study, **more))
    assert "\n" not in str(error.value)
    assert Study.open(study).allocations() == []


def test_the_verification_on_most_samples_is_kept(study: Path) -> None:
    first = allocate(asked(study, verify=4))
    fewer = allocate(asked(study, verify=2))
    assert fewer["verified"] == first["verified"]
    assert any("verified on 4 samples before; those are kept, not the 2" in w for w in fewer["warnings"])  # fmt: skip
    more = allocate(asked(study, verify=5))
    assert more["verified"]["n"] == 5
    assert more["verified"]["per_sample"][:4] == pytest.approx(first["verified"]["per_sample"])
    (row,) = Study.open(study).allocations()
    assert row["record"]["verified"] == more["verified"]


def test_a_plan_that_was_verified_is_known_however_it_is_asked_for(study: Path) -> None:
    first = allocate(asked(study, verify=3))
    again = allocate(asked(study, budgets={**BOTH, "size_mb": 1000.0}, verify=2))
    assert again["plan"] == first["plan"]
    assert again["allocation"] != first["allocation"]
    assert again["verified"] == first["verified"]


def test_the_calibration_that_most_was_drawn_for_counts(study: Path) -> None:
    allocate(asked(study, calibrate=12, plan_seeds="300000-300001"))
    allocate(asked(study, calibrate=12, plan_seeds="300000"))
    assert allocate(asked(study))["calibration"]["seeds"] == [300000, 300001]


def test_a_verification_goes_with_its_plan(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another solution of the same question was not drawn."""
    from dqviz.allocating import task

    first = allocate(asked(study, verify=2))
    real = task.solve
    monkeypatch.setattr(task, "solve", lambda problem, _, **how: real(problem, {**BOTH, "avg_bits": 4.0}, **how))  # fmt: skip
    other = allocate(asked(study))
    assert other["allocation"] == first["allocation"]
    assert other["plan"] != first["plan"]
    assert other["verified"] is None


def test_calibrations_on_plans_of_another_design_are_not_taken(study: Path) -> None:
    made = allocate(asked(study, calibrate=12, plan_seeds="300000"))
    assert any("on 1 sample each, which hardly tell" in w for w in made["warnings"])
    held = Study.open(study)
    (row,) = held.sensitivities()
    (record,) = held.calibrations(row["key"], "latent_error")
    del record["design"]
    record["seeds"] = [7]
    held.add_calibration(row["key"], "latent_error", record)
    assert len(held.calibrations(row["key"], "latent_error")) == 1
    assert allocate(asked(study))["calibration"]["seeds"] == [300000]


def test_a_prediction_beyond_the_plans_that_were_drawn_says_so(study: Path) -> None:
    allocate(asked(study, calibrate=12, plan_seeds="300000-300003"))
    inside = allocate(asked(study))
    assert not inside["warnings"]
    free = allocate(asked(study, budgets={"activation_bits": 16}))
    assert any("is outside those of the plans that were drawn" in w for w in free["warnings"])
    assert free["predicted_loss"]["lo"] < free["predicted_loss"]["mean"]


def test_pins_that_contradict_each_other_are_told(study: Path) -> None:
    pins = ["*.ff.net.2=w8a8", "*.attn1.to_q=w6", "*.ff.net.2=w4", f"{FF}=w6"]
    made = allocate(asked(study, pins=pins))
    told = [w for w in made["warnings"] if "pinned" in w]
    assert told == ["*.ff.net.2 is pinned to w8 and later to w4; the later pin counts"]


def test_a_pin_that_finds_nothing_names_a_few_layers(study: Path) -> None:
    with pytest.raises(BadInput, match="finds no layer of the table; nearest: ") as error:
        allocate(asked(study, pins=["blocks.0.attn1.*=w8"]))
    assert 1 <= str(error.value).count("transformer_blocks") <= 5


def test_many_pins_in_the_way_are_told_by_a_few(study: Path) -> None:
    with pytest.raises(
        BadInput, match=r"pinned cells already exceed .* and \d+ more; unpin"
    ) as error:
        allocate(asked(study, pins=["*=w8"], budgets={"avg_bits": 3.2}))
    assert str(error.value).count("transformer_blocks") == 5


def test_a_table_without_inputs_says_how_to_sweep_them(study: Path, tiny_dit: Path) -> None:
    request = {"model": str(tiny_dit), "out": study, "bits": "4,8", "windows": 1, "tier": "weight"}
    sweep(SweepRequest.parse({**request, "seeds": "200000"}))
    with pytest.raises(
        BadInput, match="tier weight has no cells of inputs; sweep them: dqviz sens"
    ):
        allocate(asked(study))
    made = allocate(asked(study, budgets={"avg_bits": 5}))
    assert not any("no budget counts activations" in w for w in made["warnings"]), "they cannot be"


def test_a_study_without_a_table_says_how_to_get_one(tiny_study: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no finished sensitivity; measure one: dqviz sensitivity"):
        allocate(asked(tiny_study))
    with pytest.raises(BadInput, match="there is no study folder"):
        allocate(asked(tmp_path / "none"))


def test_costs_are_taken_anew_by_the_same_tier_alone(study: Path, tiny_dit: Path) -> None:
    request = {"model": str(tiny_dit), "out": study, "bits": "4,8", "windows": 1, "tier": "layer"}
    sweep(SweepRequest.parse({**request, "seeds": "200000"}))
    with pytest.raises(BadInput, match="table layer-rtn is of tier layer"):
        allocate(asked(study, refine=True))
    assert allocate(asked(study))["table"]["sensitivity"] == "layer-rtn", "the latest"
    assert allocate(asked(study, sensitivity="gradient-rtn"))["table"]["tier"] == "gradient"


def test_a_job_allocates_and_the_command_line_makes_the_same(
    study: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = asked(study, gap=0, pins=["*.attn1.to_q=w6", f"{FF}@1=a8"], ties=["qkv"])
    store = JobStore(tmp_path / "home")
    job = store.submit("allocate", request.to_json())
    assert job.title == "study: plan under avg_bits=4.5, activation_bits=6"
    work_off(store)
    assert store.get(job.id).state == DONE, store.get(job.id).message
    words = as_command(request)
    assert work.KINDS["allocate"].command(request.to_json()) == words
    capfd.readouterr()
    assert main([*shlex.split(words)[1:], "--json"]) == 0
    made = json.loads(capfd.readouterr().out)
    assert made["command"] == words
    assert [row["name"] for row in Study.open(study).allocations()] == [made["allocation"]]
    assert main([*shlex.split(words)[1:], "--out", str(tmp_path / "plan.json")]) == 0
    shown = capfd.readouterr().out
    assert "bits of weights" in shown
    assert "note: the predicted loss is the sum" in shown
