"""Metric groups apart: every split of the paper's scan solved, some of them drawn, the one that lost least taken.

Weights come first, with inputs in 16 bit; then inputs, with the weights that were taken.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quant.allocation import Allocation
from quant.decisions import Key, Label, Operand
from quant.errors import BadInput
from quant.group_budgets import Candidate, Split
from quant.metric_groups import Grouped, decided, grouped
from quant.mixed_precision import BITS_OF, FULL, THE_REST
from quant.schema import fingerprint
from quant.sensitivity.table import rows_of

from ..terminal import counted
from .drawn import Drawing
from .splits import SplitLog
from .task import Chosen, Task


@dataclass(frozen=True)
class Tried:
    """The splits of one operand's budget, and where they are kept until the plan is."""

    operand: Operand
    candidates: Sequence[Candidate]
    log: SplitLog

    @property
    def distinct(self) -> dict[int, dict[Key, Label]]:
        """What was decided, by place in the list; of equal ones the first."""
        found: dict[frozenset[tuple[Key, Label]], int] = {}
        for n, candidate in enumerate(self.candidates):
            if candidate.refused is None:
                found.setdefault(frozenset(decided(candidate).items()), n)
        return {n: decided(self.candidates[n]) for n in found.values()}


@dataclass(frozen=True)
class Scanned:
    """The groups of a table with all splits of its budgets."""

    grouped: Grouped
    tried: tuple[Tried, ...]

    def done(self) -> None:
        """The plan is kept: its splits are no longer needed."""
        for tried in self.tried:
            tried.log.remove()


def scanned(task: Task) -> Scanned:
    """Every split, solved; nothing is drawn. BadInput where none of an operand's can be kept.

    Raises Cancelled between two splits; those that are solved are kept.
    """
    request = task.request
    rows = rows_of(task.study.sensitivity(task.row["name"]), f"table {task.row['name']}")
    own = grouped(
        task.posed.blueprint,
        rows,
        metrics=request.group_metrics,
        pins=request.pins,
        ties=request.ties,
    )
    splits: dict[Operand, list[Split]] = {}
    for operand, name in BITS_OF.items():
        if name in request.budgets:
            target = request.budgets[name]
            splits[operand] = own.scan(operand, target) if request.scan else [(target, 1.0)]
    task.watch.plan(sum(map(len, splits.values())))
    tried = []
    for operand, asked in splits.items():
        found, log = _solved(task, own, operand, asked)
        if all(candidate.refused is not None for candidate in found):
            log.remove()
            name = BITS_OF[operand]
            bits = ", ".join(f"{group} at {b:.4g}" for group, b in found[0].bits.items())
            raise BadInput(
                f"no split of {name}={request.budgets[name]:g} can be kept; the first has {bits} bits: "
                f"{found[0].refused}"
            )
        tried.append(Tried(operand, found, log))
    return Scanned(own, tuple(tried))


def _solved(
    task: Task, own: Grouped, operand: Operand, splits: Sequence[Split]
) -> tuple[list[Candidate], SplitLog]:
    """The splits of one operand, those that an earlier attempt solved first."""
    request, watch = task.request, task.watch
    question = {
        "table": task.row["key"],
        "metrics": dict(own.metrics),
        "pins": list(request.pins),
        "ties": list(request.ties),
        "operand": operand,
        "splits": [list(split) for split in splits],
        "gap": request.gap,
        "limit": request.limit,
    }
    log = SplitLog(task.study.folder, fingerprint(question))
    found = log.candidates
    count = len(splits) - len(found)
    what = f"solving {counted(len(splits), 'split')} of {BITS_OF[operand]} between metric groups"
    watch.stage("solve", what, count, apart=True)
    watch.skip(len(found))
    began, left = time.perf_counter(), splits[len(found) :]
    solved = own.solved(operand, left, gap=request.gap, seconds=request.limit)
    for n, candidate in enumerate(log.keeping(solved), start=1):
        found.append(candidate)
        rest = (time.perf_counter() - began) / n * (count - n)
        watch.advance_to(n / count, count, rest)
    return found, log


