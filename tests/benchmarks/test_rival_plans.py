"""Plans that solved ones are held against: never above the budget, and each does what its name says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.rival_plans import (
    Bytes,
    Widths,
    greedy_by_error,
    greedy_by_incoherence,
    random,
)

WIDTHS = (2, 3, 4, 6, 8)
NAMES = tuple("abcdef")
Rival = Callable[[Bytes, int], Widths]

ERRORS = {name: {w: (n + 1) / 4**w for w in WIDTHS} for n, name in enumerate(NAMES)}
PSI = {name: float(n) for n, name in enumerate(NAMES)}
RIVALS: dict[str, Rival] = {
    "random": lambda of, budget: random(of, budget, 3),
    "error": lambda of, budget: greedy_by_error(of, budget, ERRORS),
    "incoherence": lambda of, budget: greedy_by_incoherence(of, budget, 4, PSI),
}


def bytes_of(sizes: list[int]) -> Bytes:
    return Bytes({n: {w: size * w + 7 for w in WIDTHS} for n, size in zip(NAMES, sizes)})


@pytest.mark.parametrize("rival", RIVALS)
@given(sizes=st.lists(st.integers(1, 50), min_size=len(NAMES), max_size=len(NAMES)))
@settings(max_examples=30, deadline=None)
def test_within_the_bytes_of_uniform_bits(rival: str, sizes: list[int]) -> None:
    of = bytes_of(sizes)
    budget = of(of.uniform(4))
    plan = RIVALS[rival](of, budget)
    assert set(plan) == set(NAMES)
    assert set(plan.values()) <= set(WIDTHS)
    assert of(plan) <= budget


def test_random_plans_use_their_bytes_and_differ() -> None:
    of = bytes_of([4] * len(NAMES))
    budget = of(of.uniform(4))
    drawn = [random(of, budget, seed) for seed in range(8)]
    assert len({tuple(p.values()) for p in drawn}) > 4
    assert all(of(p) > 0.8 * budget for p in drawn)
    assert random(of, budget, 5) == drawn[5]


def test_greedy_by_error_leaves_no_layer_that_could_take_more() -> None:
    of = bytes_of([1, 2, 3, 4, 5, 6])
    budget = of(of.uniform(4))
    plan = greedy_by_error(of, budget, ERRORS)
    for name in NAMES:
        more = of.moved(plan, name, +1)
        assert more is None or of(more) > budget
    assert plan["f"] >= plan["a"]


def test_the_most_incoherent_inputs_take_the_most_bits() -> None:
    of = bytes_of([4] * len(NAMES))
    plan = greedy_by_incoherence(of, of(of.uniform(4)), 4, PSI)
    assert plan["f"] == 8
    assert plan["a"] == 3
    promoted = [name for name in NAMES if plan[name] == 8]
    assert promoted == list(NAMES[-len(promoted) :])
