"""What comes at once is within the budgets, never better than the best, and mostly next to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant import lagrangian
from quant.allocation import Choice, Item, Key, Pair, Problem, solve
from quant.decision_arrays import arrays_of
from quant.errors import BadInput
from quant.pricing import reduced_costs, relaxed

from .decided import allowed, budgeted, fits, least_loss, loss_of, plans, total

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


def convex(seed, sites=40, noise=0.5):
    """Losses that fall about fourfold with every bit, as rounding errors do; sizes and seconds about linear."""
    rng = np.random.default_rng(seed)
    items = []
    for n in range(sites):
        scale, size = 10 ** rng.uniform(-2, 2), float(rng.integers(1, 9)) * 2**16
        choices = tuple(
            Choice(
                b,
                scale * 4.0**-b * float(rng.uniform(1 - noise, 1 + noise)),
                {"bits": b * size, "seconds": size * max(b, 5) * float(rng.uniform(0.9, 1.1))},
            )
            for b in range(2, 9)
        )
        items.append(Item(Key(f"s{n}"), choices))
    return Problem(tuple(items))


def tight(problem, share):
    """Budgets between the least and the most that plans of one width take."""
    ends = {
        name: [
            sum(c.uses[name] for i in problem.items for c in i.choices if c.label == b)
            for b in (2, 8)
        ]
        for name in ("bits", "seconds")
    }
    return {
        "bits": ends["bits"][0] + share * (ends["bits"][1] - ends["bits"][0]),
        "seconds": ends["seconds"][0] * 1.1 + share * (ends["seconds"][1] - ends["seconds"][0]),
    }


@settings(max_examples=250, deadline=None, suppress_health_check=SLOW)
@given(budgeted())
def test_always_within_the_budgets_and_never_better_than_the_best(case):
    problem, budgets = case
    best = least_loss(problem, budgets)
    if best is None:
        with pytest.raises(BadInput) as quick:
            lagrangian.solve(problem, budgets)
        with pytest.raises(BadInput) as exact:
            solve(problem, budgets)
        assert str(quick.value) == str(exact.value)
        return
    found = lagrangian.solve(problem, budgets)
    assert found.status == "heuristic"
    assert allowed(problem, found.chosen)
    assert fits(problem, found.chosen, budgets)
    assert loss_of(problem, found.chosen) >= best
    assert found.bound <= float(best) * (1 + 1e-12)
    assert found.loss * (1 - found.gap) <= float(best) * (1 + 1e-9)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(6))
def test_within_five_percent_of_the_best_on_losses_like_those_of_rounding(seed, share):
    problem = convex(seed)
    budgets = tight(problem, share)
    quick, exact = lagrangian.solve(problem, budgets), solve(problem, budgets)
    assert exact.loss * (1 - 1e-4) <= quick.loss <= 1.05 * exact.loss
    assert quick.bound <= exact.loss
    assert quick.gap <= 0.1


def test_one_budget_is_met_next_to_exactly():
    """With hundreds of sites what the hull misses is a single decision among them."""
    problem = convex(7, sites=300)
    budgets = {"bits": tight(problem, 0.4)["bits"]}
    assert lagrangian.solve(problem, budgets).gap <= 1e-3


@settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
@given(budgeted(), st.floats(-6, 6), st.floats(-6, 6))
def test_any_prices_give_a_bound(case, first, second):
    """Weak duality, with pairs and ties; and with a choice forced, reduced costs add to the bound."""
    problem, budgets = case
    arrays = arrays_of(problem, budgets)
    prices = np.array([10.0**first, 10.0**second][: len(budgets)])
    _, value = relaxed(arrays, prices)
    forced = reduced_costs(arrays, prices)
    rounding = 1e-9 * (1 + float(prices @ arrays.bounds) + abs(value))
    for plan in plans(problem):
        if not fits(problem, plan, budgets):
            continue
        loss = float(loss_of(problem, plan))
        assert value <= loss + rounding
        for n, items in enumerate(arrays.sets):
            c = list(arrays.labels[n]).index(plan[items[0].key])
            if arrays.allowed[n, c]:
                priced = loss + sum(
                    float(q) * (float(total(problem, plan, r)) - b)
                    for q, (r, b) in zip(prices, budgets.items(), strict=True)
                )
                assert value + forced[n, c] <= priced + rounding


def test_pairs_are_priced_together():
    """Two windows of one site: the weight goes to 8 bits because both inputs gain by it."""
    w, inputs = Key("s"), [Key("s", "activation", k) for k in (0, 1)]
    items = (
        Item(w, (Choice(8, 0.5), Choice(16, 0.0))),
        *(Item(a, (Choice(8, 0.2), Choice(16, 0.0))) for a in inputs),
    )
    table = {(x, y): 1.0 if max(x, y) <= 8 else 2.0 for x in (8, 16) for y in (8, 16)}
    pairs = tuple(Pair(w, a, "seconds", table) for a in inputs)
    found = lagrangian.solve(Problem(items, pairs), {"seconds": 3.0})
    assert found.chosen[w] == 8
    assert found.loss == pytest.approx(0.7)
    assert found.used["seconds"] == 3.0
