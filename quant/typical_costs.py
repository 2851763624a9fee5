"""What cells cost a typical sample: no sample decides alone.

Shapes: v_cn [cells, n], cost of cell c in sample n, at least 0.

    cost_c = S mean_n(v_cn / s_n),    s_n = sum_c v_cn,    log S = mean_n log s_n

A sample whose picture is about to turn into another one can cost a hundred times what the others do: of 16 samples of
dit-emoji one had nine tenths of all costs, and bits that are best on average are best for that one. What plans are judged by is
the typical loss, exp mean_n log sum_c v_cn over the cells of the plan. A cell changes its logarithm by mean_n v_cn / s_n to first
order, so samples are weighed by what the whole table costs them. S brings the sum over a plan's cells back to the size of a
typical loss. Ours.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .sensitivity.cells import Cell, Row


def typical_costs(rows: Iterable[Row]) -> dict[Cell, Row]:
    """The rows of one metric with such costs as `value` and `per_sample`, by cell.

    As they are where they have one sample or none, where samples are missing or cannot be weighed because some
    cost less than nothing.
    """
    own = {row.cell: row for row in rows}
    told = [row for row in own.values() if row.value is not None]
    counts = {len(row.per_sample) for row in told}
    if len(counts) != 1 or counts <= {0, 1} or any(None in row.per_sample for row in told):
        return own
    costs = np.array([row.per_sample for row in told], dtype=np.float64)  # [cells, n]
    whole = costs.sum(0)  # [n]
    if costs.min() < 0 or not whole.any():
        return own
    there = whole > 0
    weights = np.zeros_like(whole)
    weights[there] = np.exp(np.log(whole[there]).mean()) / whole[there]
    for row, weighed in zip(told, costs * weights, strict=True):
        own[row.cell] = row.model_copy(
            update={"value": float(weighed.mean()), "per_sample": tuple(map(float, weighed))}
        )
    return own
