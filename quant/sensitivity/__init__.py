"""Sensitivity: what rounding one layer, in one window of steps, costs the picture. One file per tier.

    cell    a site, its weight or its activation, a window of steps (or all), and the bits it is rounded to
    row     a cell, a metric, its value with interval and noise; every metric is a cost: 0 where nothing
            changes, more where it is worse

Tiers measure the same cells at different prices. A tier file states `CARD = TierCard(...)` with literal
arguments and

    metrics(task) -> the metrics of its rows, in order
    rows(task) -> one list of rows for each cell of `task.cells`, in that order, as they are found

`task` is a `quant.sensitivity.task.Task`. Cells of 16 bits, and cells whose window no step falls into, cost
exactly 0 and never reach a tier. Writing the file is all it takes to join `quant.sensitivity.sweep.measure`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from ..card_files import CardFiles

Operand = Literal["weight", "activation"]


@dataclass(frozen=True)
class TierCard:
    """What a tier says about itself."""

    key: str
    title: str
    order: int  # the cheapest first
    metrics: tuple[str, ...]  # that every model has; `exact` has more where there are pictures
    operands: tuple[Operand, ...] = ("weight", "activation")  # whose cells it can measure
    passes: int = (
        1  # of the sampler for a sample, whatever cells there are; 0: the network is not evaluated
    )
    at_once: bool = False  # whether those passes serve all cells, however many
    backward: bool = False  # whether it differentiates every step, once for each random direction
    flips: bool = False  # whether it draws every cell by itself, from its window on
    stepwise: bool = False  # whether its rows have a number for every step
    evidence: Literal["measured", "simulated", "predicted"] = "simulated"  # of its numbers
    summary: str = ""

    @property
    def draws(self) -> bool:
        """Whether it evaluates the network."""
        return self.passes > 0

    def ways(self, both_ways: bool) -> int:
        """Drawings of a cell: with it alone rounded and, both ways, with everything but it."""
        return 2 if self.flips and both_ways else 1


_FILES = CardFiles(__name__, Path(__file__).parent, TierCard, "tier")


def list_tiers() -> dict[str, TierCard]:
    """Every tier's card by key, the cheapest first; imports none of them."""
    return dict(sorted(_FILES.cards.items(), key=lambda item: item[1].order))


def load_tier(key: str) -> ModuleType:
    """Import the module of one tier."""
    return _FILES.load(key)
