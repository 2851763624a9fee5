"""Choices under budgets as a mixed-integer linear program, solved by HiGHS through scipy.

    min   sum_n sum_c loss_nc x_nc
    s.t.  sum_c x_nc = 1
          sum_a p_wa = x_w,  sum_w p_wa = y_a                        for every pair of x (w) and y (a)
          sum_nc use_rnc x_nc + sum_pairs table_rwa p_wa <= budget_r
          x in {0, 1},  p >= 0

With x whole so is p: the rows of one pair are those of a transportation problem.

HiGHS works with absolute tolerances (1e-6 of a row and of the objective), so rows and objective are scaled: losses are
counted from every set's least, in units in which the largest that may matter is 1e4; a budget of whole numbers in
their greatest common divisor, others with 1e3 for the largest. What is then still beyond a budget by rounding the caller
sees in exact arithmetic, and may exclude.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite

import numpy as np
from numpy.typing import NDArray

from .decision_arrays import Arrays, Numbers, Picks

_OBJECTIVE = 1e4
_ROW = 1e3
FEASIBLE = 2e-9  # of the largest number in a row, above what HiGHS overlooks
_WHOLE = 2.0**52  # beyond this, floats skip whole numbers
_LEAST = 1e-200  # smaller numbers count as 0
_COUNT = 1e6  # largest coefficient of a row of whole numbers


@dataclass(frozen=True)
class Solved:
    """What HiGHS says."""

    picks: Picks | None  # None: none found
    bound: float  # of the objective as it was given
    done: bool  # the gap was reached, or it is proven that nothing fits
    infeasible: bool


def minimise(
    arrays: Arrays,
    objective: Numbers,
    *,
    pair_objective: Numbers | None = None,
    kept: NDArray[np.bool_] | None = None,
    budgets: Sequence[int] | None = None,
    margin: Numbers | None = None,
    excluded: Sequence[Picks] = (),
    reached: float | None = None,
    gap: float = 1e-4,
    seconds: float = 10.0,
) -> Solved:
    """The choices with the least sum of an objective.

    Args:
        arrays: items, pairs and budgets.
        objective: [N, C].
        pair_objective: [P, C, C], or nothing.
        kept: [N, C], the choices that may be taken; those of `arrays` by default.
        budgets: which of them hold; all by default.
        margin: [R], by how much budgets are made smaller.
        excluded: plans that must not come out again.
        reached: a sum that is known to be possible; sets the scale.
        gap: relative, of the sum beyond every set's least.
        seconds: after which the best so far is taken.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, vstack

    model = _Model(arrays, arrays.allowed if kept is None else kept)
    cost, base = model.flat(objective, pair_objective)
    most = float(cost.max(initial=0.0))
    span = most if reached is None or reached <= base else max(reached - base, _LEAST * most)
    scale = _OBJECTIVE / max(span, _LEAST)
    rows = [model.ones(), *model.links()]
    low = [np.ones(len(arrays.sets)), np.zeros(sum(r.shape[0] for r in rows[1:]))]
    high = list(low)
    for r in range(len(arrays.names)) if budgets is None else budgets:
        take, offset = model.flat(arrays.uses[r], arrays.tables[r])
        upper = arrays.bounds[r] - offset - (0.0 if margin is None else margin[r])
        row, upper = _scaled(take, upper, offset)
        rows.append(csr_array(row[None]))
        low.append(np.array([-np.inf]))
        high.append(np.array([upper]))
    for picks in excluded:
        rows.append(csr_array(model.taken(picks)[None]))
        low.append(np.array([-np.inf]))
        high.append(np.array([len(arrays.sets) - 1.0]))
    bounds_of = LinearConstraint(vstack(rows), np.concatenate(low), np.concatenate(high))  # type: ignore[arg-type]
    with _SAID_ON_STDERR:
        solved = milp(
            cost * scale,
            integrality=model.whole,
            bounds=Bounds(0, 1),
            constraints=bounds_of,
            options={"mip_rel_gap": gap, "time_limit": max(seconds, 0.01)},
        )
    bound = getattr(solved, "mip_dual_bound", None)
    known = bound is not None and isfinite(bound)
    return Solved(
        picks=None if solved.x is None else model.picks(solved.x),
        bound=(bound / scale if known and bound is not None else 0.0) + base,
        done=solved.status in (0, 2),
        infeasible=solved.status == 2,
    )


