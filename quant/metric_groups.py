"""Metric-decoupled groups from a table: each ranked by its own metric, under average bits of its own. No torch in here.

ViDiT-Q-MP (https://arxiv.org/abs/2406.02540): layers damage what they make, the content (the match with the prompt), the
consistency over time, or what is seen. What one costs is told by the metric of its group alone, and costs of two groups
are not exchanged. `quant.group_budgets` splits one average between the groups; here are the groups of a table:

    minimise    sum over i in G of cost_i(c_i)                by the metric of G
    subject to  sum over i in G of n_i b_i <= B_G sum over i in G of n_i        for every G by itself

Weights and inputs are decided apart, weights first, as the paper's search does. Which metric stands for a group is
`quant.sensitivity.cells.METRICS_OF_GROUP`, of those that the table has: those of the paper (CLIP score, flow and video quality)
take weights that are not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum

from .blueprint import Blueprint
from .decisions import Item, Key, Label, Operand, Problem
from .errors import BadInput, unknown
from .group_budgets import Candidate, Split, candidates, scan
from .mixed_precision import BITS_OF, FULL, THE_REST, posed
from .sensitivity.cells import METRICS_OF_GROUP, Row, format_of, metric_of

CONTENT = "content"


@dataclass(frozen=True)
class Grouped:
    """A table's decisions, each with the costs by the metric of its group."""

    metrics: Mapping[str, str]  # by group, in the order of the sites
    problem: Problem
    groups: Mapping[str, tuple[Key, ...]]  # items of each

    @property
    def content(self) -> str | None:
        """The group that k is about; None where there is nothing to split."""
        return CONTENT if CONTENT in self.groups and len(self.groups) > 1 else None

    def scan(self, operand: Operand, target: float) -> list[Split]:
        """The paper's scan over averages and k, for these groups."""
        return scan(target, operand, split=self.content is not None)

    def solved(
        self, operand: Operand, splits: Iterable[Split], *, gap: float, seconds: float
    ) -> Iterator[Candidate]:
        """Of every split, each group solved within its share of the average of one operand, as it is asked for."""
        parts, problem, sizes = self._of(operand)
        return candidates(
            problem,
            parts,
            sizes,
            splits,
            content=self.content,
            resource=BITS_OF[operand],
            units=dict.fromkeys(sizes, 1.0),
            gap=gap,
            seconds=seconds,
        )

    def _of(self, operand: Operand) -> tuple[dict[str, list[Key]], Problem, dict[str, float]]:
        """Items of one operand by group, their problem, and how large a share of all numbers each group has.

        In the problem bits are averages over the item's group, not over everything.
        """
        parts = {g: [k for k in keys if k.operand == operand] for g, keys in self.groups.items()}
        problem = self.problem.only([key for keys in parts.values() for key in keys])
        items = {item.key: item for item in problem.items}
        sizes = {g: fsum(_share(items[key], operand) for key in keys) for g, keys in parts.items()}
        own = tuple(_scaled(items[key], 1 / sizes[g]) for g, keys in parts.items() for key in keys)
        return parts, replace(problem, items=own), sizes


def grouped(
    blueprint: Blueprint,
    rows: Iterable[Row],
    *,
    metrics: Mapping[str, str] | None = None,
    pins: Iterable[str] = (),
    ties: Iterable[str] = (),
) -> Grouped:
    """The decisions of a table by metric group.

    Args:
        blueprint: of its model.
        rows: of one sweep.
        metrics: by group; those that are not named take the best that the table has.
        pins: as `quant.mixed_precision.posed` takes them.
        ties: the same.

    Raises BadInput for groups that the model does not have, and metrics that the table does not have.
    """
    rows, pins, ties = list(rows), tuple(pins), tuple(ties)
    swept = {row.cell.site for row in rows}
    of_site = {site.name: site.group for site in blueprint.sites if site.name in swept}
    chosen = _metrics(dict.fromkeys(of_site.values()), rows, metrics or {})
    by_metric = {
        metric: posed(blueprint, rows, metric=metric, pins=pins, ties=ties)
        for metric in dict.fromkeys(chosen.values())
    }
    items: list[Item] = []
    groups: dict[str, tuple[Key, ...]] = {}
    for group, metric in chosen.items():
        own = [
            item
            for item in by_metric[metric].problem.items
            if item.key != THE_REST and of_site[item.key.site] == group
        ]
        items += own
        groups[group] = tuple(item.key for item in own)
    one = next(iter(by_metric.values())).problem
    return Grouped(chosen, Problem(tuple(items), pins=one.pins, ties=one.ties), groups)


def _metrics(
    groups: Iterable[str], rows: Sequence[Row], asked: Mapping[str, str]
) -> dict[str, str]:
    """Of every group, its own where one is named."""
    there = list(dict.fromkeys(row.metric for row in rows if row.value is not None))
    groups = list(groups)
    for group, metric in asked.items():
        if group not in METRICS_OF_GROUP:
            raise unknown("metric group", group, METRICS_OF_GROUP)
        if group not in groups:
            raise BadInput(
                f"this model has no layers of metric group {group}; it has {', '.join(groups)}"
            )
        if metric not in there:
            raise unknown("metric", metric, there, f"The table has: {', '.join(there)}")
    return {group: asked.get(group) or metric_of(group, there) for group in groups}


def _share(item: Item, operand: Operand) -> float:
    """Of all numbers of the operand."""
    choice = item.choices[0]
    fmt = format_of(str(choice.label), operand)
    return choice.uses[BITS_OF[operand]] / (FULL if fmt is None else fmt.bits)


def _scaled(item: Item, factor: float) -> Item:
    """The same with other units of what its choices take."""
    choices = (
        replace(c, uses={name: factor * use for name, use in c.uses.items()}) for c in item.choices
    )
    return replace(item, choices=tuple(choices))


def decided(candidate: Candidate) -> dict[Key, Label]:
    """What a candidate chose, in all groups."""
    return {k: b for part in candidate.allocations.values() for k, b in part.chosen.items()}
