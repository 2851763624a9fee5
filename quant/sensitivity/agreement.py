"""How well a cheap tier tells what an exact one finds: ranks of the same cells.

    Spearman  correlation of ranks, over all cells, those outside the noise floor, those inside
    at equal bits  the same among cells of one operand and one width, mean over those: what is left when
                   "fewer bits cost more" is taken for granted
    recall    share of the exact tier's costliest tenth that is in the other's costliest tenth

The floor is the exact tier's (`quant.sensitivity.floor`). Cells of all steps cost more than cells of windows by
being longer, so the two are compared apart: pass rows of one kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.stats import spearmanr

from ..schema import Value
from .cells import KEPT, Cell, Row
from .floor import floors, inside

SHARE = 0.1  # of the cells, for recall


class Agreement(Value):
    """Of one tier with the exact one; None where there are too few cells, or all are alike."""

    cells: int
    spearman: float | None
    outside: int  # cells above the floor; the others, where a floor is known, are inside
    spearman_outside: float | None
    spearman_inside: float | None
    at_equal_bits: float | None
    recall: float | None


def agreement(
    exact: Iterable[Row], told: Iterable[Row], exact_metric: str, told_metric: str
) -> Agreement:
    """Of the cells that both have; those of 16 bits cost 0 in every tier and are left out."""
    rows = [r for r in exact if r.metric == exact_metric and r.cell.bits != KEPT]
    by_cell = {r.cell: r for r in rows if r.value is not None}
    said = {r.cell: r.value for r in told if r.metric == told_metric and r.value is not None}
    cells = [cell for cell in by_cell if cell in said]
    truth = np.array([by_cell[c].value for c in cells], dtype=np.float64)
    value = np.array([said[c] for c in cells], dtype=np.float64)
    limits = floors(rows)
    beyond = np.array([inside(by_cell[c], limits) is False for c in cells], dtype=bool)
    within = np.array([inside(by_cell[c], limits) is True for c in cells], dtype=bool)
    return Agreement(
        cells=len(cells),
        spearman=spearman(truth, value),
        outside=int(beyond.sum()),
        spearman_outside=spearman(truth[beyond], value[beyond]),
        spearman_inside=spearman(truth[within], value[within]),
        at_equal_bits=_at_equal_bits(cells, truth, value),
        recall=recall(truth, value),
    )


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Rank correlation of float[n]; None below 3 values, or where one side is constant."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)  # type: ignore[union-attr]


def recall(truth: np.ndarray, value: np.ndarray, share: float = SHARE) -> float | None:
    """Share of the largest `share` of truth that is among as many of value; None without cells."""
    count = math.ceil(share * len(truth))
    if not count:
        return None
    first, second = (set(np.argsort(-x, kind="stable")[:count]) for x in (truth, value))
    return len(first & second) / count


def _at_equal_bits(cells: Sequence[Cell], truth: np.ndarray, value: np.ndarray) -> float | None:
    groups: dict[tuple[str, str], list[int]] = {}
    for index, cell in enumerate(cells):
        groups.setdefault((cell.operand, str(cell.bits)), []).append(index)
    found = [spearman(truth[rows], value[rows]) for rows in groups.values()]
    known = [v for v in found if v is not None]
    return float(np.mean(known)) if known else None