class _SaidOnStderr:
    """HiGHS has lines of its own that no option silences, written past Python: stdout is for results.

    Descriptors belong to the whole process: of solves in several threads the first moves stdout away, the last brings it back.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._kept = threading.Lock(), 0, -1

    def __enter__(self) -> None:
        sys.stdout.flush()
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            try:
                self._kept = os.dup(1)
            except OSError:  # a process without one
                self._kept = -1
                return
            os.dup2(2, 1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside or self._kept < 0:
                return
            os.dup2(self._kept, 1)
            os.close(self._kept)


_SAID_ON_STDERR = _SaidOnStderr()


def largest(arrays: Arrays) -> Numbers:
    """[R], the most that one decision takes of each resource."""
    return np.maximum(
        arrays.uses.max((1, 2), initial=0.0), arrays.tables.max((1, 2, 3), initial=0.0)
    )


def _scaled(take: Numbers, upper: float, offset: float) -> tuple[Numbers, float]:
    """A row and its bound in units that tolerances of 1e-6 suit."""
    unit = _divisor(take, offset)
    if unit:
        return take / unit, float(floor(upper / unit + 1e-9))
    most = max(float(take.max(initial=0.0)), _LEAST)
    return take / most * _ROW, upper / most * _ROW


def _divisor(take: Numbers, offset: float) -> float | None:
    """Of numbers that are whole, and few of their greatest common divisor; None for others."""
    largest = float(take.max(initial=0.0))
    if not 0 < largest < _WHOLE or offset >= _WHOLE or (take != np.rint(take)).any():
        return None
    unit = float(np.gcd.reduce(take.astype(np.int64)))
    return unit if largest / unit <= _COUNT else None


class _Model:
    """Columns of the program: x for every choice that may be taken, then p for every two of a pair."""

    def __init__(self, arrays: Arrays, kept: NDArray[np.bool_]) -> None:
        self.arrays, self.kept = arrays, kept
        self.sets, self.choices = np.nonzero(kept)
        self.column = np.full(kept.shape, -1)
        self.column[self.sets, self.choices] = np.arange(len(self.sets))
        both = kept[arrays.hubs][:, :, None] & kept[arrays.leaves][:, None, :]
        self.pair, self.one, self.other = np.nonzero(both)
        self.size = len(self.sets) + len(self.pair)
        self.whole = np.concatenate([np.ones(len(self.sets)), np.zeros(len(self.pair))])

    def flat(self, single: Numbers, double: Numbers | None) -> tuple[Numbers, float]:
        """Coefficients of all columns, counted from the least of every set, and what those sum up to."""
        values = np.where(self.kept, single, np.inf)
        least = values.min(1)
        own = values[self.sets, self.choices] - least[self.sets]
        if double is None:
            return np.concatenate([own, np.zeros(len(self.pair))]), float(least.sum())
        joint = double[self.pair, self.one, self.other]
        base = np.full(len(self.arrays.hubs), np.inf)
        np.minimum.at(base, self.pair, joint)
        return np.concatenate([own, joint - base[self.pair]]), float(least.sum() + base.sum())

    def ones(self):
        """[N, columns]: one choice for every set."""
        from scipy.sparse import csr_array

        entries = (np.ones(len(self.sets)), (self.sets, np.arange(len(self.sets))))
        return csr_array(entries, shape=(len(self.arrays.sets), self.size))

    def links(self) -> list:
        """Two blocks of rows: what p sums up to over the second item, and over the first."""
        from scipy.sparse import csr_array

        if not len(self.pair):
            return []
        blocks = []
        columns = len(self.sets) + np.arange(len(self.pair))
        for ends, picked in ((self.arrays.hubs, self.one), (self.arrays.leaves, self.other)):
            keys = np.stack([self.pair, picked], 1)
            found, row = np.unique(keys, axis=0, return_inverse=True)
            owner = self.column[ends[found[:, 0]], found[:, 1]]
            values = np.concatenate([np.ones(len(self.pair)), -np.ones(len(found))])
            place = np.concatenate([row.reshape(-1), np.arange(len(found))])
            where = (place, np.concatenate([columns, owner]))
            blocks.append(csr_array((values, where), shape=(len(found), self.size)))
        return blocks

    def taken(self, picks: Picks) -> Numbers:
        """[columns]: 1 at the choices of a plan."""
        row = np.zeros(self.size)
        columns = self.column[np.arange(len(picks)), picks]
        row[columns[columns >= 0]] = 1.0
        return row

    def picks(self, x: Numbers) -> Picks:
        """[N], the choice of every set in a solution."""
        values = np.full(self.kept.shape, -1.0)
        values[self.sets, self.choices] = x[: len(self.sets)]
        return values.argmax(1)
