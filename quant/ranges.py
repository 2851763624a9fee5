"""Static activation ranges from the calibration: one per step window and channel group.

Shapes: x_min, x_max [steps, branches, i] of the calibration; s [i] channel scale; l, h [k, g].

    l_kg = min over the window's steps, both branches, the group's channels of x_min / s
    h_kg = max                                                                of x_max / s

With `clipped_ranges` they come from rows that were transformed, and shrink by the ratio that leaves the
least squared error: c = argmin over RATIOS of ||x - Q(x; c l, c h)||^2, per tensor.

A window into which no calibrated step falls (a sampler with fewer steps) takes all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .calibration import InputStatistics
from .errors import BadInput
from .methods.base import Group
from .rounding import Ranges, groups_of, ranges_between, rounded_statically
from .schema import Format, SitePlan

RATIOS = tuple(1 - r / 20 for r in range(13))  # 1, 0.95 .. 0.4


def static(plan: SitePlan, granularity: str = "tensor", group_size: int | None = None) -> SitePlan:
    """The same integers, with activation ranges from the calibration."""
    if any(f is not None and f.kind != "int" for f in plan.activations):
        raise BadInput("static activation ranges are for integers; give bits like w8a8")
    size = group_size if granularity == "group" else None
    update = {"static": True, "granularity": granularity, "group_size": size}
    activations = tuple(
        f if f is None else Format.parse({**f.to_json(), **update}, f"static {f}")
        for f in plan.activations
    )
    return SitePlan(weight=plan.weight, activations=activations)


def static_ranges(
    group: Group, plan: SitePlan, seen: InputStatistics, scale: Tensor | None = None
) -> Ranges | None:
    """Scales of a site's static activations, None where it has none."""
    if not plan.static_formats:
        return None
    fmt = plan.static_formats[0]
    low, high = seen.minimum.amin(1), seen.maximum.amax(1)  # [steps, i]
    if scale is not None:
        low, high = low / scale, high / scale
    windows = [list(steps) for steps in group.calibrated(len(low))]
    groups = groups_of(fmt, group.width)
    lows = torch.stack([low[w].amin(0).reshape(groups, -1).amin(1) for w in windows])  # [k, g]
    highs = torch.stack([high[w].amax(0).reshape(groups, -1).amax(1) for w in windows])
    found = [
        ranges_between(lows[k : k + 1], highs[k : k + 1], f if f is not None and f.static else fmt)
        for k, f in enumerate(plan.activations)
    ]
    zero = None if fmt.symmetric else torch.cat([r.zero for r in found if r.zero is not None])
    return Ranges(torch.cat([r.scale for r in found]), zero)


def clipped_ranges(group: Group, plan: SitePlan, x: Tensor, steps: Tensor) -> Ranges | None:
    """Scales of a site's static activations for transformed rows x [n, i] of these steps [n]."""
    if not plan.static_formats:
        return None
    fmt, found = plan.static_formats[0], []
    for own in group.calibrated(int(steps.max()) + 1):
        rows = x[torch.isin(steps, torch.tensor(own))]
        low, high = (rows if len(rows) else x).aminmax()
        tried = [ranges_between(r * low.view(1, 1), r * high.view(1, 1), fmt) for r in RATIOS]
        lost = [float((_on(rows, fmt, r) - rows).square().sum()) for r in tried]
        found.append(tried[lost.index(min(lost))])
    zero = None if fmt.symmetric else torch.cat([r.zero for r in found if r.zero is not None])
    return Ranges(torch.cat([r.scale for r in found]), zero)


def _on(x: Tensor, fmt: Format, ranges: Ranges) -> Tensor:
    zero = None if ranges.zero is None else ranges.zero[0]
    return rounded_statically(x, fmt, ranges.scale[0], zero)
