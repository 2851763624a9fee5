"""SmoothQuant: move activation outliers into the weight before rounding both.

Xiao et al., ICML 2023, https://arxiv.org/abs/2211.10438

Shapes: X [n, i] input; W [o, i] weight; s [i] channel scale; alpha in [0, 1].

    Y   = Q_act(X / s) . Q_weight(W * s)^T + bias
    s   = a^alpha / w_max^(1 - alpha)            a: static |X| per channel; w_max = max_o |W|

Equation and default alpha as in the paper. Departs from it: activations are quantized per row as they
come (the paper's finest setting), a is one statistic over all denoising steps, and s is applied at
run time instead of being folded into what makes X.
"""

from __future__ import annotations

from pydantic import Field

from ..balancing import Candidate, StatisticName, transform_of
from ..calibration import InputStatistics
from ..cards import Card, Option
from ..schema import Value
from ..site_tensors import Transform
from .base import Group, Rounded, transformed_and_rounded

CARD = Card(
    key="smoothquant",
    title="SmoothQuant",
    paper="https://arxiv.org/abs/2211.10438",
    bits=("w8a8", "w6a6", "w4a8", "w4a4"),
    beats="rtn",
    beats_at=("w8a8", "w6a6", "w4a4"),
    needs=("minimum", "maximum"),
    summary="Static channel scale with a fixed alpha; row-wise dynamic activations.",
    options=(
        Option("alpha", 0.5, "share of the difficulty moved into the weight, 0 to 1"),
        Option("act_stat", "max", "channel statistic over the steps: first, max, mean or ema"),
    ),
)


class Options(Value):
    """Knobs; see the card for what they mean."""

    alpha: float = Field(default=0.5, ge=0, le=1)
    act_stat: StatisticName = "max"


def stored_transform(options: Options) -> Transform:
    """A channel scale at every site."""
    return Transform(scale=True)


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """Scale, fold, round once."""
    way = Candidate(transform="scale", alpha=options.alpha, act_stat=options.act_stat)
    scale, _ = transform_of(way, group, seen, seed)
    return [transformed_and_rounded(site, scale, None, way.to_json()) for site in group.sites]
