"""A `Problem` with its budgets as arrays: what both solvers compute with.

Shapes: N sets of tied items, up to C choices of each, R budgets, P pairs of sets; M items, Q pairs before ties.

    loss [N, C], uses [R, N, C], tables [R, P, C, C]      padded: a choice that is not there has an infinite loss

Of choices that are no better than another one in their loss and in every budget, the other one is kept; of equal ones,
the one that takes less of what has no budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import fsum, inf

import numpy as np
from numpy.typing import NDArray

from .decisions import Choice, Item, Key, Label, Pair, Problem

SLACK = 1e-12  # of a budget of numbers that are not whole: the last digits of a sum of floats
Numbers = NDArray[np.float64]
Picks = NDArray[np.intp]  # [N], an index of a choice for every set


def add_at(total: Numbers, rows: Picks, parts: Numbers) -> None:
    """total [R, N, ...] += parts [R, K, ...], each part at its row, for every budget."""
    for one, part in zip(total, parts, strict=True):
        np.add.at(one, rows, part)


@dataclass(frozen=True, eq=False)
class Arrays:
    """One problem under named budgets."""

    problem: Problem
    names: tuple[str, ...]  # of the budgets
    bounds: Numbers  # [R], with the slack of `_allowance`
    sets: Sequence[tuple[Item, ...]]  # [N], items that are decided together
    labels: Sequence[Sequence[Label]]  # [N][C]
    owner: Picks  # [M], the set of every item
    each_loss: Numbers  # [M, C]
    each_use: Numbers  # [R, M, C]
    first: Picks  # [Q], sets of every pair
    second: Picks  # [Q]
    each_table: Numbers  # [R, Q, C, C]
    allowed: NDArray[np.bool_]  # [N, C]

    @cached_property
    def loss(self) -> Numbers:
        """[N, C]"""
        total = np.zeros((len(self.sets), self.each_loss.shape[1]))
        np.add.at(total, self.owner, self.each_loss)
        return np.where(self.allowed, total, inf)

    @cached_property
    def uses(self) -> Numbers:
        """[R, N, C]; a pair of tied items is one more use of their set."""
        total = np.zeros((len(self.names), *self.loss.shape))
        add_at(total, self.owner, self.each_use)
        alike = self.first == self.second
        diagonal = np.diagonal(self.each_table[:, alike], axis1=2, axis2=3)
        add_at(total, self.first[alike], diagonal)
        return total

    @cached_property
    def _joined(self) -> tuple[Picks, Picks, Numbers]:
        """Hubs [P], leaves [P] and tables [R, P, C, C]: one for every two sets."""
        apart = self.first != self.second
        ends = np.stack([self.first[apart], self.second[apart]], 1)
        found, place = np.unique(ends, axis=0, return_inverse=True)
        tables = np.zeros((len(self.names), len(found), *self.each_table.shape[2:]))
        add_at(tables, place.reshape(-1), self.each_table[:, apart])
        return found[:, 0], found[:, 1], tables

    @property
    def hubs(self) -> Picks:
        """[P]"""
        return self._joined[0]

    @property
    def leaves(self) -> Picks:
        """[P]"""
        return self._joined[1]

    @property
    def tables(self) -> Numbers:
        """[R, P, C, C], a hub's choice before a leaf's."""
        return self._joined[2]

    @cached_property
    def answers(self) -> Numbers:
        """[R, C, P, C], the tables with a leaf's choice first: the order in which the least of it is found fastest."""
        return np.ascontiguousarray(np.moveaxis(self.tables, 3, 1))

    @cached_property
    def degree(self) -> NDArray[np.intp]:
        """[N], pairs in which a set is the leaf."""
        return np.bincount(self.leaves, minlength=len(self.sets))

    @cached_property
    def component(self) -> Picks:
        """[N], equal for sets that pairs connect."""
        label = np.arange(len(self.sets))
        while True:
            before = label.copy()
            np.minimum.at(label, self.leaves, label[self.hubs])
            np.minimum.at(label, self.hubs, label[self.leaves])
            if (label == before).all():
                return label

    def total_loss(self, picks: Picks) -> float:
        """Rounded once."""
        return fsum(self.each_loss[np.arange(len(self.owner)), picks[self.owner]].tolist())

    def total(self, picks: Picks, r: int) -> float:
        """What is taken of one budget: the exact sum, rounded once."""
        linear = self.each_use[r, np.arange(len(self.owner)), picks[self.owner]]
        pairs = self.each_table[
            r, np.arange(len(self.first)), picks[self.first], picks[self.second]
        ]
        return fsum([*linear.tolist(), *pairs.tolist()])

    def excess(self, picks: Picks, r: int, bound: float | None = None) -> float:
        """What is taken beyond a bound, or the budget."""
        return self.total(picks, r) - float(self.bounds[r] if bound is None else bound)

    def fits(self, picks: Picks) -> bool:
        """Whether all budgets are kept by sums without rounding errors."""
        return all(self.excess(picks, r) <= 0 for r in range(len(self.names)))

    def chosen(self, picks: Picks) -> dict[Key, Label]:
        """The label of every item, in the order of the problem."""
        decided = {
            item.key: labels[pick]
            for items, labels, pick in zip(self.sets, self.labels, picks.tolist(), strict=True)
            for item in items
        }
        return {item.key: decided[item.key] for item in self.problem.items}

    def used(self, picks: Picks) -> dict[str, float]:
        """Every resource, also those without a budget."""
        chosen = self.chosen(picks)
        parts: dict[str, list[float]] = {name: [] for name in self.problem.resources}
        for item in self.problem.items:
            decided = next(c for c in item.choices if c.label == chosen[item.key])
            for name, use in decided.uses.items():
                parts[name].append(use)
        for pair in self.problem.pairs:
            parts[pair.resource].append(pair.table[chosen[pair.first], chosen[pair.second]])
        return {name: fsum(values) for name, values in parts.items()}


