"""SVDQuant: smooth, let a thin 16-bit branch take the largest singular values, quantize what is left.

Li et al., ICLR 2025, https://arxiv.org/abs/2411.05007

Shapes: X [n, i] input; W [o, i] weight; s [i] channel scale; L_1 [o, r], L_2 [r, i] branch.

    Y       = Q_act(X / s) . Q_weight(W' - L_1 L_2)^T + (X / s) L_2^T L_1^T + bias
    W'      = W * s,  s = a^alpha / w_max^(1 - alpha)
    L_1 L_2 = best approximation of W' of rank r, from its singular value decomposition

The scale moves activation outliers into the weight, where the branch absorbs them: its input stays
unquantized. Departs from the paper: scales per row of W and per token instead of per group of 64
(give the plan a group size for the latter), the branch is float16, alpha is searched over a grid on
calibration rows, with the branch in place, and each of q, k and v has a branch of its own. With
`rounding=hessian` the rest is rounded as in `gptq`. Sizes count the branch: at rank 32 it takes
0.9 bits per weight of a 1152 x 1152 site, 0.6 of a 4608 x 1152 one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..balancing import Candidate, StatisticName, output_error, required, transform_of
from ..calibration import InputStatistics
from ..cards import Card, Option
from ..effort import GroupShape, Work, judging, rounding
from ..hessian import Compensation, compensation_work, hessian, moments_work, round_with
from ..rounding import WeightCodes, round_to_nearest
from ..schema import Format, Value
from ..site_tensors import LowRank, Transform
from ..transforms import to_weight
from .base import Group, Rounded, SiteWeight

CARD = Card(
    key="svdquant",
    title="SVDQuant",
    paper="https://arxiv.org/abs/2411.05007",
    bits=("w4a4", "w4a8", "w6a6", "w8a8", "nvfp4"),
    beats="smoothquant",
    beats_at=("w4a8", "w4a4"),
    needs=("minimum", "maximum", "rows"),
    summary="Channel scale, then a low-rank 16-bit branch beside the quantized rest.",
    options=(
        Option("rank", 32, "of the branch"),
        Option(
            "alpha",
            "search",
            "share of the difficulty moved into the weight, 0 to 1; 'search' takes the best of 0, 0.1 .. 0.9",
        ),
        Option("act_stat", "max", "channel statistic over the steps: first, max, mean or ema"),
        Option("rounding", "nearest", "of the rest: nearest, or hessian as in gptq"),
    ),
)

ALPHAS = tuple(a / 10 for a in range(10))


class Options(Value):
    """Knobs; see the card for what they mean."""

    rank: int = Field(default=32, ge=1)
    alpha: Literal["search"] | float = "search"
    act_stat: StatisticName = "max"
    rounding: Literal["nearest", "hessian"] = "nearest"

    def model_post_init(self, _: object) -> None:
        """Alpha is a share."""
        if isinstance(self.alpha, float) and not 0 <= self.alpha <= 1:
            raise ValueError("alpha lies between 0 and 1, or is 'search'")


def stored_transform(options: Options) -> Transform:
    """A channel scale and a branch at every site."""
    return Transform(scale=True, rank=options.rank)


def work(shape: GroupShape, options: Options) -> Work:
    """A branch at every weight and a judgement for every alpha, then the branch and the codes."""
    once = rounding(shape)
    for out in shape.outputs:
        small, large = sorted((out, shape.width))
        # The Gram matrix, its eigenvectors, the right factor, and the product that is taken off.
        once = once + Work(
            small**2 * large + 9 * small**3 + 3 * options.rank * small * large, 0, 20
        )
    if options.rounding == "hessian":
        once = once + moments_work(shape, 0) + compensation_work(shape, Compensation().block)
    if isinstance(options.alpha, float):
        return once
    beside = Work(shape.rows * options.rank * (sum(shape.outputs) + shape.width))
    return (judging(shape) + once + beside) * len(ALPHAS) + once


def branch(weight: Tensor, rank: int) -> LowRank:
    """L_2, L_1 of W' [o, i]: projection on its largest singular directions, both with sqrt(sigma)."""
    w = weight.float()
    tall = len(w) > w.shape[1]
    if tall:
        w = w.T
    _, directions = torch.linalg.eigh(w @ w.T)  # ascending; of the smaller side
    left = directions[:, -min(rank, len(w)) :]  # [m, r]
    right = left.T @ w  # [r, n] = sigma v^T
    root = right.norm(dim=1).clamp(min=1e-12).sqrt()  # [r]
    left, right = left * root, right / root[:, None]
    if tall:
        left, right = right.T, left.T
    return LowRank(down=right.half(), up=left.half())


def split(
    site: SiteWeight,
    scale: Tensor | None,
    signs: Tensor | None,
    rank: int,
    round_rest: Callable[[Tensor, Format], WeightCodes] = round_to_nearest,
) -> Rounded:
    """W' as a branch and the rounded rest; the rest makes up for what float16 loses of the branch."""
    weight = to_weight(site.weight, scale, signs)
    beside = branch(weight, rank)
    rest = weight - beside.product()
    kept = rest if site.plan.weight is None else round_rest(rest, site.plan.weight)
    return Rounded(kept, scale, signs, low_rank=beside)


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """Find alpha with the branch in place, then split and round once."""
    found = required(seen, group)
    simple = partial(split, rank=options.rank)
    alphas: tuple[float, ...] = ALPHAS if options.alpha == "search" else (options.alpha,)
    scales = {}
    for alpha in alphas:
        way = Candidate(transform="scale", alpha=alpha, act_stat=options.act_stat)
        scales[alpha], _ = transform_of(way, group, found, seed)
    errors = {
        alpha: output_error(group, found.rows, found.row_steps, scale, None, simple)
        for alpha, scale in scales.items()
        if len(alphas) > 1
    }
    best = min(scales, key=lambda alpha: errors.get(alpha, 0.0))
    scale, round_rest = scales[best], round_to_nearest
    if options.rounding == "hessian":
        round_rest = partial(round_with, h=hessian(group, found, scale, None), how=Compensation())
    notes: dict[str, object] = {"alpha": best, "rank": options.rank, "error": errors.get(best)}
    made = [split(site, scale, None, options.rank, round_rest) for site in group.sites]
    return [replace(rounded, notes=notes) for rounded in made]
