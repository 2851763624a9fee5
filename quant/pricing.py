"""Choices at given prices of the budgets: every item alone, or with those that it is in pairs with.

    L(q) = min_c  sum_i loss_i(c_i) + sum_r q_r use_r(c)  -  sum_r q_r budget_r

An item that is second in pairs with several first ones is split among them: each sees an equal share of its loss. Then L
is smaller than that minimum, still a bound; where every second item has one first, L is exact.
"""

from __future__ import annotations

from math import inf

import numpy as np

from .decision_arrays import Arrays, Numbers, Picks

_ROUNDING = 1e-14  # of sums; what is left of large prices that cancel is no bound


def priced(
    arrays: Arrays, prices: Numbers, loss: Numbers | None = None
) -> tuple[Numbers, Numbers, Numbers]:
    """Cost of every choice and of every two choices of a pair.

    Returns:
        cost [N, C]: loss and priced use of a choice alone.
        whole [N, C]: of a first item, with the best answers of its second ones.
        joint [C, P, C]: by the second item's choice, a pair's price and its share of the second item's cost.
    """
    cost = (arrays.loss if loss is None else loss) + np.tensordot(prices, arrays.uses, 1)
    if not len(arrays.hubs):
        return cost, cost, np.zeros((0, 0, 0))
    share = cost[arrays.leaves] / arrays.degree[arrays.leaves][:, None]  # [P, C]
    joint = np.tensordot(prices, arrays.answers, 1) + share.T[:, :, None]
    whole = cost.copy()
    np.add.at(whole, arrays.hubs, joint.min(0))
    return cost, whole, joint


def relaxed(arrays: Arrays, prices: Numbers, loss: Numbers | None = None) -> tuple[Picks, float]:
    """What the prices choose, and L."""
    cost, whole, _ = priced(arrays, prices, loss)
    picks = whole.argmin(1)
    alone = arrays.degree == 0
    paid, allowance = float(whole.min(1)[alone].sum()), float(prices @ arrays.bounds)
    value = paid - allowance - (_ROUNDING * (paid + allowance) if prices.any() else 0.0)
    if len(arrays.hubs):
        pairs = np.arange(len(arrays.hubs))
        answer = np.tensordot(prices, arrays.tables[:, pairs, picks[arrays.hubs]], 1)  # [P, C]
        np.add.at(cost, arrays.leaves, answer)
        picks = np.where(alone, picks, cost.argmin(1))
    return picks, value


def reduced_costs(arrays: Arrays, prices: Numbers) -> Numbers:
    """[N, C], by how much L grows at least when a choice is forced."""
    _, whole, joint = priced(arrays, prices)
    grown = whole - whole.min(1)[:, None]
    if len(arrays.hubs):
        base = whole[arrays.hubs] - joint.min(0)  # [P, C]; of a choice that is not there: infinite
        base = np.where(arrays.allowed[arrays.hubs], base, inf)
        forced = (base + joint).min(2) - whole.min(1)[arrays.hubs]  # [C, P]
        leaf = arrays.degree > 0
        grown[leaf] = 0.0
        np.add.at(grown, arrays.leaves, np.maximum(forced.T, 0.0))
    return np.where(arrays.allowed, grown, inf)


def least(arrays: Arrays, r: int) -> Picks | None:
    """The choices that take least of one resource, whatever their loss; None where shared items hide them."""
    if (arrays.degree > 1).any() and arrays.tables[r].any():
        return None
    only = np.where(np.arange(len(arrays.names)) == r, 1.0, 0.0)
    return relaxed(arrays, only, np.where(arrays.allowed, 0.0, inf))[0]
