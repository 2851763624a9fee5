"""Predictions: plans near solved ones, a curve that never falls through what they lost, intervals that hold what they say."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.allocation import Choice, Item, Key, Problem, solve
from quant.errors import BadInput
from quant.loss_calibration import Calibration, Verified
from quant.random_plans import random_plans

WIDTHS = (3, 4, 6, 8)
KEPT = 16


def table(sites: int = 24, seed: int = 0, *, pins=None, ties=()) -> Problem:
    """Costs that fall by four with every bit, from sites that differ by a hundred; inputs may stay in 16 bit."""
    rng, items = np.random.default_rng(seed), []
    for n in range(sites):
        for operand, name in (("weight", "avg_bits"), ("activation", "activation_bits")):
            cost = 10 ** rng.uniform(-2, 0)
            widths = WIDTHS if operand == "weight" else (*WIDTHS, KEPT)
            noise = {b: np.exp(0.2 * rng.normal()) for b in widths}
            choices = [
                Choice(b, 0.0 if b == KEPT else cost * noise[b] * 4.0**-b, {name: b / sites})
                for b in widths
            ]
            key = Key(f"s{n}", operand, None if operand == "weight" else 0)
            items.append(Item(key, tuple(choices)))
    return Problem(tuple(items), pins=pins or {}, ties=ties)


def costs(problem: Problem, chosen) -> np.ndarray:
    told = {item.key: {c.label: c.loss for c in item.choices} for item in problem.items}
    return np.array([told[key][label] for key, label in chosen.items()])


def used(problem: Problem, chosen) -> dict[str, float]:
    found: dict[str, float] = {}
    for item in problem.items:
        for name, use in next(c.uses for c in item.choices if c.label == chosen[item.key]).items():
            found[name] = found.get(name, 0.0) + use
    return found


def coherent(each: np.ndarray) -> float:
    """What a plan loses where errors add up before they are squared: more, the more evenly they are spread."""
    return float(np.sqrt(each).sum() ** 2)


def verified(problem: Problem, plans, lost=coherent) -> Calibration:
    each = [costs(problem, chosen) for chosen in plans]
    return Calibration(plans=tuple(Verified(cost=float(c.sum()), measured=lost(c)) for c in each))


def test_plans_go_from_the_most_bits_to_the_fewest() -> None:
    problem = table()
    plans = random_plans(problem, 12)
    assert plans == random_plans(problem, 12)
    assert plans != random_plans(problem, 12, seed=1)
    assert len({json.dumps(list(c.values())) for c in plans}) == 12
    bits = [used(problem, chosen) for chosen in plans]
    assert all(a["avg_bits"] >= b["avg_bits"] for a, b in itertools.pairwise(bits))
    assert bits[0]["avg_bits"] > 7.5
    assert bits[-1]["avg_bits"] < 3.5
    inputs = sorted(b["activation_bits"] for b in bits)
    assert inputs[0] < 3.5
    assert inputs[-1] > 12
    assert inputs != [b["activation_bits"] for b in bits[::-1]], "of their own"


def test_plans_are_near_the_best_of_their_bits() -> None:
    problem = table()
    for chosen in random_plans(problem, 12):
        best = solve(problem, used(problem, chosen), gap=1e-3).loss
        assert best <= costs(problem, chosen).sum() * (1 + 1e-9)
        assert costs(problem, chosen).sum() < 1.5 * best


def test_plans_hold_pins_and_ties() -> None:
    pins = {Key("s3"): 8}
    together = frozenset({Key("s0"), Key("s1"), Key("s2")})
    for chosen in random_plans(table(pins=pins, ties=(together,)), 12):
        assert chosen[Key("s3")] == 8
        assert len({chosen[key] for key in together}) == 1


def test_a_table_of_one_width_has_one_plan() -> None:
    """Nothing is decided where there is one choice."""
    problem = Problem((Item(Key("a"), (Choice(4, 0.1, {"avg_bits": 4.0}),)),))
    assert random_plans(problem, 12) == [{Key("a"): 4}] * 12


@pytest.mark.parametrize("seed", range(3))
def test_solved_plans_are_predicted_where_errors_add_up_before_they_are_squared(seed: int) -> None:
    """Sums of costs are far from such losses, and not by one factor: the calibration learns it from plans alike."""
    problem = table(seed=seed)
    calibration = verified(problem, random_plans(problem, 12))
    inside, off = [], []
    for weights, inputs in itertools.product((3.5, 4, 5, 6), (4, 6, 8)):
        chosen = solve(problem, {"avg_bits": weights, "activation_bits": inputs}, gap=1e-3).chosen
        each = costs(problem, chosen)
        found = calibration.predict(float(each.sum()))
        inside.append(found.lo <= coherent(each) <= found.hi)
        off.append(np.log(coherent(each) / found.mean))
    assert np.mean(inside) > 0.7
    assert abs(np.mean(off)) < 0.3, "no side is preferred"
    assert calibration.coverage > 0.7


def test_beyond_the_costs_that_were_drawn_the_interval_widens() -> None:
    plans = [Verified(cost=c, measured=2 * c * (1.1 if n % 2 else 0.9)) for n, c in enumerate(np.geomspace(1e-3, 1, 12))]  # fmt: skip
    calibration = Calibration(plans=tuple(plans))
    assert calibration.within(0.01)
    inside = calibration.predict(0.01)
    for cost, end in ((1e-5, plans[0]), (100.0, plans[-1])):
        assert not calibration.within(cost)
        found = calibration.predict(cost)
        assert found.mean == pytest.approx(calibration.mean(end.cost) * cost / end.cost)
        # A hundred times beyond, ends go on with slopes of 0 and 2: 100^2.
        assert found.hi / found.lo == pytest.approx(inside.hi / inside.lo * 1e4, rel=1e-9)
        assert found.lo < end.measured * cost / end.cost < found.hi


def test_few_samples_make_wide_intervals() -> None:
    rng = np.random.default_rng(0)

    def drawn(samples: int) -> Calibration:
        found = []
        for cost in np.geomspace(1e-3, 1, 12):
            losses = cost * np.exp(rng.normal(size=samples))
            typical = float(np.exp(np.log(losses).mean()))
            found.append(Verified(cost=cost, measured=typical, per_sample=tuple(losses)))
        return Calibration(plans=tuple(found))

    few, many = drawn(4).predict(0.1), drawn(64).predict(0.1)
    assert few.hi / few.lo > 1.5 * many.hi / many.lo
    bare = Calibration(plans=tuple(p.model_copy(update={"per_sample": ()}) for p in drawn(4).plans))
    assert bare.factor < drawn(4).factor


plans = st.lists(
    st.tuples(st.floats(1e-6, 1e3), st.floats(1e-6, 10)), min_size=12, max_size=24
).map(lambda found: Calibration(plans=tuple(Verified(cost=c, measured=m) for c, m in found)))


@settings(max_examples=30, deadline=None)
@given(plans, st.lists(st.floats(1e-9, 1e6), min_size=2, max_size=8))
def test_a_calibration_never_falls(calibration: Calibration, costs: list[float]) -> None:
    found = [calibration.predict(cost) for cost in sorted(costs)]
    for name in ("mean", "lo", "hi"):
        values = [getattr(p, name) for p in found]
        assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(values)), name
    assert all(p.lo <= p.mean <= p.hi for p in found)
    assert 0 <= calibration.coverage <= 1


def test_intervals_hold_what_they_say() -> None:
    """Of plans whose losses are a power of the cost times noise, nine of ten new ones are inside."""
    rng = np.random.default_rng(0)
    told, inside = [], []
    for _ in range(24):
        cost = 10 ** rng.uniform(-4, 0, 40)
        loss = 3 * cost**0.7 * np.exp(0.3 * rng.normal(size=40))
        verified = [Verified(cost=c, measured=m) for c, m in zip(cost, loss, strict=True)]
        calibration = Calibration(plans=tuple(verified[:20]))
        told.append(calibration.coverage)
        for plan in verified[20:]:
            found = calibration.predict(plan.cost)
            inside.append(found.lo <= plan.measured <= found.hi)
    assert 0.9 < np.mean(inside) < 0.995
    assert abs(np.mean(told) - np.mean(inside)) < 0.05
    wide = calibration.predict(0.01, [0.001, 0.019])
    narrow = calibration.predict(0.01)
    assert wide.lo < narrow.lo < narrow.hi < wide.hi


def test_too_few_plans_are_no_calibration() -> None:
    with pytest.raises(BadInput, match="3 verified plans are too few to calibrate with; 12"):
        Calibration(plans=(Verified(cost=1, measured=1),) * 3).check()
