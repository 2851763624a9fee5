"""Plans near those that a solver finds, at random and from the most bits to the fewest: what predictions are held against.

Plan n of N takes, for every set i of tied items with choices c of loss l_i(c) that take b_i(c) bits of their operand,

    c_i = argmin_c  l_i(c) exp(SIGMA z_ni) + p_n b_i(c),    z normal,    p_n the n / (N - 1) quantile of all prices

This is the best plan under some budgets (Lagrange) for costs that are a little wrong, as those of any table are. Prices
are the slopes of the lower convex hulls of all (b_i, l_i), by the bits they are about: what a bit less costs wherever
that can be worth it. So plans go evenly from the most bits to the fewest. Weights and inputs have prices of their own; those of
every second plan's inputs are dealt in random order, so that many bits of one operand meet few of the other, too. Pins
and ties hold.

Plans of formats at random would tell less. At one sum of costs such a plan has a few bad cells among many that are nearly
free, one that was solved spreads, and what the first loses says little of what the second does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .decisions import Choice, Item, Key, Label, Operand, Problem
from .mixed_precision import BITS_OF

DESIGN = "near solved"  # how plans are drawn: calibrations on others are not taken for these
SIGMA = 0.5  # of the logarithm of a cost: a factor of 1.6


def random_plans(problem: Problem, count: int, seed: int = 0) -> list[dict[Key, Label]]:
    """So many plans; the same seed draws the same ones."""
    rng = np.random.default_rng(seed)
    sets = [_Set.of(items, labels) for items, labels in problem.sets()]
    levels = np.linspace(0, 1, count)
    prices = {operand: _prices(sets, operand, levels) for operand in BITS_OF}
    prices["activation"][1::2] = rng.permutation(prices["activation"][1::2])
    found = []
    for n in range(count):
        chosen: dict[Key, Label] = {}
        for one in sets:
            losses = one.losses * np.exp(SIGMA * rng.normal())
            label = one.labels[int(np.argmin(losses + prices[one.operand][n] * one.bits))]
            chosen |= dict.fromkeys(one.keys, label)
        found.append(chosen)
    return found


class _Set(NamedTuple):
    """Items that are decided together."""

    keys: tuple[Key, ...]
    labels: tuple[Label, ...]
    losses: np.ndarray  # of every label, float64[c]
    bits: np.ndarray  # that it takes of its operand's budget, float64[c]

    @classmethod
    def of(cls, items: Sequence[Item], labels: Sequence[Label]) -> _Set:
        name = BITS_OF[items[0].key.operand]
        bits = [sum(_choice(i, b).uses.get(name, 0.0) for i in items) for b in labels]
        keys = tuple(item.key for item in items)
        return cls(keys, tuple(labels), _losses(items, labels), np.array(bits))

    @property
    def operand(self) -> Operand:
        return self.keys[0].operand

    def steps(self) -> list[tuple[float, float]]:
        """Of the lower convex hull, from the fewest bits on: the loss that a bit more takes away, and the bits."""
        hull: list[int] = []
        for c in np.lexsort((self.losses, self.bits)):
            if hull and self.losses[c] >= self.losses[hull[-1]]:
                continue  # more bits for nothing
            while len(hull) > 1 and self._slope(hull[-1], c) >= self._slope(hull[-2], hull[-1]):
                hull.pop()
            hull.append(int(c))
        return [(self._slope(a, c), self.bits[c] - self.bits[a]) for a, c in pairwise(hull)]

    def _slope(self, a: int, c: int) -> float:
        return float((self.losses[a] - self.losses[c]) / (self.bits[c] - self.bits[a]))


def _prices(sets: Sequence[_Set], operand: Operand, levels: np.ndarray) -> np.ndarray:
    """What a bit is worth where so large a share of the bits is saved; 0 where there is nothing to decide."""
    steps = sorted(step for one in sets if one.operand == operand for step in one.steps())
    if not steps:
        return np.zeros(len(levels))
    slopes, bits = np.array(steps).T
    return np.exp(np.interp(levels, np.cumsum(bits) / bits.sum(), np.log(slopes)))


def _losses(items: Sequence[Item], labels: Sequence[Label]) -> np.ndarray:
    """Of every label, for all items together."""
    return np.array([sum(_choice(item, label).loss for item in items) for label in labels])


def _choice(item: Item, label: Label) -> Choice:
    return next(choice for choice in item.choices if choice.label == label)
