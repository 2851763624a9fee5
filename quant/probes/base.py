"""What probes share: the groups that a method would quantize, where they are, and what an error is made of.

Shapes: X [n, i] calibration rows; W [o, i] weight; X' = X / s R, W' = W * s R.

    error      = ||X W^T - Q(X') Q(W')^T||^2 / ||X W^T||^2      `quant.balancing.output_error`
    weight     = the same with X' in full precision
    activation = the same with W' in full precision
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..balancing import output_error, required
from ..cards import load_method
from ..methods.base import Group
from ..models import Model
from ..plans import uniform_plan
from ..recording import InputStatistics
from ..schema import Bits, Plan, Sampler, SitePlan, Value
from ..seen import Seen
from ..site_groups import groups_of
from ..site_tensors import Transform
from ..transforms import BlockRotation

SEED = 0  # of signs and rotations, as `quantize` takes it

OnStep = Callable[[int, int], None] | None
Basis = tuple[Tensor | None, Tensor | None, BlockRotation | None]  # s, signs, block rotation


def plan_and_groups(
    model: Model, seen: Seen, sampler: Sampler, method: str, bits: Bits, options: Value
) -> tuple[Plan, list[tuple[Group, InputStatistics]]]:
    """The plan of `method` at these bits, with every group that it quantizes and its statistics."""
    plan = uniform_plan(model, bits, sampler=sampler)
    plan, groups = groups_of(model, method, plan, options, seen, seed=SEED)
    return plan, [(group, required(found, group)) for group, found in groups]


def stored_transform(method: str, options: Value) -> Transform:
    """What a site of `method` stores beside its codes at most."""
    return load_method(method).stored_transform(options)


def by_window(
    group: Group, seen: InputStatistics, per_window: bool
) -> Iterator[tuple[Group, InputStatistics]]:
    """Of each window of the plan the group and the statistics of its steps; else all in one."""
    if not per_window:
        yield group, seen
        return
    for k, steps in enumerate(group.calibrated(len(seen.count))):
        yield group.in_window(k), seen.during(steps)


def windows_json(plan: Plan, seen: Seen, per_window: bool) -> list[dict[str, Any]]:
    """The windows that `by_window` goes through: steps, and the half-open timestep range."""
    if not per_window:
        return [{"steps": list(range(len(seen.timesteps))), "low": None, "high": None}]
    return [
        {
            "steps": [i for i, t in enumerate(seen.timesteps) if w.low <= t < w.high],
            "low": w.low,
            "high": w.high,
        }
        for w in plan.windows
    ]


def input_json(seen: Seen, group: Group) -> dict[str, Any]:
    """Which input a group reads: name, sites, roles, block, channels."""
    entry = next(e for e in seen.entries if e["name"] == group.input_of)
    return {key: entry[key] for key in ("name", "sites", "roles", "block", "channels")}


def split_error(group: Group, seen: InputStatistics, basis: Basis) -> dict[str, float]:
    """Error, and what of it the weight or the activation alone would make; see the module."""
    parts = {"error": group, "weight": _only(group, weight=True), "activation": _only(group)}
    scale, signs, blocks = basis
    return {
        part: rounded(output_error(of, seen.rows, seen.row_steps, scale, signs, blocks=blocks))
        for part, of in parts.items()
    }


def _only(group: Group, weight: bool = False) -> Group:
    """The group with one side in full precision."""
    sites = []
    for site in group.sites:
        kept = site.plan.activations if not weight else (None,) * len(site.plan.activations)
        plan = SitePlan(weight=site.plan.weight if weight else None, activations=kept)
        sites.append(replace(site, plan=plan))
    return replace(group, sites=tuple(sites))


def rounded(value: float) -> float:
    """Five significant digits: enough to draw and to order."""
    return float(f"{value:.5g}")


def all_rounded(values: Sequence[float] | Tensor) -> list[float]:
    """Of a list of numbers."""
    return [rounded(float(v)) for v in values]
