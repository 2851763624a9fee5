"""Which format every weight takes, and every activation in every window, at the least loss within budgets.

The integer program of MixDQ and ViDiT-Q-MP (https://arxiv.org/abs/2405.17873, section 3.4; https://arxiv.org/abs/2406.02540),
with any number of budgets instead of a band around one, and resources that a weight and an activation take together:

    minimise    sum_i loss_i(c_i)
    subject to  sum_i use_ir(c_i) + sum_(i,j) table_ijr(c_i, c_j)  <=  budget_r    for every budget r

`quant.lagrangian` finds a plan and a bound first. Choices that the bound shows to be in no better plan are left away, and
HiGHS decides among the rest (`quant.integer_program`). A weight is decided once, for all windows: what it takes is storage,
and a stored tensor does not become smaller in some steps. An activation is decided for every window.

Ties are broken the same way always: of choices of one item the one that takes less, of plans that differ in one decision the
one that takes less of the budgets.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from .decision_arrays import Arrays, Picks
from .decisions import (
    Allocation,
    Choice,
    Item,
    Key,
    Label,
    Operand,
    Pair,
    Problem,
    Status,
)
from .errors import BadInput
from .exchange import allocation, improved, repaired
from .integer_program import FEASIBLE, largest, minimise
from .lagrangian import Search, prepared
from .pricing import reduced_costs

__all__ = [
    "Allocation",
    "Choice",
    "Item",
    "Key",
    "Label",
    "Operand",
    "Pair",
    "Problem",
    "Status",
    "solve",
]

_TRIES = 12  # calls of HiGHS
_EXCLUDED = (
    3  # plans that it takes for allowed by rounding, before budgets are made smaller by as much
)
_ROUNDING = 1e-9  # of a loss, by which a bound may be wrong
_CANCELLED = 1e-13  # of the worth of all budgets, lost in differences


def solve(
    problem: Problem,
    budgets: Mapping[str, float],
    *,
    gap: float = 1e-4,
    seconds: float = 10.0,
) -> Allocation:
    """The choices with the least loss within all budgets.

    Args:
        problem: what is decided, what is pinned, and what is tied.
        budgets: upper bounds by resource, in its unit; without any, every item takes its least loss.
        gap: how much more than the least loss is good enough, relative; 0 for the least itself.
        seconds: after which the best so far is taken, with the gap that is proven by then.

    Raises BadInput where nothing fits, with the least that would and the pins that are in the way, and for
    budgets of what nothing takes.
    """
    if not 0 <= gap < 1:
        raise BadInput(f"gap {gap:g} is out of range; 0 (the least loss) to below 1, say 0.0001")
    if not seconds > 0:
        raise BadInput(f"{seconds:g} seconds is no time; say 10")
    began = time.perf_counter()
    found = prepared(problem, budgets, seconds)
    assert found.picks is not None  # `prepared` raises otherwise
    proof = _Proof(found.picks, found.loss, found.bound)
    if not proof.within(gap):
        left = max(seconds - (time.perf_counter() - began), 0.1 * seconds)
        proof = _proved(found, proof, gap, left)
    took = time.perf_counter() - began
    done = proof.done or proof.within(gap + _ROUNDING)
    return allocation(
        found.arrays, proof.picks, proof.bound, took, "optimal" if done else "time limit"
    )


@dataclass
class _Proof:
    """The best plan so far, and what none can be better than."""

    picks: Picks
    loss: float
    bound: float
    done: bool = False

    def within(self, gap: float) -> bool:
        return self.loss - self.bound <= gap * self.loss


def _proved(found: Search, proof: _Proof, gap: float, seconds: float) -> _Proof:
    """The same with HiGHS at work, for so many seconds."""
    arrays, until = found.arrays, time.perf_counter() + seconds
    spare = proof.loss - found.bound + _ROUNDING * proof.loss
    spare += _CANCELLED * float(found.prices @ arrays.bounds)
    kept = arrays.allowed & (reduced_costs(arrays, found.prices) <= spare)
    if not kept.any(1).all():  # no plan but this one is as good
        return _Proof(proof.picks, proof.loss, proof.loss, done=True)
    excluded: list[Picks] = []
    margin = np.zeros(len(arrays.names))
    for _ in range(_TRIES):
        left = until - time.perf_counter()
        if left <= 0:
            break
        solved = minimise(
            arrays,
            arrays.loss,
            kept=kept,
            margin=margin,
            excluded=excluded,
            reached=proof.loss,
            gap=gap,
            seconds=left,
        )
        if margin.any():  # of a smaller problem: no bound, no proof
            solved = replace(solved, bound=-inf, done=False, infeasible=False)
        if solved.infeasible:
            proof.bound, proof.done = proof.loss, True
            break
        proof.bound = max(proof.bound, min(solved.bound, proof.loss))
        if solved.picks is None:
            break
        fits = arrays.fits(solved.picks)
        _take(proof, arrays, solved.picks, found)
        if fits or proof.within(gap):
            proof.done = solved.done
            break
        excluded.append(solved.picks)
        if len(excluded) > _EXCLUDED:
            over = [max(0.0, arrays.excess(solved.picks, r)) for r in range(len(margin))]
            margin = 2 * (margin + np.array(over)) + FEASIBLE * largest(arrays)
    return proof


def _take(proof: _Proof, arrays: Arrays, picks: Picks, found: Search) -> None:
    """Keep a plan of HiGHS, or what steps make of it, where it is the best so far."""
    ready = repaired(arrays, picks, found.prices)
    for plan in (picks, None if ready is None else improved(arrays, ready, found.prices)):
        if plan is None or not arrays.fits(plan):
            continue
        loss = arrays.total_loss(plan)
        if loss <= proof.loss:
            proof.picks, proof.loss = plan, loss
