"""Metric groups apart: budgets of each hold, each is ranked by its own metric, and of the splits that are drawn the best is taken."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from dqviz.allocating import AllocateRequest, allocate, as_command, check_fields
from dqviz.allocating.grouped import spread
from dqviz.cli import main
from dqviz.events import Progress
from dqviz.study import Study
from dqviz.sweeping import SweepRequest, sweep
from quant import group_budgets as group_budgets_module
from quant.allocation import Allocation, Key, Problem
from quant.blueprint import Blueprint
from quant.errors import BadInput, Cancelled
from quant.group_budgets import group_budgets
from quant.metric_groups import decided, grouped
from quant.sensitivity.cells import Row
from quant.sensitivity.table import rows_of

BITS = "3,4,6,8"


@pytest.fixture(scope="module")
def swept(pipelines: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of PixArt, which has content and visual layers."""
    out = tmp_path_factory.mktemp("grouped") / "study"
    request = {"model": str(pipelines["pixart-sigma"]), "out": out, "bits": BITS, "tier": "layer"}
    sweep(SweepRequest.parse({**request, "windows": 1, "seeds": "200000-200001"}))
    return out


@pytest.fixture
def study(swept: Path, tmp_path: Path) -> Path:
    """A copy of it, to write into."""
    import shutil

    return Path(shutil.copytree(swept, tmp_path / "study"))


