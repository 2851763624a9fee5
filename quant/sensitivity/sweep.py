"""One sweep: every cell of some sites by one tier, row by row, in an order that does not change.

The order is that of `cells_of`: operand, bits as they were asked for, sites as the model has them, all steps
before the windows. A cell's rows come together. So a sweep that was stopped goes on by being told which cells
are there (`done`), and ends with the table that one that was never stopped has: no row depends on what else is
measured in the same call. The exception is what it says: `*_saved` of tier `exact` is about all asked sites.
Tiers that measure all cells at once have no row before their last batch: they hand on what every batch gives, and
are told which batches are there (`kept`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import BadInput, unknown
from ..evaluate import Classifier
from ..models import Model
from ..schema import Sample, Sampler, Window
from ..seen import Seen
from . import TierCard, list_tiers, load_tier
from .cells import Batch, Bits, Cell, Row, cells_of, format_of
from .rounded import RoundedLayers
from .sampling import Counter, Drawer
from .task import Settings, Task


@dataclass(frozen=True)
class Outcome:
    """What one call of `measure` did."""

    tier: str
    cells: int  # of the whole sweep
    measured: int  # in this call
    seconds: float
    denoiser_calls: int  # batched network evaluations
    evaluations: int  # per sample, both guidance branches as one
    backward_calls: int
    naive_evaluations: int  # per sample, each of this call's cells drawn whole and by itself


def measure(
    tier: str,
    model: Model,
    sites: Sequence[str] | None,
    bits: Sequence[Bits],
    windows: Sequence[Window],
    samples: Sequence[Sample],
    sampler: Sampler,
    *,
    method: str = "rtn",
    options: Mapping[str, Any] | None = None,
    seen: Seen | None = None,
    classifier: Classifier | None = None,
    settings: Settings | None = None,
    counter: Counter | None = None,
    done: Collection[Cell] = frozenset(),
    kept: Sequence[Batch] = (),
    on_rows: Callable[[list[Row]], None] | None = None,
    on_batch: Callable[[Batch], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Measure every cell that is not done.

    Args:
        tier: key of a tier, one of `list_tiers()`.
        model: full precision; comes back as it was.
        sites: names; None for all that are not kept in 16 bit.
        bits: "2" to "8", "16", "fp8", "mxfp8", "mxfp4", "nvfp4", or formats.
        windows: half-open windows of steps, as `windows_for` cuts them.
        samples: what is drawn; tier `weight` draws nothing.
        sampler: scheduler, steps and guidance.
        method: makes the rounded layers; any whose layers stand alone.
        options: of the method.
        seen: a calibration, for methods and for tier `weight`.
        classifier: judges pictures of tier `exact`.
        settings: batches, random directions, both ways.
        counter: counts evaluations while they happen; a new one unless it is given.
        done: cells whose rows are there already.
        kept: batches of an earlier call with the same arguments, of tiers that measure all cells at once.
        on_rows: called with the rows of each cell, as soon as they are there; may raise `Cancelled`.
        on_batch: called with what each batch gave, as soon as it ends, by those tiers; may raise `Cancelled`.
        on_progress: called with (parts done, parts in all); may raise `Cancelled`.

    Raises BadInput for what cannot be measured, before anything is evaluated.
    """
    began = time.perf_counter()
    card = _card(tier)
    settings, windows = settings or Settings(), tuple(windows)
    names = _checked_sites(model, sites)
    _check(model, card, samples, windows)
    chosen = tuple(dict.fromkeys(bits))
    layers = RoundedLayers(model, names, method, options or {}, seen)
    for operand in card.operands:
        for b in chosen:
            layers.check(operand, b)
    every = cells_of(names, chosen, len(windows), card.operands, whole=settings.whole)
    there = set(done)
    left = tuple(cell for cell in every if cell not in there)
    counter = counter or Counter()
    before = replace(counter)
    drawer = Drawer(model, sampler, counter)
    task = Task(
        model=model,
        cells=left,
        sites=names,
        windows=windows,
        samples=tuple(samples),
        sampler=sampler,
        layers=layers,
        drawer=drawer,
        settings=settings,
        seen=seen,
        classifier=classifier,
        on_progress=on_progress,
        kept=tuple(kept),
        on_batch=on_batch,
    )
    for rows in _in_order(card, task):
        if on_rows is not None:
            on_rows(rows)
    ways = card.ways(settings.both_ways)
    return Outcome(
        tier=tier,
        cells=len(every),
        measured=len(left),
        seconds=time.perf_counter() - began,
        denoiser_calls=counter.calls - before.calls,
        evaluations=counter.evaluations - before.evaluations,
        backward_calls=counter.backward_calls - before.backward_calls,
        naive_evaluations=ways * len(left) * len(samples) * len(drawer.timesteps),
    )


def _in_order(card: TierCard, task: Task) -> Iterator[list[Row]]:
    """Rows of every cell; those that change nothing cost 0 without being measured."""
    module = load_tier(card.key)
    idle = [_idle(task, cell) for cell in task.cells]
    busy = tuple(cell for cell, nothing in zip(task.cells, idle, strict=True) if not nothing)
    found = module.rows(replace(task, cells=busy)) if busy else iter(())
    metrics = module.metrics(task) if any(idle) else ()
    values = [0.0] * (len(task.samples) if card.draws else 1)
    for cell, nothing in zip(task.cells, idle, strict=True):
        if not nothing:
            yield next(found)
        elif card.draws:
            yield [Row.of(cell, metric, values) for metric in metrics]
        else:
            yield [Row(cell=cell, metric=metric, value=0.0) for metric in metrics]
    for _ in found:  # lets a tier end as it would by itself
        raise RuntimeError(f"tier {card.key} gave rows for more cells than it was asked for")


def _idle(task: Task, cell: Cell) -> bool:
    """Whether the cell rounds nothing at all."""
    return format_of(cell.bits, cell.operand) is None or not task.steps_in(cell.window)


def _card(tier: str) -> TierCard:
    cards = list_tiers()
    if tier not in cards:
        raise unknown("tier", tier, cards)
    return cards[tier]


def _checked_sites(model: Model, sites: Sequence[str] | None) -> tuple[str, ...]:
    """Names in the order of the model."""
    kept = {site.name: site.kept_reason for site in model.sites}
    if sites is None:
        return tuple(name for name, reason in kept.items() if reason is None)
    for name in sites:
        if name not in kept:
            raise unknown("site", name, kept, f"List them: dqviz layers {model.ref}")
        if kept[name] is not None:
            raise BadInput(f"site {name} stays in 16 bit ({kept[name]}); leave it away")
    return tuple(name for name in kept if name in set(sites))


def _check(
    model: Model, card: TierCard, samples: Sequence[Sample], windows: tuple[Window, ...]
) -> None:
    if not windows:
        raise BadInput("a sweep needs at least one window; e.g. windows_for(sampler, 1)")
    if card.draws and not samples:
        raise BadInput(f"tier {card.key} draws, and no samples were given; e.g. 8 of them")
    if model.scratch is not None:
        raise BadInput(
            f"sensitivity of {model.key} needs all of it in memory; leave --low-memory away"
        )
