"""Changing one decision, or two at once: how a plan gets inside its budgets, and better within them.

A step takes one set of tied items to another choice while all others stay. Shapes are those of `quant.decision_arrays`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from .decision_arrays import Arrays, Numbers, Picks, add_at
from .decisions import Allocation, Status

_SWAPPED = 128  # steps that are tried in twos: a table of their square
_SWAPS = 64  # in a row
_LEAST = 1e-200  # smaller numbers count as 0


@dataclass(frozen=True, eq=False)
class Steps:
    """Every step from one plan."""

    loss: Numbers  # [N, C], change; infinite where there is no such choice
    use: Numbers  # [R, N, C], change
    now: Numbers  # [R], taken before

    def over(self, bounds: Numbers) -> Numbers:
        """[R, N, C], taken beyond the budgets after each step."""
        return self.now[:, None, None] + self.use - bounds[:, None, None]


def usage(arrays: Arrays, picks: Picks) -> Numbers:
    """[R]"""
    linear = arrays.uses[:, np.arange(len(picks)), picks].sum(1)
    pairs = np.arange(len(arrays.hubs))
    return linear + arrays.tables[:, pairs, picks[arrays.hubs], picks[arrays.leaves]].sum(1)


def steps_from(arrays: Arrays, picks: Picks) -> Steps:
    """What each step changes."""
    rows, pairs = np.arange(len(picks)), np.arange(len(arrays.hubs))
    loss = arrays.loss - arrays.loss[rows, picks][:, None]
    use = arrays.uses - arrays.uses[:, rows, picks][:, :, None]
    if len(pairs):
        of_hub, of_leaf = picks[arrays.hubs], picks[arrays.leaves]
        now = arrays.tables[:, pairs, of_hub, of_leaf][:, :, None]
        by_leaf = arrays.tables[:, pairs, of_hub]  # [R, P, C]
        by_hub = arrays.tables.swapaxes(2, 3)[:, pairs, of_leaf]  # [R, P, C]
        add_at(use, arrays.leaves, by_leaf - now)
        add_at(use, arrays.hubs, by_hub - now)
    return Steps(loss, use, usage(arrays, picks))


def units(arrays: Arrays) -> Numbers:
    """[R], what a budget is measured in, so that one counts like another: itself, or the most that a set takes."""
    most = arrays.uses.max((1, 2), initial=0.0) + arrays.tables.max((1, 2, 3), initial=0.0)
    return np.where(arrays.bounds > _LEAST, arrays.bounds, np.where(most > _LEAST, most, 1.0))


def repaired(arrays: Arrays, picks: Picks, prices: Numbers) -> Picks | None:
    """A plan within the budgets, by steps that cost little loss for what they free; None when they lead nowhere."""
    picks, scale = picks.copy(), units(arrays)[:, None, None]
    for _ in range(4 * arrays.loss.size):
        steps = steps_from(arrays, picks)
        before = np.maximum(steps.now - arrays.bounds, 0) / scale[:, 0, 0]
        if not before.any():
            return picks
        freed = before.sum() - (np.maximum(steps.over(arrays.bounds), 0) / scale).sum(0)
        useful = (freed > 1e-15) & np.isfinite(steps.loss)
        if not useful.any():
            return None
        cost = np.maximum(steps.loss + np.tensordot(prices, steps.use, 1), 0)
        worth = np.full(freed.shape, inf)
        worth[useful] = cost[useful] / freed[useful]
        # Of steps at the same price the one that frees most.
        least = worth.min()
        best = np.argmax(np.where(worth <= least * (1 + 1e-12), freed, -inf))
        n, c = divmod(int(best), arrays.loss.shape[1])
        picks[n] = c
    return None


def improved(arrays: Arrays, picks: Picks, prices: Numbers) -> Picks:
    """A plan within the budgets that no step makes better, nor any two of the most promising steps at once.

    Better is a smaller loss, or the same loss for less of the budgets.
    """
    picks = picks.copy()
    swaps = 0
    while True:
        steps = steps_from(arrays, picks)
        step = _single(arrays, steps)
        if step is not None:
            picks[step[0]] = step[1]
            continue
        pair = _double(arrays, steps, prices) if swaps < _SWAPS else None
        if pair is None:
            return picks
        swaps += 1
        for n, c in pair:
            picks[n] = c


def _single(arrays: Arrays, steps: Steps) -> tuple[int, int] | None:
    """The step within the budgets that takes most from the loss, or else from the budgets at the same loss."""
    fits = (steps.over(arrays.bounds) <= 0).all(0)
    gain = np.where(fits, steps.loss, inf)
    if gain.size and gain.min() < 0:
        return divmod(int(np.argmin(gain)), gain.shape[1])
    freed = (steps.use / units(arrays)[:, None, None]).sum(0)
    even = np.where(fits & (steps.loss == 0), freed, inf)
    if even.size and even.min() < -1e-12:
        return divmod(int(np.argmin(even)), even.shape[1])
    return None


def _double(arrays: Arrays, steps: Steps, prices: Numbers) -> list[tuple[int, int]] | None:
    """Two steps of sets that no pair connects, together within the budgets: as `_single`."""
    reduced = steps.loss + np.tensordot(prices, steps.use, 1)
    reduced = np.where((steps.loss == 0) & (steps.use == 0).all(0), inf, reduced).reshape(-1)
    order = np.argsort(reduced, kind="stable")[:_SWAPPED]
    order = order[np.isfinite(reduced[order])]
    if len(order) < 2:
        return None
    sets = order // arrays.loss.shape[1]
    loss = steps.loss.reshape(-1)[order]
    use = steps.use.reshape(len(arrays.names), -1)[:, order]
    both = loss[:, None] + loss[None]  # [K, K]
    apart = arrays.component[sets]
    possible = apart[:, None] != apart[None]
    for r, bound in enumerate(arrays.bounds):
        possible &= steps.now[r] + use[r][:, None] + use[r][None] <= bound
    k = int(np.argmin(np.where(possible, both, inf)))
    # A gain below rounding would go round in circles.
    if not (possible.flat[k] and both.flat[k] < -1e-12 * float(np.abs(loss).max())):
        freed = (use / units(arrays)[:, None]).sum(0)
        even = np.where(possible & (both == 0), freed[:, None] + freed[None], inf)
        k = int(np.argmin(even))
        if not even.flat[k] < -1e-12:
            return None
    width = arrays.loss.shape[1]
    i, j = divmod(k, len(order))
    return [divmod(int(order[i]), width), divmod(int(order[j]), width)]


def binding(arrays: Arrays, picks: Picks) -> tuple[str, ...]:
    """Budgets that some step to a smaller loss would exceed."""
    steps = steps_from(arrays, picks)
    over: NDArray[np.bool_] = steps.over(arrays.bounds) > 0
    wanted = steps.loss < 0
    return tuple(n for n, beyond in zip(arrays.names, over, strict=True) if (beyond & wanted).any())


def allocation(
    arrays: Arrays, picks: Picks, bound: float, seconds: float, status: Status
) -> Allocation:
    """What the picks of a solver mean."""
    loss = arrays.total_loss(picks)
    return Allocation(
        chosen=arrays.chosen(picks),
        loss=loss,
        used=arrays.used(picks),
        bound=max(0.0, min(bound, loss)),
        binding=binding(arrays, picks),
        seconds=seconds,
        status=status,
    )
