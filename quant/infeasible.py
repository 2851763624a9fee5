"""Why no choices fit the budgets: the least that would, and the pins that are in the way.

Pins are named when without them all budgets could be kept: as few as possible, those first whose choice takes most beyond
the least of its item. Unpinning the named ones is enough.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Context, Decimal

import numpy as np

from .decision_arrays import Arrays, Picks, arrays_of
from .decisions import Problem
from .errors import BadInput
from .exchange import units
from .integer_program import minimise
from .pricing import least

_TRIES = 16  # plans that HiGHS takes for allowed by rounding
_DIGITS = 6
_NAMED = 5  # pinned cells that an error lists
_FEW = 32  # pins that are tried one by one


def within(
    arrays: Arrays, seconds: float, budgets: Sequence[int] | None = None, of: int | None = None
) -> Picks | None:
    """Some plan within the budgets, or the one that takes least of a resource; None when there is none.

    Raises BadInput when that could not be told in so many seconds.
    """
    kept = range(len(arrays.names)) if budgets is None else budgets
    zero = np.zeros_like(arrays.uses[0])
    excluded: list[Picks] = []
    for _ in range(_TRIES):
        solved = minimise(
            arrays,
            zero if of is None else arrays.uses[of],
            pair_objective=None if of is None else arrays.tables[of],
            budgets=kept,
            excluded=excluded,
            seconds=seconds,
        )
        if solved.infeasible:
            return None
        if solved.picks is None:
            break
        if all(arrays.excess(solved.picks, r) <= 0 for r in kept):
            return solved.picks
        excluded.append(solved.picks)
    raise BadInput(
        f"whether {_all(arrays, kept)} can be kept together was not found out in {seconds:g} s; raise one of them"
    )


def explain(problem: Problem, budgets: Mapping[str, float], seconds: float) -> BadInput:
    """The error for budgets that cannot be kept."""
    free = arrays_of(problem.unpinned(problem.pins), budgets, reduced=False)
    pins = _pins(free, problem)
    alone = [
        found
        for r in range(len(budgets))
        if (found := _alone(free, problem, pins, r, seconds)) is not None
    ]
    said = "; ".join(words for words, _ in alone)
    named = {n for _, sets in alone for n in sets or ()}
    if any(sets is None for _, sets in alone):
        return BadInput(said)
    rest = _with(free, pins, pins.keys() - named)
    if alone and within(rest, seconds) is not None:
        return BadInput(said)
    return BadInput(_together(free, problem, pins, seconds))


def _pins(free: Arrays, problem: Problem) -> dict[int, int]:
    """Column of the pinned choice, by set."""
    return {
        n: list(free.labels[n]).index(problem.pins[item.key])
        for n, items in enumerate(free.sets)
        for item in items
        if item.key in problem.pins
    }


def _with(free: Arrays, pins: Mapping[int, int], kept: Collection[int]) -> Arrays:
    """With the pins of these sets only."""
    allowed = free.allowed.copy()
    for n in kept:
        allowed[n] = False
        allowed[n, pins[n]] = True
    return replace(free, allowed=allowed)


def _least(arrays: Arrays, r: int, seconds: float) -> Picks:
    found = least(arrays, r)
    if found is None:
        found = within(arrays, seconds, budgets=(), of=r)
    assert found is not None  # without budgets there is always a plan
    return found


def _alone(
    free: Arrays, problem: Problem, pins: Mapping[int, int], r: int, seconds: float
) -> tuple[str, list[int] | None] | None:
    """What is said of one budget that cannot be kept even if it were the only one, and whose pins are named."""
    pinned = _with(free, pins, pins)
    picks = _least(pinned, r, seconds)
    excess = pinned.excess(picks, r)
    if excess <= 0:
        return None
    enough = _up(pinned, picks, r)
    without = _least(free, r, seconds)
    if free.excess(without, r) > 0:
        also = "" if np.array_equal(picks, without) else " with what is pinned"
        return (
            f"{_named(free, r)} is out of reach: the least that any choices take is "
            f"{_up(free, without, r)}; raise it to {enough}{also}"
        ), None
    gains = _gains(free, pins, r)
    if free.tables[r].any():
        gains = {n: -_total_without(free, pins, n, r, seconds) for n in pins}
    order = sorted(pins, key=lambda n: -gains[n])
    named = _shortest(
        order,
        lambda kept: free.excess(_least(_with(free, pins, kept), r, seconds), r) <= 0,
    )
    return (
        f"pinned cells already exceed {_named(free, r)} by {excess:.4g}: {_cells(free, problem, named)}; "
        f"unpin them or raise the budget to {enough}"
    ), named


def _total_without(
    free: Arrays, pins: Mapping[int, int], freed: int, r: int, seconds: float
) -> float:
    """The least that is taken when one set is no longer pinned."""
    picks = _least(_with(free, pins, [n for n in pins if n != freed]), r, seconds)
    return free.total(picks, r)


def _gains(free: Arrays, pins: Mapping[int, int], r: int) -> dict[int, float]:
    """What every pin takes beyond the least of its set."""
    use = np.where(free.allowed, free.uses[r], np.inf)
    return {n: float(use[n, c] - use[n].min()) for n, c in pins.items()}


def _shortest(order: Sequence[int], fits) -> list[int]:
    """The first few of these sets without whose pins it fits, and of few none that it does not take."""
    low, high = 0, len(order)  # it fits without the first `high`, not without the first `low`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(order[middle:]) else (middle, high)
    named = list(order[:high])
    if len(named) <= _FEW:
        for n in reversed(order[: high - 1]):
            if fits([*order[high:], *(m for m in order[:high] if m == n or m not in named)]):
                named.remove(n)
    return named


def _together(free: Arrays, problem: Problem, pins: Mapping[int, int], seconds: float) -> str:
    """What is said of budgets that can be kept one by one, not all at once."""
    pinned = _with(free, pins, pins)
    everything = tuple(range(len(free.names)))
    if pins and within(free, seconds) is not None:
        scale = units(free)
        relative = {n: sum(_gains(free, pins, r)[n] / scale[r] for r in everything) for n in pins}
        named = _shortest(
            sorted(pins, key=lambda n: -relative[n]),
            lambda kept: within(_with(free, pins, kept), seconds) is not None,
        )
        return (
            f"pinned cells leave no way to keep {_all(free, everything)} together: {_cells(free, problem, named)}; "
            f"unpin them or {_raise_last(pinned, seconds)}"
        )
    return f"{_all(free, everything)} cannot be kept together; {_raise_last(pinned, seconds)}"


def _raise_last(arrays: Arrays, seconds: float) -> str:
    """Which budget would have to be raised to what, if those before it stay."""
    for r in range(1, len(arrays.names)):
        picks = within(arrays, seconds, budgets=range(r), of=r)
        if picks is not None and arrays.excess(picks, r) > 0:
            before = _all(arrays, range(r))
            return f"raise {arrays.names[r]} to {_up(arrays, picks, r)}, which {before} needs"
    return "raise one of the budgets"


def _named(arrays: Arrays, r: int) -> str:
    return f"{arrays.names[r]}={arrays.bounds[r]:.10g}"


def _all(arrays: Arrays, budgets: Sequence[int]) -> str:
    return " and ".join(_named(arrays, r) for r in budgets)


def _cells(free: Arrays, problem: Problem, sets: Sequence[int]) -> str:
    """The pinned items of these sets, as people write them: a few, and how many more."""
    pins = problem.pins
    named = [i.key.at(pins[i.key]) for n in sets for i in free.sets[n] if i.key in pins]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return ", ".join(named[:_NAMED]) + more


def _up(arrays: Arrays, picks: Picks, r: int) -> str:
    """What a plan takes, rounded up to few digits, so that it would do as a budget."""
    total = Decimal(arrays.total(picks, r))
    digits = _DIGITS if total != int(total) else max(_DIGITS, len(str(int(total))))
    rounding = Context(prec=digits, rounding=ROUND_CEILING)
    text = rounding.plus(total)
    while arrays.excess(picks, r, float(text)) > 0:
        text = rounding.next_plus(text)
    return f"{text.normalize():f}"
