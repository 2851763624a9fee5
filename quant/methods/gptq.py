"""GPTQ: round the weight column by column, later columns making up for the error of earlier ones.

Frantar et al., ICLR 2023, https://arxiv.org/abs/2210.17323

Shapes: X' [n, i] transformed calibration rows; W' [o, i] transformed weight; H [i, i].

    Y   = Q_act(X') . Q_weight(W')^T + bias
    H   = X'^T X' + damping I
    Q_weight: for every column j, W'_k -= (W'_j - nearest(W'_j)) U_jk / U_jj for k > j, H^-1 = U^T U

The steps are in `quant.hessian`. Departs from the paper: H comes from full-precision inputs, every
denoising step counting alike, its correlations shrunk by what of them is chance; a row that nearest
rounding serves better keeps it; scales of groups are those of the original weight. Under a transform (ours) X' = (X / s) R and W' = (W * s) R as in `viditq`;
activations, where they are quantized, are so per row.
"""

from __future__ import annotations

from pydantic import Field

from ..balancing import Candidate, StatisticName, TransformName, required, transform_of
from ..calibration import InputStatistics
from ..cards import Card, Option
from ..effort import GroupShape, Work, mixing, rounding
from ..hessian import Compensation, compensation_work, hessian, moments_work, round_with
from ..schema import Value
from ..site_tensors import Transform
from ..transforms import to_weight
from .base import Group, Rounded

CARD = Card(
    key="gptq",
    title="GPTQ",
    paper="https://arxiv.org/abs/2210.17323",
    bits=("w4a16", "w3a16", "w2a16", "w8a8", "w6a6", "w4a8", "w4a4"),
    beats="rtn",
    beats_at=("w4a16", "w3a16", "w4a8"),
    needs=("minimum", "maximum", "rows"),
    summary="Rounding guided by the inputs' second moments, under any transform; weight-only or with row-wise activations.",
    options=(
        Option("transform", "plain", "change of basis first: plain, scale, rotate or both"),
        Option("alpha", 0.5, "with a scale: share of the difficulty moved into the weight, 0 to 1"),
        Option("act_stat", "max", "channel statistic over the steps: first, max, mean or ema"),
        Option("act_order", True, "round the columns with the largest inputs first"),
        Option("damping", 0.01, "share of the Hessian's mean diagonal that is added to it"),
        Option("block", 128, "columns after which the remaining ones follow"),
    ),
)


class Options(Value):
    """Knobs; see the card for what they mean."""

    transform: TransformName = "plain"
    alpha: float = Field(default=0.5, ge=0, le=1)
    act_stat: StatisticName = "max"
    act_order: bool = True
    damping: float = Field(default=0.01, gt=0, le=1)
    block: int = Field(default=128, ge=1)


def stored_transform(options: Options) -> Transform:
    """What the chosen change of basis stores."""
    return Transform(
        scale=options.transform in ("scale", "both"), rotate=options.transform in ("rotate", "both")
    )


def work(shape: GroupShape, options: Options) -> Work:
    """One Hessian in its basis, then every weight column by column."""
    mixed = mixing(stored_transform(options), shape.width)
    moments = moments_work(shape, mixed)
    return moments + rounding(shape, mixed) + compensation_work(shape, options.block)


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """One Hessian for the sites of the group, which read the same input."""
    way = Candidate(transform=options.transform, alpha=options.alpha, act_stat=options.act_stat)
    scale, signs = transform_of(way, group, seen, seed)
    h = hessian(group, required(seen, group), scale, signs)
    how = Compensation(options.damping, options.block, options.act_order)
    made = []
    for site in group.sites:
        weight = to_weight(site.weight, scale, signs)
        kept = weight if site.plan.weight is None else round_with(weight, site.plan.weight, h, how)
        made.append(Rounded(kept, scale, signs, notes={"transform": options.transform}))
    return made
