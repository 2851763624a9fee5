"""One budget split between groups of items, and the scan over splits of the paper.

ViDiT-Q-MP (https://arxiv.org/abs/2406.02540) judges each group by the metric that it controls: losses of two groups cannot
be added, so every group is allocated alone, under average bits B_g of its own:

    sum_g P_g B_g = B sum_g P_g,   B_g = k_g B_0     =>     B_0 = B sum_g P_g / sum_g k_g P_g

with P_g the numbers of a group (weights, or elements of activations) and B the average over all. For the content group c
and the quality group q, with k_q = 1, k_c = k and r = P_c / P_q, that is

    B_q = B (1 + r) / (1 + k r),   B_c = k B_q

Which split is best is not known before; the released scan of MixDQ (https://arxiv.org/abs/2405.17873) tries k (weights: 10
values from 0.46 to 1.36; activations: 20 from 0.94 to 1.09) and B (10 values from the target - 0.3 to the target), solves
every group inside a band of B_g +- 0.02, and picks by drawing with every candidate. Here B_g is an upper bound alone: bits
that a group can do without are not forced on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite

import numpy as np

from .allocation import Allocation, Key, Operand, Problem, solve
from .errors import BadInput, unknown

BELOW = 0.3  # bits below the target, where the scan of B begins
BUDGETS = 10  # values of B
SCAN: Mapping[Operand, tuple[float, float, int]] = {  # first and last k, how many
    "weight": (0.46, 1.36, 10),
    "activation": (0.94, 1.09, 20),
}


Split = tuple[float, float]  # B and k


@dataclass(frozen=True)
class Candidate:
    """One split of the scan, and what came of it."""

    target: float  # B, average bits over all groups
    k: float  # of the content group
    bits: Mapping[str, float]  # B_g, by group
    allocations: Mapping[str, Allocation] = field(default_factory=dict)  # by group
    refused: str | None = None  # why there are none


def group_budgets(
    sizes: Mapping[str, float], target: float, k: Mapping[str, float]
) -> dict[str, float]:
    """Average bits B_g of every group.

    Args:
        sizes: P_g, how many numbers a group has.
        target: B, average bits over all.
        k: k_g, relative to the groups that are not named, which have 1.

    Raises BadInput for groups without a size, and for numbers that are not positive.
    """
    for name in k:
        if name not in sizes:
            raise unknown("group", name, sizes)
    named = {"target": target, **{f"size of {g}": p for g, p in sizes.items()}}
    for what, value in [*named.items(), *((f"k of {g}", v) for g, v in k.items())]:
        if not isfinite(value) or value <= 0:
            raise BadInput(f"{what} is {value:g}; a number above 0 works")
    weighted = sum(k.get(g, 1.0) * p for g, p in sizes.items())
    base = target * sum(sizes.values()) / weighted  # B_0
    return {g: k.get(g, 1.0) * base for g in sizes}


def scan(target: float, operand: Operand, *, split: bool = True) -> list[Split]:
    """B and k of every candidate, in the released ranges; the largest B first.

    Without a content group there is nothing to split: k is 1, and B alone is tried.

    Raises BadInput for a target of which nothing is left.
    """
    if not isfinite(target) or target <= BELOW:
        raise BadInput(
            f"target {target:g} is no average of bits to scan below; above {BELOW} works"
        )
    averages = np.linspace(target, target - BELOW, BUDGETS)
    ratios = np.linspace(*SCAN[operand]) if split else (1.0,)
    return [(float(b), float(k)) for b in averages for k in ratios]


def candidates(
    problem: Problem,
    groups: Mapping[str, Collection[Key]],
    sizes: Mapping[str, float],
    splits: Iterable[Split],
    *,
    content: str | None,
    resource: str,
    units: Mapping[str, float],
    gap: float,
    seconds: float,
) -> Iterator[Candidate]:
    """Every split, each group solved alone.

    Args:
        problem: items of one operand; bits times numbers under the name of `resource`.
        groups: the items of every group, each item in one.
        sizes: P_g.
        splits: B and k of every candidate, as `scan` has them.
        content: the group that k belongs to; all others share a budget per number. None: there is none, and k is 1.
        resource: what bits are counted in.
        units: of every group, how much of the resource one bit of B_g is.
        gap: of every group's solution.
        seconds: for every group.

    Raises BadInput for groups that overlap, miss an item or are not named, and for items that are decided
    together across groups.
    """
    parts = _parts(problem, groups)
    if content is not None and content not in groups:
        raise unknown("group", content, groups)
    if set(sizes) != set(groups):
        raise BadInput(f"sizes are of {', '.join(sizes)}; groups are {', '.join(groups)}")
    for average, k in splits:
        bits = group_budgets(sizes, average, {} if content is None else {content: k})
        try:
            found = {
                g: solve(part, {resource: bits[g] * units[g]}, gap=gap, seconds=seconds)
                for g, part in parts.items()
            }
        except BadInput as error:
            yield Candidate(average, k, bits, refused=str(error))
        else:
            yield Candidate(average, k, bits, found)


def _parts(problem: Problem, groups: Mapping[str, Collection[Key]]) -> dict[str, Problem]:
    """The items of every group as a problem of its own."""
    owner: dict[Key, str] = {}
    for group, keys in groups.items():
        for key in keys:
            if key in owner:
                raise BadInput(f"{key} is in the groups {owner[key]} and {group}; one is enough")
            owner[key] = group
    items = {item.key for item in problem.items}
    strange = next((key for key in owner if key not in items), None)
    if strange is not None:
        raise unknown("item", strange, map(str, items))
    left = next((item.key for item in problem.items if item.key not in owner), None)
    if left is not None:
        raise BadInput(f"{left} is in no group; put it into one of {', '.join(groups)}")
    return {group: problem.only(keys) for group, keys in groups.items()}
