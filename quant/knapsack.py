"""One choice for every item, at the least loss that a budget allows, exactly.

    min sum_i sum_c loss_ic z_ic    subject to    sum_c z_ic = 1,  sum_i sum_c cost_ic z_ic <= budget

A multiple-choice knapsack, solved as an integer program (HiGHS, through scipy).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_diag

from .errors import BadInput


def cheapest_loss(
    losses: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float
) -> list[int]:
    """Index of the choice for each item; BadInput when even the cheapest choices exceed the budget."""
    if not losses:
        return []
    least = sum(min(c) for c in costs)
    if least > budget * (1 + 1e-9):
        raise BadInput(f"budget {budget:g} is too small; the cheapest choices take {least:g}")
    loss, cost = (
        np.concatenate([*map(np.asarray, losses)]),
        np.concatenate([*map(np.asarray, costs)]),
    )
    one_each = block_diag([np.ones((1, len(c))) for c in costs], format="csr")
    unit = max(float(np.abs(loss).max()), 1e-300), max(float(cost.max()), 1e-300)
    solved = milp(
        loss / unit[0],
        constraints=(
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(cost[None] / unit[1], ub=budget / unit[1] * (1 + 1e-9)),
        ),
        bounds=Bounds(0, 1),
        integrality=np.ones(len(loss)),
        options={"mip_rel_gap": 0.0},
    )
    assert solved.x is not None, solved.message
    starts = np.cumsum([0, *(len(c) for c in costs)])
    pairs = zip(starts, starts[1:], strict=False)  # noqa: RUF007  (numpy integers, sliced below)
    return [int(np.argmax(solved.x[a:b])) for a, b in pairs]
