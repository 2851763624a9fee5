"""The noise floor: which cells cost more than nothing can be told apart from.

8 bits are where rounding stops showing (the sensitivities that ViDiT-Q released: at 8 bits every block of a
family lies within one standard deviation of the others). So, for each metric and operand, and for cells of all
steps apart from cells of windows,

    floor  = [median of lo, median of hi] over the 8-bit cells: the interval of their median cell
    inside = the cell's interval reaches down to the floor: lo <= floor.hi

A cell that costs less than the floor is inside as well. lo and hi are 95 % bootstrap intervals of the cell's mean
over seeds; where a tier has none, both are the value. Ranks among cells inside say nothing.

    noise(metric, bits) = sqrt(mean over cells of noise^2)

pools the rows' split-half errors: the standard error that a value of those bits has from the choice of seeds.
Starting noise that is shifted a little is no yardstick here: full precision moves with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..schema import Value
from .cells import Bits, Operand, Row

Of = tuple[str, Operand, bool]  # metric, operand, whether of all steps

REFERENCE: Bits = "8"  # bits whose median cell is the floor


class Floor(Value):
    """Where a metric stops telling cells of one operand apart."""

    metric: str
    operand: Operand
    whole: bool  # of cells of all steps
    median: float
    lo: float
    hi: float
    cells: int  # of 8 bits


def floors(rows: Iterable[Row]) -> dict[Of, Floor]:
    """By metric, operand and whether of all steps; none where there are no 8-bit cells, or none that rounds anything."""
    found: dict[Of, list[tuple[float, float, float]]] = {}
    for row in rows:
        if row.cell.bits == REFERENCE and row.value is not None:
            ends = _ends(row)
            found.setdefault(_of(row), []).append((row.value, *ends))
    made = {}
    for (metric, operand, whole), values in found.items():
        median, lo, hi = (float(v) for v in np.median(np.array(values), axis=0))
        made[metric, operand, whole] = Floor(
            metric=metric,
            operand=operand,
            whole=whole,
            median=median,
            lo=lo,
            hi=hi,
            cells=len(values),
        )
    return made


def inside(row: Row, of: Mapping[Of, Floor]) -> bool | None:
    """Whether a row is inside the floor of its metric and operand; None where that is not known."""
    floor = of.get(_of(row))
    if floor is None or row.value is None:
        return None
    return _ends(row)[0] <= floor.hi


def noise(rows: Iterable[Row]) -> dict[tuple[str, str], float]:
    """Standard error from split halves by metric and bits, pooled over the cells that have one."""
    squares: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.noise is not None:
            squares.setdefault((row.metric, str(row.cell.bits)), []).append(row.noise**2)
    return {key: float(np.sqrt(np.mean(values))) for key, values in squares.items()}


def _of(row: Row) -> Of:
    return row.metric, row.cell.operand, row.cell.window is None


def _ends(row: Row) -> tuple[float, float]:
    assert row.value is not None
    return (row.value if row.lo is None else row.lo, row.value if row.hi is None else row.hi)
