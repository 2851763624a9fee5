"""Rounding that lets the columns still to come make up for the error of those already rounded.

Shapes: X [n, i] input rows; W [o, i] weight; H, C [i, i]; delta [o, i] = W - W_q.

    H     = mean over steps of X_t^T X_t / ||X_t W^T||^2    delta H delta^T: relative output error
    H'_jk = (1 - lambda) H_jk for j != k                    lambda = sum (1 - r^2)^2 / (n - 1) / sum r^2
    U     = cholesky((H' + damping mean(diag H) I)^-1)      upper: (..)^-1 = U^T U
    for every column j:   e = (W_j - nearest(W_j)) / U_jj,   W_k -= e U_jk  for k > j

(GPTQ, arXiv 2210.17323, with its lazy blocks: columns beyond the block follow once per block.) Scales
are those of the whole weight, made before the first column is rounded, so that columns may be
visited in any order under any group size.

Ours: every step counts alike, else the noisiest decide; a calibration has about as many rows as
there are channels, so correlations r are shrunk by what of them is chance (Schaefer and Strimmer
2005, optimal for the sum of squares); a row of W that nearest rounding serves better under H keeps
it, so that the result is never worse on the rows that H was made from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .calibration import InputStatistics
from .effort import GroupShape, Work
from .methods.base import Group
from .rounding import WeightCodes, grid_of
from .schema import Format
from .transforms import to_input


@dataclass(frozen=True)
class Compensation:
    """How columns are visited."""

    damping: float = 0.01  # share of H's mean diagonal that is added to it
    block: int = 128  # columns after which the others follow
    by_activity: bool = False  # columns with the largest inputs first


class Hessian(NamedTuple):
    """Second moments of an input, float64 [i, i]."""

    exact: Tensor  # H: of the calibration rows
    shrunk: Tensor  # H': what is likely to hold for other rows


def hessian(
    group: Group, seen: InputStatistics, scale: Tensor | None, signs: Tensor | None
) -> Hessian:
    """H and H' of the transformed input of a group.

    From the sampled rows, of which every step has equally many.
    """
    rows, (_, step_of) = seen.rows.double(), seen.row_steps.unique(return_inverse=True)
    weights = torch.cat([site.weight for site in group.sites]).double()
    energy = (rows @ weights.T).square().mean(1)  # [n]
    steps = int(step_of.max()) + 1
    total = energy.new_zeros(steps).index_add(0, step_of, energy).clamp(min=1e-30)
    weighted = rows * total[step_of].rsqrt()[:, None]
    sampled = weighted.T @ weighted / steps  # [i, i]
    deviation = sampled.diagonal().clamp(min=1e-30).sqrt()
    r = sampled / deviation[:, None] / deviation
    off = ~torch.eye(len(r), dtype=torch.bool, device=r.device)
    chance = (1 - r[off].square()).square().sum() / max(1, len(rows) - 1)
    share = float((chance / r[off].square().sum().clamp(min=1e-30)).clamp(0, 1))
    shrunk = torch.where(off, (1 - share) * sampled, sampled)
    return Hessian(
        *(to_input(to_input(h, scale, signs).T, scale, signs) for h in (sampled, shrunk))
    )


def quadratic_error(delta: Tensor, h: Tensor) -> Tensor:
    """delta H delta^T of every row, float64 [o]: the mean squared output error on H's rows."""
    d = delta.double()
    return ((d @ h) * d).sum(1)


def round_with(weight: Tensor, fmt: Format, h: Hessian, how: Compensation) -> WeightCodes:
    """Codes of `weight` [o, i] by rounding one column after the other under H [i, i]."""
    grid = grid_of(weight, fmt)
    w = weight.float()
    nearest = grid.codes(w)
    width = w.shape[1]
    activity = h.shrunk.diagonal()
    order = torch.arange(width, device=w.device)
    if how.by_activity:
        order = activity.argsort(descending=True, stable=True)
    upper = _factor(h.shrunk[order][:, order], how.damping)
    left = w[:, order].double()
    codes = torch.empty_like(nearest)
    for first in range(0, width, how.block):
        last = min(first + how.block, width)
        errors = left.new_zeros(len(w), last - first)
        for j in range(first, last):
            column = order[j : j + 1]
            code = grid.codes(left[:, j : j + 1].float(), column)
            codes[:, column] = code
            error = (left[:, j] - grid.values(code, column)[:, 0]) / upper[j, j]
            left[:, j + 1 : last] -= error[:, None] * upper[j, j + 1 : last]
            errors[:, j - first] = error
        left[:, last:] -= errors @ upper[first:last, last:]
    found, plain = (quadratic_error(w - grid.values(c), h.exact) for c in (codes, nearest))
    codes[found > plain] = nearest[found > plain]
    return grid.stored(codes)


def _factor(h: Tensor, damping: float) -> Tensor:
    """U [i, i]; channels that never were anything but zero count like the mean channel."""
    mean = h.diagonal().mean().clamp(min=1e-30)
    silent = torch.where(h.diagonal() > 0, 0.0, 1.0)
    damped = h + torch.diag(mean * (damping + silent))
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)


def moments_work(shape: GroupShape, mixed: float) -> Work:
    """What `hessian` takes, in a basis of so many multiply-adds per number; float64 counts twice."""
    squares = shape.width**2
    macs = shape.rows * (squares + shape.weights) + 4 * mixed * squares
    return Work(2 * macs, 2 * (12 * squares + 6 * shape.rows * shape.width), 60)


def compensation_work(shape: GroupShape, block: int) -> Work:
    """What `round_with` takes for all weights of a group."""
    each, squares = len(shape.outputs), shape.width**2
    factor = Work(2 * shape.width**3, 8 * squares)
    later = Work(shape.weights * (shape.width / 2 + 4 * shape.width), 3 * block * shape.weights)
    return factor * each + later + Work(0, 0, 14 * shape.width * each)
