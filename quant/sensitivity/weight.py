"""Tier 1: the error of the weight alone, seconds for a whole model.

    E = sum_t sum_oi (W - Q(W))_oi^2 m_ti / sum_t sum_oi W_oi^2 m_ti

Shapes: W [o, i]; m_t [i] the second moment of the input at step t, mean over guidance branches, from the
calibration; without one m = 1. Steps t are the window's. E is the share of the output's power that is lost
where input channels do not vary together (the diagonal of GPTQ's Hessian, arXiv 2210.17323). It knows
nothing of what the output is for, and there is no spread: rows have no interval.

Q(W) is the layer that the method made, transforms included: for a layer with a change of basis, what it makes
of the identity.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..layers import QuantLinear
from ..plans import steps_of
from ..step import at, window_of
from . import TierCard
from .cells import Cell, Row
from .task import Key, Task

CARD = TierCard(
    key="weight",
    title="Weight error",
    order=1,
    metrics=("weight_error",),
    operands=("weight",),
    passes=0,
    summary="Error of the rounded weight, weighed by the input's second moment. Seconds.",
)

_ROWS = 1024  # of the identity at once


def metrics(task: Task) -> tuple[str, ...]:
    """One."""
    return CARD.metrics


def rows(task: Task) -> Iterator[list[Row]]:
    """Cell by cell; those of one site and format come one after another and share the sums over o."""
    done = 0
    for key, cells in itertools.groupby(task.cells, lambda c: (c.site, c.operand, c.bits)):
        sums = _Sums(task, key)
        for cell in cells:
            lost = whole = 0.0
            for timestep, m in _moments(task, cell).items():
                lost += float(sums.lost(timestep) @ m)
                whole += float(sums.whole @ m)
            done += 1
            yield [Row(cell=cell, metric="weight_error", value=lost / whole if whole else 0.0)]
            task.progress(done, len(task.cells))
        task.layers.slim()


class _Sums:
    """Of one layer, sum_o W_oi^2 and sum_o (W - Q(W))_oi^2 [i], the latter for each of its own windows."""

    def __init__(self, task: Task, key: Key) -> None:
        site, operand, bits = key
        self._layer = task.layers.of(operand, bits)[site]
        linear = task.model.transformer.get_submodule(site)
        self._weight = linear.weight.detach().double().cpu()  # type: ignore[union-attr,operator]
        self.whole = self._weight.square().sum(0)
        self._lost: dict[int, Tensor] = {}

    def lost(self, timestep: float) -> Tensor:
        """Of the window that holds this timestep."""
        own = window_of(self._layer.windows, timestep)
        if own not in self._lost:
            rounded = effective(self._layer, timestep)
            self._lost[own] = (self._weight - rounded).square().sum(0)
        return self._lost[own]


@torch.no_grad()
def effective(layer: QuantLinear, timestep: float) -> Tensor:
    """The weight [o, i] that a layer with inputs in floating point multiplies by, float64 on the CPU."""
    device = layer.device
    if not layer.transform.changes_input and not layer.transform.rank:
        return layer.dequantized_weight(window_of(layer.windows, timestep)).double().cpu()
    identity = torch.eye(layer.in_features, device=device)
    with at(timestep):  # forward: what hooks do to an input is in the second moment already
        bias = layer.forward(torch.zeros_like(identity[:1]))
        found = [layer.forward(part) - bias for part in identity.split(_ROWS)]
    return torch.cat(found).T.double().cpu()


def _moments(task: Task, cell: Cell) -> dict[float, Tensor]:
    """m [i] by timestep of the cell's steps; all of the calibration's where none of those was calibrated."""
    width = task.layers.of(cell.operand, cell.bits)[cell.site].in_features
    if task.seen is None:
        return {
            task.drawer.timesteps[s]: torch.ones(width, dtype=torch.float64)
            for s in task.steps_in(cell.window)
        }
    source = next(s.input_of for s in task.model.sites if s.name == cell.site)
    found = task.seen.inputs[source].second_moment.double().mean(1)  # [S, i]
    steps: Sequence[int] = range(len(found))
    if cell.window is not None:
        steps = steps_of(task.windows, task.seen.timesteps)[cell.window] or steps
    return {task.seen.timesteps[s]: found[s] for s in steps}
