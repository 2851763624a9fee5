"""Choices under budgets in milliseconds, with a proven gap: for a slider that is being dragged.

Every budget r gets a price q_r >= 0. With prices the items part, and whatever the prices are

    L(q) = min_c  sum_i loss_i(c_i) + sum_r q_r use_r(c)  -  sum_r q_r budget_r

is no larger than the least loss within the budgets (weak duality; Everett 1963, Geoffrion 1974). The prices with the
largest L are sought: budget by budget by bisection, which is enough for one, then with ellipsoids that shrink around
them (Shor 1977, Yudin and Nemirovski 1976). What the prices choose is brought within the budgets and improved there by
`quant.exchange`. Prices only ever choose corners of the convex hull of an item's choices; what lies inside is reached by
those steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import numpy as np

from .decision_arrays import Arrays, Numbers, Picks, arrays_of
from .decisions import Allocation, Problem, check_budgets
from .exchange import allocation, improved, repaired, units, usage
from .infeasible import explain, within
from .pricing import relaxed

_ROUNDS = 3  # of bisection over all budgets
_ELLIPSOIDS = 48  # per budget
_TINY, _HUGE = 1e-24, 1e24  # prices, in losses per budget


@dataclass(eq=False)
class Search:
    """What was found so far."""

    arrays: Arrays
    scale: Numbers  # [R], of prices
    bound: float = -inf
    prices: Numbers = field(default_factory=lambda: np.zeros(0))
    picks: Picks | None = None  # within the budgets
    loss: float = inf
    nearest: Picks | None = None  # of the best prices, perhaps beyond the budgets

    def at(self, prices: Numbers) -> Numbers:
        """[R], what is taken beyond the budgets at these prices: a slope of L."""
        picks, value = relaxed(self.arrays, prices)
        over = usage(self.arrays, picks) - self.arrays.bounds
        if value > self.bound:
            self.bound, self.prices, self.nearest = value, prices.copy(), picks
        if (over <= 0).all():
            self.keep(picks)
        return over

    def keep(self, picks: Picks | None) -> None:
        """Remember a plan if it is within the budgets, exactly, and the best so far."""
        if picks is None or not self.arrays.fits(picks):
            return
        loss = self.arrays.total_loss(picks)
        if loss < self.loss:
            self.picks, self.loss = picks.copy(), loss


def search(arrays: Arrays) -> Search:
    """The best prices and the best plan that were found; `picks` is None when no plan was."""
    found = Search(arrays, _price_units(arrays), prices=np.zeros(len(arrays.names)))
    found.at(found.prices)
    if found.picks is not None:  # the least loss of all
        found.bound = found.loss
        return found
    prices = _bisected(found)
    if len(arrays.names) > 1:
        _ellipsoids(found, prices)
    starts = [found.picks, found.nearest]
    if found.picks is None:
        starts += [relaxed(arrays, _HUGE * found.scale * axis)[0] for axis in _corners(arrays)]
    for start in starts:
        ready = None if start is None else repaired(arrays, start, found.prices)
        if ready is not None:
            found.keep(ready)
            found.keep(improved(arrays, ready, found.prices))
    return found


def _price_units(arrays: Arrays) -> Numbers:
    finite = np.where(arrays.allowed, arrays.loss, 0.0)
    total = float(finite.max(1, initial=0.0).sum())
    return (total or 1.0) / units(arrays)


def _corners(arrays: Arrays) -> Numbers:
    return np.vstack([np.ones(len(arrays.names)), np.eye(len(arrays.names))])


def _bisected(found: Search) -> Numbers:
    """One price after the other, each where its budget is just kept, the others as they are."""
    count = len(found.scale)
    prices = np.zeros(count)
    for _ in range(1 if count == 1 else _ROUNDS):
        before = prices.copy()
        for r in range(count):
            prices[r] = 0.0
            if found.at(prices)[r] <= 0:
                continue
            low, high = np.log(_TINY), np.log(_HUGE)
            for _ in range(44 if count == 1 else 18):
                middle = (low + high) / 2
                prices[r] = np.exp(middle) * found.scale[r]
                low, high = (middle, high) if found.at(prices)[r] > 0 else (low, middle)
            prices[r] = np.exp(high) * found.scale[r]
        if np.allclose(prices, before, rtol=1e-3, atol=0):
            break
    return prices


def _ellipsoids(found: Search, prices: Numbers) -> None:
    """Prices z q~ with z in a ball around what bisection found; every step halves it by the slope of -L."""
    n = len(prices)
    worth = prices @ (1 / found.scale) or 1.0
    unit = np.where(prices > 0, prices, worth * found.scale)
    z, shape = np.where(prices > 0, 1.0, 0.0), 4.0 * np.eye(n)
    for _ in range(_ELLIPSOIDS * n):
        negative = z < 0
        slope = np.where(negative, -1.0, 0.0) if negative.any() else -found.at(z * unit) * unit
        length = float(np.sqrt(max(slope @ shape @ slope, 0.0)))
        if not length > 0:
            return
        step = shape @ slope / length
        z = z - step / (n + 1)
        shape = n * n / (n * n - 1) * (shape - 2 / (n + 1) * np.outer(step, step))


def prepared(problem: Problem, budgets: Mapping[str, float], seconds: float) -> Search:
    """A search that has a plan within the budgets; BadInput says why there is none.

    Where the steps of `quant.exchange` do not find one, an integer program looks for it, for so many seconds.
    """
    check_budgets(problem, budgets)
    arrays = arrays_of(problem, budgets)
    found = search(arrays)
    if found.picks is None:
        ready = within(arrays, seconds)
        if ready is None:
            raise explain(problem, budgets, seconds)
        found.keep(ready)
        found.keep(improved(arrays, ready, found.prices))
    return found


def solve(problem: Problem, budgets: Mapping[str, float]) -> Allocation:
    """Choices within the budgets at a small loss, at once.

    Args:
        problem: what is decided.
        budgets: upper bounds by resource; without any, every item takes its least loss.

    Raises BadInput where nothing fits, with the least that would and the pins that are in the way. To tell that
    takes longer.
    """
    began = time.perf_counter()
    found = prepared(problem, budgets, seconds=10.0)
    assert found.picks is not None  # `prepared` raises otherwise
    took = time.perf_counter() - began
    return allocation(found.arrays, found.picks, found.bound, took, "heuristic")
