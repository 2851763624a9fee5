"""Static ranges: activation scales from the calibration, one per denoising step, no look at the data.

As in TQ-DiT's time grouping, Hwang et al. 2025, https://arxiv.org/abs/2502.04056

Shapes: X_t [n, i] input in window k(t); W [o, i] weight; d_k, z_k one scale and zero per window.

    Y   = Q_k(X_t) . Q_weight(W)^T + bias
    d_k = (h_k - l_k) / (2^b - 1)                l_k, h_k: extremes over the calibrated steps of window k
    d_k = max(-l_k, h_k) / (2^(b-1) - 1)         where the plan's activations are symmetric

The other end from dynamic rows: nothing is measured at run time, so one range must hold for all
tokens, samples and both guidance branches; what lies beyond it is clipped. Ours: every step of the
calibration's sampler is a window unless `ranges=window` keeps the plan's, ranges are extremes without
a clipping search, weights are rounded to nearest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from ..balancing import required
from ..calibration import InputStatistics
from ..cards import Card, Option
from ..plans import refined, with_windows
from ..ranges import static, static_ranges
from ..rounding import round_to_nearest
from ..schema import Plan, SitePlan, Value
from ..site_tensors import Transform
from .base import Group, Rounded

CARD = Card(
    key="static-step",
    title="Static per step",
    paper="https://arxiv.org/abs/2502.04056",
    bits=("w8a8", "w6a6", "w4a8"),
    integers=True,
    beats="static-step ranges=window",
    beats_at=("w8a8", "w6a6"),
    needs=("minimum", "maximum"),
    summary="Activation ranges from the calibration, one per denoising step or window, per tensor; no transform.",
    options=(
        Option("ranges", "step", "one range per calibrated step, or per window of the plan"),
        Option("granularity", "tensor", "one range per tensor, or per group of channels"),
        Option("group_size", 32, "with granularity=group: channels that share a range"),
    ),
)


class Options(Value):
    """Knobs; see the card for what they mean."""

    ranges: Literal["step", "window"] = "step"
    granularity: Literal["tensor", "group"] = "tensor"
    group_size: int = Field(default=32, ge=8)


def planned(
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Options,
    seed: int,
) -> Plan:
    """Static formats; with one range per step, every step its own window."""
    if options.ranges == "step":
        plan = with_windows(plan, refined(plan.windows, timesteps))
    sites = {
        name: static(site, options.granularity, options.group_size)
        for name, site in plan.sites.items()
    }
    return plan.model_copy(update={"sites": sites})


def stored_formats(site: SitePlan, in_features: int, options: Options, steps: int) -> SitePlan:
    """A range for each of `steps` steps."""
    count = max(steps, len(site.activations)) if options.ranges == "step" else len(site.activations)
    repeated = (site.activations * count)[:count]
    site = SitePlan(weight=site.weight, activations=repeated)
    return static(site, options.granularity, options.group_size)


def stored_transform(options: Options) -> Transform:
    """Nothing but the ranges, which belong to the format."""
    return Transform()


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """Ranges of the input, shared by the sites that read it; weights to nearest."""
    found = required(seen, group)
    made = []
    for site in group.sites:
        fmt = site.plan.weight
        weight = site.weight if fmt is None else round_to_nearest(site.weight, fmt)
        ranges = static_ranges(group, site.plan, found)
        made.append(Rounded(weight, ranges=ranges, notes={"windows": len(site.plan.activations)}))
    return made