def taken(task: Task, found: Scanned, drawing: Drawing | None) -> tuple[Chosen, dict[str, Any]]:
    """The plan, and what is said of groups and candidates.

    With `scan` so many different splits are drawn on the plan seeds, and the one with the least typical loss is taken; of
    weights first, with inputs in 16 bit where no pin says otherwise. Without it there is one split of each budget.
    """
    chosen = _untouched(found)
    parts: list[Allocation] = []
    told: dict[str, Any] = {"metrics": dict(found.grouped.metrics), "scan": task.request.scan}
    for tried in found.tried:
        drawn = _drawn(task, tried, chosen, drawing)
        best = min(drawn, key=lambda n: (drawn[n], n)) if drawn else min(tried.distinct)
        chosen |= decided(tried.candidates[best])
        parts += tried.candidates[best].allocations.values()
        told[BITS_OF[tried.operand]] = [
            _said(task, candidate, drawn.get(n), n == best)
            for n, candidate in enumerate(tried.candidates)
        ]
    return _joined(task, chosen, parts), told


def _untouched(found: Scanned) -> dict[Key, Label]:
    """Before any budget: 16 bits where they are a choice, else the least cost; pins and ties hold."""
    chosen: dict[Key, Label] = {THE_REST: "kept"}
    for items, labels in found.grouped.problem.sets():
        costs = dict.fromkeys(labels, 0.0)
        for choice in (choice for item in items for choice in item.choices):
            if choice.label in costs:
                costs[choice.label] += choice.loss
        label = FULL if FULL in costs else min(labels, key=lambda b: costs[b])
        chosen |= dict.fromkeys([item.key for item in items], label)
    return chosen


def _drawn(
    task: Task, tried: Tried, chosen: Mapping[Key, Label], drawing: Drawing | None
) -> dict[int, float]:
    """Typical loss of the splits that are drawn, by place in the list."""
    if drawing is None or not task.request.scan:
        return {}
    from quant.plan_loss import typical

    plans = {n: {**chosen, **own} for n, own in tried.distinct.items()}
    costs = {n: task.posed.cost(plan) for n, plan in plans.items()}
    picked = spread(plans, costs, task.request.scan)
    losses = {}
    for k, n in enumerate(picked, start=1):
        what = f"drawing split {k} of {len(picked)} of {BITS_OF[tried.operand]}"
        losses[n] = typical(drawing.loss(drawing.trial, task.posed.plan(plans[n]), what))
    return losses


def spread(
    plans: Mapping[int, Mapping[Key, Label]], costs: Mapping[int, float], count: int
) -> list[int]:
    """So many of the plans: in turn the one with the least cost, and the one that differs most from those picked."""
    left, picked = sorted(plans, key=lambda n: (costs[n], n)), list[int]()
    while left and len(picked) < count:
        apart = {n: min((_differ(plans[n], plans[m]) for m in picked), default=0) for n in left}
        best = max(left, key=lambda n: apart[n]) if len(picked) % 2 else left[0]
        picked.append(best)
        left.remove(best)
    return picked


def _differ(one: Mapping[Key, Label], other: Mapping[Key, Label]) -> int:
    return sum(other[key] != label for key, label in one.items())


def _said(task: Task, candidate: Candidate, drawn: float | None, taken: bool) -> dict[str, Any]:
    """One line of the list of candidates."""
    return {
        "target": candidate.target,
        "k": candidate.k,
        "bits": dict(candidate.bits),
        "refused": candidate.refused,
        "drawn": drawn,
        "taken": taken,
        "evidence": None if drawn is None else "simulated",
    }


def _joined(task: Task, chosen: Mapping[Key, Label], parts: Sequence[Allocation]) -> Chosen:
    """The groups' solutions as one; its gap is the largest of theirs, since their losses have no unit in common."""
    from quant.drafting import size_of_plan

    plan, loss = task.posed.plan(chosen), task.posed.cost(chosen)
    gap = max((part.gap for part in parts), default=0.0)
    bounds = {name for part in parts for name in part.binding}
    done = all(part.status == "optimal" for part in parts)
    allocation = Allocation(
        chosen=chosen,
        loss=loss,
        used=task.posed.used(chosen),
        bound=loss * (1 - gap),
        binding=tuple(name for name in task.request.budgets if name in bounds),
        seconds=sum(part.seconds for part in parts),
        status="optimal" if done else "time limit",
    )
    return Chosen(allocation, plan, size_of_plan(task.posed.blueprint, plan))