def arrays_of(problem: Problem, budgets: Mapping[str, float], *, reduced: bool = True) -> Arrays:
    """The problem under these budgets.

    Args:
        problem: with pins and ties.
        budgets: upper bounds by resource.
        reduced: without choices that another one makes superfluous; not where pins may name those.
    """
    names = tuple(budgets)
    sets = problem.sets()
    ordered = [(items, _thriftiest_first(items, labels)) for items, labels in sets]
    width = max((len(labels) for _, labels in ordered), default=1)
    count = sum(len(items) for items, _ in ordered)
    loss, use = np.zeros((count, width)), np.zeros((len(names), count, width))
    owner = np.zeros(count, dtype=np.intp)
    place: dict[Key, int] = {}
    row = 0
    for n, (items, labels) in enumerate(ordered):
        for item in items:
            by_label = {choice.label: choice for choice in item.choices}
            found = [by_label[label] for label in labels]
            loss[row, : len(found)] = [c.loss for c in found]
            for r, name in enumerate(names):
                use[r, row, : len(found)] = [c.uses.get(name, 0.0) for c in found]
            owner[row], place[item.key] = n, n
            row += 1
    labels_of = [labels for _, labels in ordered]
    pairs = [pair for pair in problem.pairs if pair.resource in budgets]
    allowed = np.arange(width)[None] < np.array([len(x) for x in labels_of], dtype=int)[:, None]
    found = Arrays(
        problem=problem,
        names=names,
        bounds=np.array([_allowance(problem, name, budgets[name]) for name in names]),
        sets=[items for items, _ in ordered],
        labels=labels_of,
        owner=owner,
        each_loss=loss,
        each_use=use,
        first=np.array([place[p.first] for p in pairs], dtype=np.intp),
        second=np.array([place[p.second] for p in pairs], dtype=np.intp),
        each_table=_tables(pairs, names, labels_of, place, width),
        allowed=allowed.reshape(len(ordered), width),
    )
    if reduced:
        found.allowed[_superfluous(found)] = False
        found.__dict__.pop("loss", None)
    return found


def _allowance(problem: Problem, name: str, budget: float) -> float:
    """A budget of whole numbers as it is; others, seconds say, with what adding floats in another order may change."""
    linear = (c.uses.get(name, 0.0) for item in problem.items for c in item.choices)
    pairs = (use for p in problem.pairs if p.resource == name for use in p.table.values())
    whole = all(float(use).is_integer() for use in (*linear, *pairs))
    return float(budget) if whole else budget * (1 + SLACK)


def _thriftiest_first(items: tuple[Item, ...], labels: tuple[Label, ...]) -> tuple[Label, ...]:
    """Labels by all that they take, each resource in units of the most that a choice takes."""
    if len(labels) == 1:
        return labels
    by_label: dict[Label, list[Choice]] = {label: [] for label in labels}
    most: dict[str, float] = {}
    for item in items:
        for choice in item.choices:
            if choice.label in by_label:
                by_label[choice.label].append(choice)
                for name, use in choice.uses.items():
                    most[name] = max(most.get(name, 0.0), use)

    def taken(label: Label) -> float:
        return sum(use / most[n] for c in by_label[label] for n, use in c.uses.items() if use)

    return tuple(sorted(labels, key=taken))


def _tables(
    pairs: Sequence[Pair],
    names: Sequence[str],
    labels: Sequence[Sequence[Label]],
    place: Mapping[Key, int],
    width: int,
) -> Numbers:
    """[R, Q, C, C]"""
    tables = np.zeros((len(names), len(pairs), width, width))
    for q, pair in enumerate(pairs):
        rows, columns = labels[place[pair.first]], labels[place[pair.second]]
        block = [[pair.table[one, other] for other in columns] for one in rows]
        tables[names.index(pair.resource), q, : len(rows), : len(columns)] = block
    return tables


def _superfluous(arrays: Arrays) -> NDArray[np.bool_]:
    """[N, C], choices that some other one of the set can always replace."""
    loss, uses = arrays.loss, arrays.uses
    # [N, c, d]: d is nowhere worse than c, and somewhere better
    no_worse = loss[:, None, :] <= loss[:, :, None]
    better = loss[:, None, :] < loss[:, :, None]
    for use in uses:
        no_worse &= use[:, None, :] <= use[:, :, None]
        better |= use[:, None, :] < use[:, :, None]
    for table in arrays.tables:  # [P, C, C]
        for ends, rows, there in (
            (arrays.hubs, table, arrays.allowed[arrays.leaves]),
            (arrays.leaves, table.swapaxes(1, 2), arrays.allowed[arrays.hubs]),
        ):
            mine, other = rows[:, :, None], rows[:, None]  # [P, c, 1, x], [P, 1, d, x]
            absent = ~there[:, None, None]
            np.logical_and.at(no_worse, ends, ((other <= mine) | absent).all(3))
            np.logical_or.at(better, ends, ((other < mine) & ~absent).any(3))
    earlier = np.tri(loss.shape[1], k=-1, dtype=bool)  # d before c
    return arrays.allowed & (no_worse & (better | earlier) & arrays.allowed[:, None]).any(2)
