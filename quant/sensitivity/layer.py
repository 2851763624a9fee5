"""Tier 2: what rounding changes of a layer's output, at full precision's own input.

    e_t = ||y'_t - y_t||^2 / ||y_t||^2        the inverse of the output's SQNR
    E   = mean over the window's steps t of e_t

Shapes: y [branches, tokens, o] of one sample; both guidance branches are one output. One pass of full
precision serves every format at once; `per_step` of a row has e_t, mean over the samples, and SQNR is
-10 log10 e_t dB. It says how well a layer is rounded, not what its output is worth: that is tier 3.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from . import TierCard
from .batches import all_samples
from .cells import Cell, Row
from .task import Key, Task, tapped

CARD = TierCard(
    key="layer",
    title="Output error",
    order=2,
    metrics=("output_error",),
    at_once=True,
    stepwise=True,
    summary="Relative error of the layer's output on full precision's trajectory. One pass of the sampler.",
)


def metrics(task: Task) -> tuple[str, ...]:
    """One."""
    return CARD.metrics


def rows(task: Task) -> Iterator[list[Row]]:
    """All after the one pass."""
    whole = tuple(dict.fromkeys(_whole(cell) for cell in task.cells))
    found = all_samples(task, whole, output_errors)
    for cell in task.cells:
        own = found[_whole(cell)][:, list(task.steps_in(cell.window))].T  # [s, n]
        yield [Row.of(cell, "output_error", own.mean(0), per_step=own.mean(1))]


def _whole(cell: Cell) -> Cell:
    """The cell of all steps: e_t of its steps serve all windows."""
    return cell.model_copy(update={"window": None})


def output_errors(task: Task, index: int) -> dict[Cell, np.ndarray]:
    """e_t of every cell of all steps for the samples of one batch, float64[n, steps]."""
    shape = len(task.drawer.timesteps), len(task.batches[index])
    found = {key: torch.zeros(shape, dtype=torch.float64) for key in task.keys}
    _one_batch(task, index, found)
    return {
        Cell(site=site, operand=operand, bits=bits): errors.T.numpy()
        for (site, operand, bits), errors in found.items()
    }


def _one_batch(task: Task, index: int, found: dict[Key, Tensor]) -> None:
    """Draw one batch in full precision and fill e_t [steps, n]."""
    batch, steps, now = task.batches[index], len(task.drawer.timesteps), 0
    by_site: dict[str, list[Key]] = {}
    for key in task.keys:
        by_site.setdefault(key[0], []).append(key)
    total = steps * len(task.batches)

    def before(step: int) -> None:
        nonlocal now
        now = step
        task.progress(index * steps + step, total)

    def heard(site: str, x: Tensor, y: Tensor) -> None:
        exact = task.by_sample(y, len(batch), site).double()
        power = exact.square().sum((0, 2)).cpu()  # [n]
        for key in by_site[site]:
            rounded = task.layers.output(*key, x)
            lost = task.by_sample(rounded, len(batch), site).double().sub_(exact)
            lost = lost.square_().sum((0, 2)).cpu()  # [n]
            found[key][now] += torch.where(lost > 0, lost / power, 0.0)

    run = task.drawer.begin(batch)
    with tapped(task.model, tuple(by_site), heard):
        task.drawer.drawn(task.model.transformer, run, before=before)
    task.progress((index + 1) * steps, total)