@pytest.fixture(scope="module")
def table(swept: Path) -> tuple[Blueprint, list[Row]]:
    """Hand-made costs in two metrics: `ssim_loss` falls from the first layer to the last, `latent_error` rises."""
    study = Study.open(swept, read_only=True)
    (held,) = study.sensitivities()
    blueprint: Blueprint = Blueprint.parse(study.blueprint(held["name"]), "the blueprint")
    cells = [r.cell for r in rows_of(study.sensitivity(held["name"]), "the table")]
    place = {site: n for n, site in enumerate(dict.fromkeys(c.site for c in cells))}
    rows = []
    for cell in cells:
        at, fall = place[cell.site], 4.0 ** -float(str(cell.bits))
        rows.append(Row(cell=cell, metric="ssim_loss", value=fall * 2.0**-at))
        rows.append(Row(cell=cell, metric="latent_error", value=fall * 2.0**at))
    return blueprint, rows


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of three averages; `tests/quant/test_group_budgets.py` has the released one."""
    scan = {"weight": (0.46, 1.36, 5), "activation": (0.94, 1.09, 2)}
    monkeypatch.setattr("quant.group_budgets.BUDGETS", 3)
    monkeypatch.setattr("quant.group_budgets.SCAN", scan)


def asked(study: Path, **more: Any) -> AllocateRequest:
    return AllocateRequest.parse({"study": study, "budgets": ["avg_bits=5"], "groups": True, **more})  # fmt: skip


def average(blueprint: Blueprint, chosen: dict[Key, Any], group: str) -> float:
    """Bits of the weights of a group."""
    sites = [s for s in blueprint.sites if s.group == group and Key(s.name) in chosen]
    return sum(chosen[Key(s.name)] * s.weights for s in sites) / sum(s.weights for s in sites)


@pytest.mark.usefixtures("short")
def test_every_group_keeps_its_share_of_every_split(table: tuple[Blueprint, list[Row]]) -> None:
    blueprint, rows = table
    own = grouped(blueprint, rows)
    assert own.content == "content"
    sizes = {g: sum(s.weights for s in blueprint.sites if Key(s.name) in keys) for g, keys in own.groups.items()}  # fmt: skip
    found = list(own.solved("weight", own.scan("weight", 5.0), gap=1e-2, seconds=10.0))
    solved = [c for c in found if c.refused is None]
    assert len(found) == 15
    assert len(solved) > 8
    for candidate in solved:
        assert candidate.bits == pytest.approx(group_budgets(sizes, candidate.target, {"content": candidate.k}))  # fmt: skip
        for group, bits in candidate.bits.items():
            assert average(blueprint, decided(candidate), group) <= bits * (1 + 1e-9)
    low, high = (next(c for c in solved if c.k == k) for k in (min(c.k for c in solved), max(c.k for c in solved)))  # fmt: skip
    assert average(blueprint, decided(low), "content") < average(blueprint, decided(high), "content")  # fmt: skip


def test_a_group_is_ranked_by_its_own_metric(table: tuple[Blueprint, list[Row]]) -> None:
    """By SSIM early layers need bits, by the latent error late ones."""
    blueprint, rows = table
    assert set(grouped(blueprint, rows).metrics.values()) == {"ssim_loss"}, "the best of the table"
    firsts = {}
    for metric in ("ssim_loss", "latent_error"):
        own = grouped(blueprint, rows, metrics={"visual": metric})
        assert own.metrics["visual"] == metric
        assert own.metrics["content"] == "ssim_loss"
        (candidate,) = own.solved("weight", [(5.0, 1.0)], gap=1e-4, seconds=10.0)
        chosen = decided(candidate)
        names = [key.site for key in own.groups["visual"] if key in chosen]
        firsts[metric] = [chosen[Key(names[0])], chosen[Key(names[-1])]]
    assert firsts["ssim_loss"][0] > firsts["ssim_loss"][1]
    assert firsts["latent_error"][0] < firsts["latent_error"][1]


@pytest.mark.usefixtures("short")
def test_of_the_splits_that_are_drawn_the_best_is_taken(study: Path) -> None:
    budgets = ["avg_bits=5", "activation_bits=7"]
    made = allocate(asked(study, budgets=budgets, scan=3, gap=0.1, plan_seeds="300000-300001"))
    assert made["avg_bits"] <= 5
    assert made["activation_bits"] <= 7
    assert set(made["groups"]["metrics"]) == {"content", "visual"}
    for name, count in (("avg_bits", 15), ("activation_bits", 6)):
        told = made["groups"][name]
        assert len(told) == count
        drawn = [c for c in told if c["drawn"] is not None]
        assert len(drawn) == 3
        assert {c["evidence"] for c in drawn} == {"simulated"}
        (best,) = [c for c in told if c["taken"]]
        assert best["drawn"] == min(c["drawn"] for c in drawn)
        assert all((c["refused"] is None) or c["drawn"] is None for c in told)
    assert made["bound"] is None
    assert any("every group is ranked by output_error" in w for w in made["warnings"])
    (row,) = Study.open(study).allocations()
    assert row["plan"] == made["plan"]
    again = allocate(asked(study, budgets=budgets, scan=3, gap=0.1, plan_seeds="300000-300001"))
    assert again["plan"] == made["plan"]
    assert len(Study.open(study).allocations()) == 1


@pytest.mark.usefixtures("short")
def test_a_scan_says_how_far_it_is_and_goes_on_where_it_was_stopped(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(study, scan=1, gap=0.1, plan_seeds="300000")
    seen: list[Any] = []

    def stopped() -> bool:
        return sum(isinstance(e, Progress) for e in seen) == 4

    with pytest.raises(Cancelled, match="solved and drawn is kept, and the same command goes on"):
        allocate(request, seen.append, stopped)
    told = [e for e in seen if isinstance(e, Progress)]
    assert [(e.done, e.total) for e in told] == [(n, 15) for n in range(1, 5)]
    assert all(e.seconds_left is not None for e in told)
    (log,) = (study / "sensitivity").glob(".*.splits.jsonl")
    with log.open("a") as stream:
        stream.write('{"target":4.9,"k"')  # cut off in the middle

    problems, solve = [], group_budgets_module.solve

    def counting(problem: Problem, *given: Any, **more: Any) -> Allocation:
        problems.append(problem)
        return solve(problem, *given, **more)

    monkeypatch.setattr(group_budgets_module, "solve", counting)
    made = allocate(request)
    assert 0 < len(problems) <= 2 * (15 - 4), "of each group, those that were left"
    assert not list((study / "sensitivity").glob(".*"))
    left = len(problems)
    again = allocate(request)
    assert len(problems) > 2 * left, "all of them, since the plan was kept"
    for name in ("plan", "groups", "gap", "status", "predicted_loss", "binding"):
        assert again[name] == made[name]


def test_without_a_scan_nothing_is_drawn(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dqviz.allocating.drawn.load", lambda *_, **__: pytest.fail("nothing is drawn"))  # fmt: skip
    made = allocate(asked(study, pins=["*attn2.to_k=w8"], budgets=["avg_bits=6"], ties=["qkv"]))
    (only,) = made["groups"]["avg_bits"]
    assert (only["k"], only["target"], only["taken"], only["drawn"]) == (1.0, 6.0, True, None)
    plan = Study.open(study).allocated_plan(made["allocation"])
    assert {s["weight"]["bits"] for n, s in plan["sites"].items() if "attn2.to_k" in n} == {8}
    assert made["activation_bits"] == 16


def test_one_group_is_said_to_be_one(tiny_dit: Path, tmp_path: Path) -> None:
    request = {"model": str(tiny_dit), "out": tmp_path / "s", "bits": BITS, "tier": "layer"}
    sweep(SweepRequest.parse({**request, "windows": 1, "seeds": "200000"}))
    made = allocate(asked(tmp_path / "s", scan=2, plan_seeds="300000"))
    assert {c["k"] for c in made["groups"]["avg_bits"]} == {1.0}
    assert len(made["groups"]["avg_bits"]) == 10
    assert any("all layers are of metric group visual" in w for w in made["warnings"])
    with pytest.raises(BadInput, match="has no layers of metric group content; it has visual"):
        allocate(asked(tmp_path / "s", group_metrics=["content=output_error"]))


def test_viditq_mp_takes_the_plan_as_it_is(
    study: Path, pipelines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    allocate(asked(study, out=plan))
    line = f"quantize {pipelines['pixart-sigma']} --method viditq-mp --plan {plan} --out {tmp_path / 'q'} --json"
    assert main(shlex.split(line)) == 0
    capsys.readouterr()
    config = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    asked_for = json.loads(plan.read_text())["sites"]
    for name, site in config["plan"]["sites"].items():
        assert site["weight"]["bits"] == asked_for[name]["weight"]["bits"]


def test_the_command_says_the_same(study: Path) -> None:
    request = asked(study, scan=3, group_metrics=["visual=output_error"])
    words = shlex.split(as_command(request))
    flags = dict(itertools.pairwise(words))
    assert "--groups" in words
    assert (flags["--scan"], flags["--group-metric"]) == ("3", "visual=output_error")


def test_plans_to_draw_are_good_and_differ() -> None:
    a, b, c = Key("a"), Key("b"), Key("c")
    plans = {
        0: {a: 4, b: 4, c: 4},
        1: {a: 4, b: 4, c: 5},
        2: {a: 8, b: 8, c: 8},
        3: {a: 4, b: 5, c: 5},
    }
    assert spread(plans, {0: 1.0, 1: 1.1, 2: 9.0, 3: 1.2}, 3) == [0, 2, 1]
    assert spread(plans, dict.fromkeys(plans, 1.0), 9) == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"groups": False, "scan": 2}, "--scan is about metric groups; add --groups"),
        ({"groups": False, "group_metrics": ["visual=psnr"]}, "--group-metric is about metric groups"),
        ({"budgets": ["size_mb=2"]}, "size_mb cannot be split between metric groups"),
        ({"refine": True}, "--refine exchanges bits between all layers"),
        ({"scan": 999}, "scan 999 is out of range; 0 to 200"),
        ({"group_metrics": ["visual"]}, "'visual' is not understood; write GROUP=METRIC"),
        ({"group_metrics": ["visual=a", "visual=b"]}, "was given two metrics, a and b"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(more: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says) as error:
        check_fields(asked(Path("no-such-study"), **more))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"group_metrics": ["visual=ssim"]}, "unknown metric 'ssim'"),
        ({"group_metrics": ["picture=output_error"]}, "unknown metric group 'picture'"),
        ({"budgets": ["avg_bits=2"]}, "no split of avg_bits=2 can be kept"),
        (
            {"pins": ["*attn2*=w8"]},
            "visual at 5, content at 5 bits: pinned cells already exceed avg_bits=5",
        ),
    ],
)
def test_what_the_table_can_tell_is_one_line(study: Path, more: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says) as error:
        allocate(asked(study, **more))
    assert "\n" not in str(error.value)
