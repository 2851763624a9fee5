"""Tiers whose one pass of the sampler serves all cells: what a batch of samples gives is kept when it ends.

Such a tier has no row before its last batch, but what it finds of a sample does not depend on the others. So every
batch is handed on (`on_batch` of `quant.sensitivity.sweep.measure`), and a sweep that was stopped takes those that
are there and draws the samples that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..schema import Sample
from .cells import Batch, Cell, Found
from .task import Task


def all_samples(
    task: Task, cells: Sequence[Cell], measured: Callable[[Task, int], Found]
) -> dict[Cell, np.ndarray]:
    """Numbers of every cell, float64[n, m], over all samples of the task.

    Args:
        task: `task.kept` are batches that are there already.
        cells: that `measured` tells of.
        measured: of the batch with this index of the task that it is given.
    """
    found: dict[Cell, dict[Sample, np.ndarray]] = {cell: {} for cell in cells}

    def take(batch: Batch) -> None:
        for cell, numbers in zip(batch.cells, batch.numbers, strict=True):
            if cell in found:
                rows = np.array(numbers, dtype=np.float64)  # None: not a number
                found[cell].update(zip(batch.samples, rows, strict=True))

    for batch in task.kept:
        if set(cells) <= set(batch.cells):
            take(batch)
    there = set.intersection(*(set(of) for of in found.values())) if found else set()
    left = replace(task, samples=tuple(s for s in task.samples if s not in there))
    for index, samples in enumerate(left.batches):
        batch = Batch.of(samples, measured(left, index))
        take(batch)
        task.end_batch(batch)
    return {cell: np.stack([of[s] for s in task.samples]) for cell, of in found.items()}
