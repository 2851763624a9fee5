"""PTQ4DiT: balance salient channels of activations and weights, as seen over all denoising steps.

Wu et al., NeurIPS 2024, https://arxiv.org/abs/2405.16005

Shapes: X_t [n, i] input at step t; W [o, i] weight; a_t, w, s [i]; eta [T].

    Y     = Q_act(X / s) . Q_weight(W * s)^T + bias
    a_t   = max_n |X_t|,  w = max_o |W|                     salience of activation and weight channels
    eta_t = exp(-rho_t) / sum_u exp(-rho_u)                 rho_t: Spearman correlation of a_t and w
    s     = sqrt(sum_t eta_t a_t / w)                       both sides then have salience sqrt(a w)

Steps whose large channels meet small weights count more: there balancing gains most. Reconstructed
from the paper's abstract and public summaries; the released code does not hold this part in the files
that could be read. Departs from the paper: s is applied at run time instead of being folded into
adaLN; weights are rounded to nearest (the paper learns their rounding block by block, and searches
clipping); activations are quantized per row as they come unless `activations=static` gives the
paper's one calibrated range per tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from scipy import stats
from torch import Tensor

from ..balancing import required, weight_max
from ..calibration import InputStatistics
from ..cards import Card, Option
from ..ranges import static, static_ranges
from ..schema import Plan, SitePlan, Value
from ..site_tensors import Transform
from ..transforms import channel_scale
from .base import Group, Rounded, transformed_and_rounded

CARD = Card(
    key="ptq4dit",
    title="PTQ4DiT",
    paper="https://arxiv.org/abs/2405.16005",
    bits=("w8a8", "w6a6", "w4a8"),
    beats="rtn",
    beats_at=("w8a8", "w6a6", "w4a4"),
    needs=("minimum", "maximum"),
    summary="Channel scale from a salience that weighs the steps by rank correlation; alpha 0.5.",
    options=(
        Option("activations", "dynamic", "per row as they come, or static: the paper's one range"),
    ),
)


class Options(Value):
    """Knobs; see the card for what they mean."""

    activations: Literal["dynamic", "static"] = "dynamic"


def planned(
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Options,
    seed: int,
) -> Plan:
    """Static formats where they are asked for."""
    if options.activations == "dynamic":
        return plan
    return plan.each(static)


def stored_formats(site: SitePlan, in_features: int, options: Options, steps: int) -> SitePlan:
    """As planned."""
    return site if options.activations == "dynamic" else static(site)


def stored_transform(options: Options) -> Transform:
    """A channel scale at every site."""
    return Transform(scale=True)


def spearman(a: Tensor, w: Tensor) -> float:
    """rho of two saliences [i]; 0 where one of them is constant."""
    ranks = [torch.from_numpy(stats.rankdata(x.double().cpu().numpy())) for x in (a, w)]
    x, y = (r - r.mean() for r in ranks)
    return float((x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-12))


def salience(per_step: Tensor, w: Tensor) -> Tensor:
    """sum_t eta_t a_t of per_step [T, i], [i]."""
    rho = torch.tensor([spearman(a, w) for a in per_step], device=per_step.device)
    return (torch.softmax(-rho, 0)[:, None] * per_step).sum(0)


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """Balance, fold, round once; ranges of the balanced input where they are static."""
    found = required(seen, group)
    w = weight_max(group)
    scale = channel_scale(salience(found.absmax.amax(1), w), w, 0.5)
    made = []
    for site in group.sites:
        rounded = transformed_and_rounded(site, scale, None, {"transform": "scale", "alpha": 0.5})
        made.append(replace(rounded, ranges=static_ranges(group, site.plan, found, scale)))
    return made
