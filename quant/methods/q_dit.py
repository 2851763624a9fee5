"""Q-DiT: group sizes allocated input by input under a budget, activations scaled as they come.

Chen et al., CVPR 2025, https://arxiv.org/abs/2406.17343

Shapes: X [b, n, i] input of b samples; W [o, i] weight; g channels per group, i/g groups.

    Y     = Q_act(X) . Q_weight(W)^T + bias
    Q_act:    d = range of X over the g channels of a group of a token, or of a sample / (2^b - 1)
    Q_weight: d = range of W over the g channels of a group of a row / (2^b - 1)
    g     = argmin of the summed output error, one g per input, scales stored <= those of g = budget

Ranges are those of the sample at hand, at every step: nothing is calibrated but g. An input and the
weights that read it share g. Read in the released code: it scales every token by itself; with
`activations=sample` the tokens of a sample share a scale, as the paper's wording has it. Departs from
both: they search g by evolution on the Frechet distance of generated pictures, under a bound on the
mean group size; here every candidate's relative output error on calibration rows is measured and the
best sum under a bound on bytes is found exactly. Candidates are sizes that divide the width; in the
search the rows of one step stand for a sample. No integer kernel here computes with activation
groups: simulated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from ..balancing import output_error, required
from ..calibration import InputStatistics
from ..cards import Card, Option
from ..effort import GroupShape, Work, judging, rounding
from ..knapsack import cheapest_loss
from ..schema import Format, Plan, SitePlan, Value
from ..site_tensors import Transform
from .base import Group, Rounded, transformed_and_rounded

CARD = Card(
    key="q-dit",
    title="Q-DiT",
    paper="https://arxiv.org/abs/2406.17343",
    bits=("w8a8", "w6a8", "w4a8", "w4a4"),
    integers=True,
    beats="rtn",
    needs=("rows",),
    summary="Group size of every input searched under a budget; dynamic activations in the same groups.",
    options=(
        Option("budget", 128, "group size whose scales the allocation may take in all"),
        Option("activations", "token", "a scale per group for every token, or for a whole sample"),
    ),
)

SIZES = (32, 64, 96, 128, 192, 256, 288)


class Options(Value):
    """Knobs; see the card for what they mean."""

    budget: int = Field(default=128, ge=32)
    activations: Literal["token", "sample"] = "token"


def sizes_for(width: int) -> list[int]:
    """Candidates for an input; its whole width where none divides it."""
    return [size for size in SIZES if width % size == 0] or [width]


def budgeted(width: int, budget: int) -> int:
    """The group size that an input has when the budget is spent evenly."""
    sizes = sizes_for(width)
    return max((size for size in sizes if size <= budget), default=sizes[0])


def grouped(site: SitePlan, size: int, options: Options) -> SitePlan:
    """The site's integers in groups of that size."""
    where = "q-dit"
    kind = "sample" if options.activations == "sample" else "group"
    weight = {"granularity": "group", "group_size": size}
    activation = {"granularity": kind, "group_size": size}
    return SitePlan(
        weight=None
        if site.weight is None
        else Format.parse({**site.weight.to_json(), **weight}, where),
        activations=tuple(
            None if f is None else Format.parse({**f.to_json(), **activation}, where)
            for f in site.activations
        ),
    )


def with_size(group: Group, size: int, options: Options) -> Group:
    """The group with every site in groups of that size."""
    sites = tuple(replace(site, plan=grouped(site.plan, size, options)) for site in group.sites)
    return replace(group, sites=sites)


def planned(
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Options,
    seed: int,
) -> Plan:
    """One group size per input: the least summed error that the budget allows."""
    items: list[Group] = []
    losses, costs, budget = [], [], 0.0
    for group, seen in groups:
        found = required(seen, group)
        sizes = sizes_for(group.width)
        tried = [with_size(group, size, options) for size in sizes]
        losses.append([output_error(g, found.rows, found.row_steps, None, None) for g in tried])
        weights = sum(site.weight.numel() for site in group.sites)
        costs.append([weights / size for size in sizes])
        budget += weights / budgeted(group.width, options.budget)
        items.append(
            replace(group, sites=tuple(replace(s, weight=s.weight[:0]) for s in group.sites))
        )
    chosen = cheapest_loss(losses, costs, budget)
    sites = dict(plan.sites)
    for group, choice in zip(items, chosen, strict=True):
        size = sizes_for(group.width)[choice]
        sites |= {site.name: grouped(site.plan, size, options) for site in group.sites}
    return plan.model_copy(update={"sites": sites})


def stored_formats(site: SitePlan, in_features: int, options: Options, steps: int) -> SitePlan:
    """With the budget spent evenly: in all, the allocation stores at most as much."""
    return grouped(site, budgeted(in_features, options.budget), options)


def stored_transform(options: Options) -> Transform:
    """Nothing is stored beside codes and scales."""
    return Transform()


def work(shape: GroupShape, options: Options) -> Work:
    """A judgement for every candidate size, then the codes."""
    return judging(shape) * len(sizes_for(shape.width)) + rounding(shape)


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """Round to nearest in the groups that the plan has by now."""
    size = group.sites[0].plan.weight.group_size if group.sites[0].plan.weight else None
    return [transformed_and_rounded(site, None, None, {"group_size": size}) for site in group.sites]
