"""From a table to a plan: budgets, pins and ties hold; predictions are monotone; a plan's bytes are those on disk."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from quant.allocation import Key, solve
from quant.blueprint import Blueprint
from quant.checkpoint import save_checkpoint
from quant.drafting import blueprint_of, size_of_plan
from quant.errors import BadInput
from quant.generation import timesteps_of
from quant.latency import latency_of
from quant.mixed_precision import FULL, MB, THE_REST, posed
from quant.plan_loss import PlanLoss, typical
from quant.plans import check_plan, windows_for
from quant.quantization import quantize
from quant.random_plans import random_plans
from quant.schema import Plan, parse_bits
from quant.sensitivity.around import Around, around
from quant.sensitivity.cells import Cell
from quant.sensitivity.task import Settings

from .sensitivity_cases import sweep

BITS = ("3", "4", "6", "8")
DEVICE = latency_of("a100-80gb")


def drafted(model, method, bits, windows, samples, sampler) -> Blueprint:
    names = [s.name for s in model.sites if s.kept_reason is None]
    steps = timesteps_of(sampler)
    made = blueprint_of(model, method, {}, names, bits, windows, samples[0], sampler, steps)
    written = json.dumps(made.to_json())
    assert Blueprint.parse(json.loads(written), "a blueprint").fingerprint == made.fingerprint
    return made


@pytest.fixture(scope="module")
def swept(model, samples, sampler):
    """A whole sweep of the tiny model in two windows, with its blueprint."""
    windows = windows_for(sampler, 2)
    rows, _ = sweep("layer", model, None, BITS, windows, samples, sampler)
    return drafted(model, "rtn", BITS, windows, samples, sampler), rows


@pytest.fixture(scope="module")
def problem(swept):
    return posed(*swept, device=DEVICE)


def weights(chosen) -> dict[str, int]:
    return {k.site: label for k, label in chosen.items() if k.operand == "weight" and k != THE_REST}


@pytest.mark.parametrize("budget", ["avg_bits", "activation_bits", "size_mb", "latency_ratio"])
def test_raising_a_budget_never_raises_the_loss(budget: str, problem) -> None:
    ends = [solve(problem.problem, {}).used[budget]]
    low = {c.label for i in problem.problem.items for c in i.choices} - {FULL, "kept"}
    least = {i.key: (min(low) if i.key != THE_REST else "kept") for i in problem.problem.items}
    ends.insert(0, solve(dataclasses.replace(problem.problem, pins=least), {}).used[budget])
    assert ends[0] < ends[1]
    found = [solve(problem.problem, {budget: b}, gap=0) for b in np.linspace(*ends, 5)]
    assert all(a.loss >= b.loss for a, b in itertools.pairwise(found))
    for allocation, bound in zip(found, np.linspace(*ends, 5), strict=True):
        assert allocation.used[budget] <= bound * (1 + 1e-9)
        assert problem.cost(allocation.chosen) == pytest.approx(allocation.loss)


def test_without_a_budget_on_them_activations_stay_in_16_bit(problem) -> None:
    chosen = solve(problem.problem, {"avg_bits": 4}).chosen
    assert {b for k, b in chosen.items() if k.operand == "activation"} == {FULL}
    plan = problem.plan(chosen)
    assert all(s.activations == (None, None) for s in plan.sites.values())


def test_averages_are_those_of_the_plan(problem, model) -> None:
    found = solve(problem.problem, {"avg_bits": 4.5, "activation_bits": 6})
    plan, sites = problem.plan(found.chosen), {s.name: s for s in model.sites}
    sizes = {n: sites[n].in_features * sites[n].out_features for n in plan.sites}
    bits = sum(plan.sites[n].weight.bits * size for n, size in sizes.items())
    assert found.used["avg_bits"] == pytest.approx(bits / sum(sizes.values()))
    assert 4 < found.used["avg_bits"] <= 4.5
    check_plan(Plan.parse(plan.to_json(), "the plan"), model)
    assert plan.sampler is not None, "windows are those of one sampler"


def test_layers_have_the_bits_that_the_plan_computes_them_with(problem) -> None:
    """Of every window; in full precision where a weight stays there, and where a site is kept."""
    chosen = {item.key: FULL for item in problem.problem.items}
    one, other = (s.name for s in problem.blueprint.sites[:2])
    chosen |= {Key(one): 4, Key(one, "activation", 0): 8, Key(other, "activation", 0): 8}
    (first, second, *others) = (set(bits) for _, bits in problem.layers(chosen))
    assert first == {parse_bits("w4a8"), parse_bits("w4a16")}
    assert second == {None}
    assert all(bits == {None} for bits in others)


def test_pins_and_ties_hold(swept) -> None:
    pins = ("*.ff.net.2=w8a8", "transformer_blocks.0.attn1.to_q@1=a3", "*.1.attn1.to_k=w6")
    problem = posed(*swept, pins=pins, ties=("qkv", "*.ff.net.0.proj"))
    chosen = solve(problem.problem, {"avg_bits": 5.5, "activation_bits": 6}).chosen
    bits = weights(chosen)
    for block in range(2):
        assert bits[f"transformer_blocks.{block}.ff.net.2"] == 8
        assert chosen[Key(f"transformer_blocks.{block}.ff.net.2", "activation", 1)] == 8
        assert len({bits[f"transformer_blocks.{block}.attn1.to_{x}"] for x in "qkv"}) == 1
    assert bits["transformer_blocks.1.attn1.to_v"] == 6, "tied to a pinned one"
    assert chosen[Key("transformer_blocks.0.attn1.to_v", "activation", 1)] == 3
    assert len({bits[f"transformer_blocks.{b}.ff.net.0.proj"] for b in range(2)}) == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"pins": ["*.ff.net.3=w8"]}, "finds no layer of the table; nearest"),
        ({"pins": ["*.ff.net.2"]}, "is not understood; write NAME=w8a8"),
        ({"pins": ["*.ff.net.2=w5"]}, "w5 is pinned, but not possible; possible: 3, 4, 6, 8"),
        ({"pins": ["*.ff.net.2@2=a8"]}, "there is no window 2; 0 to 1 are"),
        ({"pins": ["*.ff.net.2@1=w8"]}, "weights have no windows"),
        ({"ties": ["*.ff.net.3"]}, "finds 0 layers"),
        ({"metric": "output_eror"}, "unknown metric 'output_eror'; nearest: output_error"),
    ],
)
def test_what_cannot_be_decided_is_one_line(more, says: str, swept) -> None:
    with pytest.raises(BadInput, match=says.replace("*", r"\*")) as error:
        posed(*swept, **more)
    assert "\n" not in str(error.value)


def test_budgets_that_pins_break_name_them(swept) -> None:
    problem = posed(*swept, pins=["*.ff.net.2=w8"])
    with pytest.raises(BadInput, match=r"pinned cells already exceed avg_bits=4 .*ff\.net\.2 w8"):
        solve(problem.problem, {"avg_bits": 4})
    with pytest.raises(BadInput, match=r"size_mb=0\.01 is out of reach"):
        solve(problem.problem, {"size_mb": 0.01})
    with pytest.raises(BadInput, match="unknown budget 'latency_ratio'"):
        solve(problem.problem, {"latency_ratio": 0.5})


def test_cells_that_a_method_cannot_have_are_no_choice(swept) -> None:
    blueprint, rows = swept
    of_codebooks = blueprint.model_copy(update={"method": "kmeans-vq"})
    problem = posed(of_codebooks, rows).problem
    weight, activation = problem.items[0], problem.items[1]
    assert weight.labels == (3, 4)
    assert "makes weights of" in weight.illegal[8]
    assert 8 in activation.labels


@pytest.mark.parametrize("method", ["rtn", "viditq"])
def test_a_plan_takes_the_predicted_bytes(method, model, seen, samples, sampler, swept, tmp_path) -> None:  # fmt: skip
    _, rows = swept
    blueprint = drafted(model, method, BITS, windows_for(sampler, 2), samples, sampler)
    problem = posed(blueprint, rows)
    found = solve(problem.problem, {"avg_bits": 5, "activation_bits": 7})
    plan = problem.plan(found.chosen)
    options = {"transform": "both"} if method == "viditq" else {}
    predicted = size_of_plan(blueprint.model_copy(update={"options": options}), plan)
    made = quantize(model, method, plan, options, seen)
    assert set(made.scope.quantized) == set(plan.sites)
    size = save_checkpoint(made, model, tmp_path / "out")
    (file,) = (tmp_path / "out").rglob("*.safetensors")
    assert predicted == size.total_bytes == file.stat().st_size
    assert 0 <= found.used["size_mb"] * MB - size_of_plan(blueprint, plan) <= 64, "a bound"


# -- around a plan


def test_costs_around_a_plan_are_what_it_would_change(problem, model, samples, sampler) -> None:
    """Of one weight and one input at a time. Inputs stay in 16 bit: one that is rounded hides small changes in noise."""
    loss = PlanLoss(model, "rtn", {}, None, samples, sampler, batch_size=2)
    chosen = solve(problem.problem, {"avg_bits": 5}).chosen
    plan = problem.plan(chosen)
    neighbours = problem.neighbours(chosen)
    site = "transformer_blocks.0.ff.net.2"
    cells = [c for c in neighbours if c.site == site]
    found = around(loss, plan, cells, settings=Settings(probes=64, batch_size=2))
    assert found.loss == pytest.approx(loss.of(plan), rel=1e-4)
    truth, told = [], []
    for cell in cells:
        key, label = neighbours[cell]
        other = loss.of(problem.plan({**chosen, key: label}))
        truth.append(float((other - found.loss).mean()))
        told.append(float(found.changes[cell].mean()))
    assert np.corrcoef(truth, told)[0, 1] > 0.95, (truth, told)
    largest = int(np.argmax(np.abs(truth)))
    assert told[largest] == pytest.approx(truth[largest], rel=0.5)
    assert min(truth) < 0 < max(truth), "some help and some harm"


def test_a_relinearised_problem_prefers_what_helps(problem) -> None:
    chosen = random_plans(problem.problem, 3)[1]  # between the most bits and the fewest
    key = next(k for k in chosen if k.operand == "weight" and chosen[k] != 8)
    table = {c.label: c.loss for i in problem.problem.items if i.key == key for c in i.choices}
    again = problem.relinearised(chosen, {(key, 8): -1.0})
    assert solve(again, {}).chosen[key] == 8
    losses = {c.label: c.loss for c in next(i for i in again.items if i.key == key).choices}
    assert losses[8] == 0
    half = (table[8] - table[chosen[key]] - 1) / 2
    assert losses[chosen[key]] == pytest.approx(-half), "half of it is the table's"
    cells = problem.neighbours(chosen)
    assert Cell(site=key.site, operand="weight", bits="8") in cells
    assert all(chosen[k] != label for k, label in cells.values())


def test_one_picture_that_turned_into_another_does_not_decide() -> None:
    cell = Cell(site="a", operand="weight", bits="4")
    usual, strange = np.full(7, 0.01), np.array([0.5])
    loss = np.concatenate([usual, strange])
    helped = Around(loss, {cell: np.concatenate([0.5 * usual, -0.9 * strange])})
    assert helped.changes[cell].mean() < 0 < helped.typical(cell)
    alike = Around(usual, {cell: -0.25 * usual})
    assert alike.typical(cell) == pytest.approx(-0.25 * typical(usual))
    assert typical(usual) == pytest.approx(0.01)
    assert typical(loss) < 0.02 < loss.mean()
