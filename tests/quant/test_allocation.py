"""The solver finds what trying everything finds, keeps budgets exactly, and says what is in the way."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant import allocation, integer_program, lagrangian
from quant.allocation import Choice, Item, Key, Pair, Problem, solve
from quant.decision_arrays import arrays_of
from quant.errors import BadInput

from .decided import (
    COMBINATIONS,
    allowed,
    budgeted,
    enumerated,
    fits,
    least_loss,
    loss_of,
    problems,
    random_case,
    total,
)

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


def weight(name, *ways, illegal=()):
    """An item from (label, loss, size_mb)."""
    choices = tuple(Choice(label, loss, {"size_mb": size}) for label, loss, size in ways)
    return Item(Key(name), choices, dict(illegal))


def three():
    """A, B and C at 4 and 8 bits: 10 MB each at 4."""
    return Problem(tuple(weight(n, (4, 1.0, 10.0), (8, 0.1, 20.0)) for n in "ABC"))


def pinned(problem, **pins):
    return replace(problem, pins={Key(name): label for name, label in pins.items()})


# -- against trying everything


@settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
@given(budgeted())
def test_the_solver_finds_what_trying_everything_finds(case):
    problem, budgets = case
    best = least_loss(problem, budgets)
    if best is None:
        with pytest.raises(BadInput):
            solve(problem, budgets, gap=0)
        return
    found = solve(problem, budgets, gap=0)
    assert found.status == "optimal"
    assert allowed(problem, found.chosen)
    assert fits(problem, found.chosen, budgets)
    assert found.loss == pytest.approx(float(loss_of(problem, found.chosen)), rel=1e-12)
    assert loss_of(problem, found.chosen) <= best * (1 + Fraction(1, 10**9))
    assert found.gap <= 1e-6
    for name in budgets:
        assert found.used[name] == pytest.approx(float(total(problem, found.chosen, name)))


@pytest.mark.parametrize("start", range(0, 240, 40))
def test_it_finds_the_best_of_thousands(start):
    """Of weights and inputs in windows, with seconds that pairs take; within the default gap of what 0 finds."""
    for seed in range(start, start + 40):
        problem, budgets = random_case(seed)
        loss, uses = enumerated(problem, tuple(budgets))
        assert len(loss) <= COMBINATIONS
        inside = np.all([uses[n] <= b for n, b in budgets.items()], axis=0)
        if not inside.any():
            with pytest.raises(BadInput, match=r"together|exceed|out of reach"):
                solve(problem, budgets, gap=0)
            continue
        found = solve(problem, budgets, gap=0)
        assert found.loss == pytest.approx(loss[inside].min(), rel=1e-9)
        assert fits(problem, found.chosen, budgets)
        assert lagrangian.solve(problem, budgets).loss >= found.loss * (1 - 1e-12)
        nearly = solve(problem, budgets)
        assert nearly.gap <= 1e-4
        assert nearly.loss <= found.loss * (1 + 1.01e-4)


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(budgeted(), st.sampled_from([1e-8, 1e8]))
def test_losses_in_another_unit_change_nothing(case, factor):
    problem, budgets = case
    if least_loss(problem, budgets) is None:
        return
    items = tuple(
        replace(i, choices=tuple(replace(c, loss=c.loss * factor) for c in i.choices))
        for i in problem.items
    )
    plain, other = (solve(p, budgets, gap=0) for p in (problem, replace(problem, items=items)))
    assert other.loss == pytest.approx(plain.loss * factor, rel=1e-8)
    assert other.binding == plain.binding or other.chosen != plain.chosen


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(budgeted(), st.floats(1, 2), st.data())
def test_a_larger_budget_never_raises_the_loss(case, factor, data):
    problem, budgets = case
    name = data.draw(st.sampled_from(sorted(budgets)))
    more = {**budgets, name: budgets[name] * factor}
    try:
        before = solve(problem, budgets, gap=0)
    except BadInput:
        return
    assert solve(problem, more, gap=0).loss <= before.loss * (1 + 1e-9)


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(budgeted())
def test_a_budget_that_does_not_bind_can_go(case):
    problem, budgets = case
    try:
        found = solve(problem, budgets, gap=0)
    except BadInput:
        return
    if not found.binding:
        assert solve(problem, {}, gap=0).loss == pytest.approx(found.loss, rel=1e-9)


@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
@given(problems())
def test_without_budgets_every_item_takes_its_least_loss(problem):
    found = solve(problem, {})
    assert found.loss == pytest.approx(float(least_loss(problem, {})), rel=1e-12)
    assert found.binding == ()
    assert found.gap == 0


# -- what it says


def test_a_plan_in_words():
    found = solve(three(), {"size_mb": 45.0})
    assert sorted(found.chosen.values()) == [4, 4, 8]
    assert found.loss == pytest.approx(2.1)
    assert found.used == {"size_mb": 40.0}
    assert found.binding == ("size_mb",)
    assert solve(three(), {"size_mb": 60.0}).binding == ()


def test_of_equal_losses_the_smaller_is_taken():
    item = weight("A", (8, 1.0, 20.0), (4, 1.0, 10.0), (6, 1.0, 15.0))
    for budgets in ({}, {"size_mb": 100.0}):
        assert solve(Problem((item,)), budgets).chosen == {Key("A"): 4}
    # One of two must be large, and the larger of the two gains no more.
    two = (weight("A", (4, 1.0, 1.0), (8, 0.0, 9.0)), weight("B", (4, 1.0, 1.0), (8, 0.0, 5.0)))
    assert solve(Problem(two), {"size_mb": 10.0}, gap=0).chosen[Key("B")] == 8


def test_the_same_problem_has_the_same_answer():
    rng = np.random.default_rng(0)
    items = tuple(
        weight(f"s{n}", *((b, float(rng.integers(1, 4)), float(b)) for b in (2, 4, 8)))
        for n in range(40)
    )
    first, second = (solve(Problem(items), {"size_mb": 180.0}) for _ in range(2))
    assert first.chosen == second.chosen


def test_int8_peaks_need_both_operands():
    """Seconds fall only where weight and input have at most 8 bits, so both are moved together."""
    w, a = Key("s"), Key("s", "activation", 0)
    items = (
        Item(w, (Choice(8, 1.0), Choice(16, 0.0))),
        Item(a, (Choice(8, 2.0), Choice(16, 0.0))),
    )
    table = {(x, y): 1.0 if max(x, y) <= 8 else 2.0 for x in (8, 16) for y in (8, 16)}
    problem = Problem(items, (Pair(w, a, "seconds", table),))
    assert solve(problem, {"seconds": 2.0}).chosen == {w: 16, a: 16}
    found = solve(problem, {"seconds": 1.5})
    assert found.chosen == {w: 8, a: 8}
    assert found.used == {"seconds": 1.0}


def test_tied_items_take_the_same_and_only_what_all_have():
    items = (
        weight("q", (2, 9.0, 1.0), (4, 1.0, 2.0), (8, 0.0, 4.0)),
        weight("k", (4, 5.0, 2.0), (8, 0.0, 4.0)),
    )
    tied = Problem(items, ties=(frozenset({Key("q"), Key("k")}),))
    assert set(solve(tied, {"size_mb": 7.0}).chosen.values()) == {4}
    with pytest.raises(BadInput, match="q weight: 2; k weight: 8"):
        Problem(
            (weight("q", (2, 1.0, 1.0)), weight("k", (8, 1.0, 1.0))),
            ties=(frozenset({Key("q"), Key("k")}),),
        )


def test_ties_that_share_an_item_are_one():
    ties = (frozenset({Key("A"), Key("B")}), frozenset({Key("B"), Key("C")}))
    found = solve(replace(three(), ties=ties), {"size_mb": 59.0})
    assert set(found.chosen.values()) == {4}


# -- what cannot be


def test_pins_in_the_way_are_named_and_no_others():
    problem = pinned(three(), A=8, B=8, C=4)
    with pytest.raises(BadInput) as caught:
        solve(problem, {"size_mb": 35.5})
    assert str(caught.value) == (
        "pinned cells already exceed size_mb=35.5 by 14.5: A w8, B w8; "
        "unpin them or raise the budget to 50"
    )
    with pytest.raises(BadInput, match=r"by 5: A w8; unpin"):
        solve(problem, {"size_mb": 45.0})
    assert solve(problem, {"size_mb": 50.0}).loss == pytest.approx(1.2)


def test_largest_excess_first():
    items = (
        weight("small", (4, 1.0, 10.0), (8, 0.0, 11.0)),
        weight("large", (4, 1.0, 10.0), (8, 0.0, 40.0)),
    )
    problem = pinned(Problem(items), small=8, large=8)
    with pytest.raises(BadInput, match=r"by 1: large w8; unpin"):
        solve(problem, {"size_mb": 50.0})


def test_a_budget_that_nothing_reaches_says_the_least():
    with pytest.raises(BadInput) as caught:
        solve(pinned(three(), A=8), {"size_mb": 25.0})
    assert str(caught.value) == (
        "size_mb=25 is out of reach: the least that any choices take is 30; "
        "raise it to 40 with what is pinned"
    )


def conflicting(**pins):
    """Fewer bytes are more seconds."""
    choices = (Choice(4, 1.0, {"mb": 1.0, "ms": 4.0}), Choice(8, 0.0, {"mb": 4.0, "ms": 1.0}))
    items = tuple(Item(Key(n), choices) for n in "ABC")
    return Problem(items, pins={Key(n): label for n, label in pins.items()})


def test_budgets_that_only_together_are_too_small():
    with pytest.raises(BadInput) as caught:
        solve(conflicting(), {"mb": 6.0, "ms": 8.0})
    assert str(caught.value) == (
        "mb=6 and ms=8 cannot be kept together; raise ms to 9, which mb=6 needs"
    )
    assert solve(conflicting(), {"mb": 6.0, "ms": 9.0}).loss == 2.0


def test_pins_that_only_together_are_in_the_way():
    """D is large or slow; with A large as well nothing is left for it."""
    either = Item(
        Key("D"), (Choice(4, 1.0, {"mb": 1.0, "ms": 4.0}), Choice(8, 0.0, {"mb": 4.0, "ms": 1.0}))
    )
    both = Item(
        Key("A"), (Choice(4, 1.0, {"mb": 1.0, "ms": 1.0}), Choice(8, 0.0, {"mb": 2.0, "ms": 2.0}))
    )
    free = Problem((both, either, replace(both, key=Key("B"))))
    budgets = {"mb": 6.0, "ms": 5.5}
    assert solve(free, {"mb": 6.0, "ms": 5.5}).loss > 0
    with pytest.raises(BadInput) as caught:
        solve(replace(free, pins={Key("A"): 8, Key("B"): 4}), {**budgets, "mb": 5.9, "ms": 6.5})
    assert str(caught.value) == (
        "pinned cells leave no way to keep mb=5.9 and ms=6.5 together: A w8; "
        "unpin them or raise ms to 7, which mb=5.9 needs"
    )


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(budgeted())
def test_unpinning_what_is_named_is_enough_and_necessary(case):
    problem, budgets = case
    try:
        solve(problem, budgets, gap=0)
    except BadInput as error:
        said = str(error)
    else:
        return
    if "; unpin them" not in said or "out of reach" in said:
        assert least_loss(problem.unpinned(problem.pins), budgets) is None
        return
    named = {k for k, label in problem.pins.items() if k.at(label) in said}
    assert named
    assert least_loss(problem.unpinned(named), budgets) is not None
    for key in named if said.count("unpin them") == 1 else ():  # else a set for each budget
        assert least_loss(problem.unpinned(named - {key}), budgets) is None


@pytest.mark.parametrize("bad", [nan, inf, -1.0])
def test_numbers_that_are_none(bad):
    with pytest.raises(BadInput, match="loss of A w4"):
        weight("A", (4, bad, 1.0))
    with pytest.raises(BadInput, match="size_mb of A w4"):
        weight("A", (4, 1.0, bad))
    with pytest.raises(BadInput, match="budget size_mb"):
        solve(three(), {"size_mb": bad})
    with pytest.raises(BadInput, match="seconds of A w4 with B a4"):
        Pair(Key("A"), Key("B", "activation"), "seconds", {(4, 4): bad})


def test_other_bad_input():
    item = weight("A", (4, 1.0, 1.0), illegal={2: "no codebook"}.items())
    cases = [
        (lambda: Problem((item, item)), "A weight is decided twice"),
        (lambda: Problem((item,), pins={Key("B"): 4}), "unknown item 'B weight'"),
        (
            lambda: pinned(Problem((item,)), A=2),
            r"A w2 is pinned, but not possible \(no codebook\)",
        ),
        (lambda: weight("A", (4, 1.0, 1.0), (4, 2.0, 1.0)), "A w4 is offered twice"),
        (lambda: weight("A", illegal={4: "adaLN"}.items()), "A weight has no choice .* 4: adaLN"),
        (lambda: solve(Problem((item,)), {"bytes": 3.0}), "unknown budget 'bytes'.*size_mb"),
        (lambda: solve(three(), {"size_mb": 45.0}, gap=1.0), "gap 1 is out of range"),
        (lambda: solve(three(), {"size_mb": 45.0}, seconds=0.0), "no time"),
        (
            lambda: replace(
                three(), pins={Key("A"): 4, Key("B"): 8}, ties=(frozenset({Key("A"), Key("B")}),)
            ),
            "A w4 and B w8 are pinned, but tied",
        ),
        (
            lambda: Problem(three().items, (Pair(Key("A"), Key("B"), "seconds", {(4, 4): 1.0}),)),
            "seconds of A w4 with B w8 is not known",
        ),
    ]
    for call, said in cases:
        with pytest.raises(BadInput, match=said):
            call()


# -- rounding and time


def test_budgets_are_kept_without_rounding_errors():
    """0.1 three times is 0.3; HiGHS takes a little less for the same."""
    items = tuple(weight(n, (4, 1.0, 0.0), (8, 0.0, 0.1)) for n in "ABC")
    assert solve(Problem(items), {"size_mb": 0.3}, gap=0).loss == 0.0
    below = 0.3 * (1 - 1e-10)
    found = solve(Problem(items), {"size_mb": below}, gap=0)
    assert fits(Problem(items), found.chosen, {"size_mb": below})
    assert found.loss == 1.0


def test_a_budget_that_many_plans_miss_by_rounding_alone():
    """Equal sites have thousands of plans at the same sum but for its last bit."""
    rng = np.random.default_rng(5)
    items = tuple(
        weight(f"s{n}", *((b, float(rng.uniform(1, 2)) * 4.0**-b, b / 30) for b in range(2, 9)))
        for n in range(40)
    )
    for budget in (5.5, float(np.nextafter(5.5, 0)), float(np.nextafter(5.5, 9))):
        found = solve(Problem(items), {"size_mb": budget})
        assert found.gap <= 1e-4
        assert fits(Problem(items), found.chosen, {"size_mb": budget})


@pytest.mark.parametrize("size", [1.0, 1e12, 1e-12])
def test_units_of_a_resource_do_not_matter(size):
    items = tuple(
        weight(f"s{n}", *((b, (1 + n % 3) * 4.0**-b, size * b * (1 + n % 4)) for b in (2, 3, 4, 8)))
        for n in range(12)
    )
    plain = tuple(
        weight(f"s{n}", *((b, (1 + n % 3) * 4.0**-b, b * (1 + n % 4)) for b in (2, 3, 4, 8)))
        for n in range(12)
    )
    found = solve(Problem(items), {"size_mb": size * 121}, gap=0)
    assert found.loss == pytest.approx(solve(Problem(plain), {"size_mb": 121.0}, gap=0).loss)
    assert fits(Problem(items), found.chosen, {"size_mb": size * 121})


def test_when_time_is_up_the_best_so_far_comes_with_its_gap(monkeypatch):
    def nothing(arrays, objective, **_):
        return integer_program.Solved(picks=None, bound=0.0, done=False, infeasible=False)

    monkeypatch.setattr(allocation, "minimise", nothing)
    rng = np.random.default_rng(3)
    items = tuple(
        weight(
            f"s{n}", *((b, float(rng.uniform(0, 1)), float(rng.uniform(1, 2))) for b in range(6))
        )
        for n in range(30)
    )
    found = solve(Problem(items), {"size_mb": 38.0}, gap=0)
    assert found.status == "time limit"
    assert 0 < found.gap < 0.5
    assert fits(Problem(items), found.chosen, {"size_mb": 38.0})


def test_losses_of_very_different_size_are_all_minimised():
    """Ten orders of magnitude between items that cannot do without loss and items that can."""
    giant = weight("giant", (8, 1e10, 1.0))
    small = tuple(weight(f"s{n}", (4, 1.0 + n, 1.0), (8, 0.5, 2.0)) for n in range(6))
    found = solve(Problem((giant, *small)), {"size_mb": 10.0}, gap=0)
    kept = [n for n in range(6) if found.chosen[Key(f"s{n}")] == 8]
    assert kept == [3, 4, 5]


def test_what_the_solver_says_by_itself_is_not_on_stdout(capfd, monkeypatch):
    import os

    import scipy.optimize

    milp = scipy.optimize.milp

    def loud(*given, **more):
        os.write(1, b"HiGHS has something to say\n")
        return milp(*given, **more)

    monkeypatch.setattr(scipy.optimize, "milp", loud)
    for n in range(4):
        integer_program.minimise(
            arrays := arrays_of(three(), {"size_mb": 31.0 + n}), arrays.loss, gap=0.0
        )
    print("a result")
    said = capfd.readouterr()
    assert said.out == "a result\n"
    assert said.err.count("something to say") == 4


def test_two_solves_at_once_bring_stdout_back(capfd, monkeypatch):
    """The one that ends first leaves stdout away; the other brings it back."""
    import os
    import threading

    import scipy.optimize

    milp, both, first_done = scipy.optimize.milp, threading.Barrier(2), threading.Event()

    def slow(*given, **more):
        if both.wait(timeout=60) == 0:
            assert first_done.wait(timeout=60)
        os.write(1, b"HiGHS has something to say\n")
        return milp(*given, **more)

    monkeypatch.setattr(scipy.optimize, "milp", slow)
    arrays = arrays_of(three(), {"size_mb": 31.0})

    def work():
        integer_program.minimise(arrays, arrays.loss, gap=0.0)
        first_done.set()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(1, b"a result\n")
    said = capfd.readouterr()
    assert said.out == "a result\n"
    assert said.err.count("something to say") == 2
