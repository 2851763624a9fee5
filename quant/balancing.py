"""Choosing the change of basis for the sites that read one tensor, by the error that it leaves.

Shapes: X [n, i] calibration rows; W [o, i] weight; s [i] channel scale; R [i, i] orthogonal.

    a     = first, max, mean or moving average over the steps of max_n |X|         one |X| per channel
    w_max = max over the sites and their outputs of |W|
    s     = a^alpha / w_max^(1 - alpha)
    error = sum over sites, mean over steps t of
            ||X_t W^T - Q((X_t / s) R) Q((W * s) R)^T||^2 / ||X_t W^T||^2       X_t: rows of step t

(SmoothQuant, arXiv 2211.10438; ViDiT-Q, arXiv 2406.02540.) Sites that read one tensor share s and R,
so that the input side runs once. Every step counts alike (ours): pooled over steps, those with the
largest activations would decide for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from .calibration import InputStatistics
from .errors import BadInput
from .methods.base import Group, Rounded, SiteWeight, transformed_and_rounded
from .rounding import rounded_rows
from .schema import Format, Value
from .transforms import (
    NO_ROTATION,
    BlockRotation,
    channel_scale,
    incoherence,
    random_signs,
    rotation_of,
    to_input,
)
from .vectors import VectorCodes

STATISTICS = ("first", "max", "mean", "ema")
EMA_MOMENTUM = 0.95
INCOHERENT = 8.0  # psi; a Gaussian row has 4 to 5
CHANGING = 1.5  # largest psi over the smallest of all steps

TransformName = Literal["plain", "scale", "rotate", "both"]
StatisticName = Literal["first", "max", "mean", "ema"]


class Candidate(Value):
    """One way to balance an input."""

    transform: TransformName
    alpha: float | None = None
    act_stat: str | None = None

    @property
    def scales(self) -> bool:
        """Whether it has a channel scale."""
        return self.transform in ("scale", "both")

    @property
    def rotates(self) -> bool:
        """Whether it has a Hadamard rotation."""
        return self.transform in ("rotate", "both")


def static_statistic(seen: InputStatistics, name: str) -> Tensor:
    """a: one |X| per channel out of those of all steps, larger branch, [i]."""
    per_step = seen.absmax.amax(dim=1)  # [steps, i]
    if name == "first":
        return per_step[0]
    if name == "max":
        return per_step.amax(0)
    if name == "mean":
        return per_step.mean(0)
    return moving_average(per_step, EMA_MOMENTUM)


def moving_average(per_step: Tensor, momentum: float) -> Tensor:
    """Exponential, of per_step [steps, i] from noisy to clean, as sampled, [i]."""
    smoothed = per_step[0]
    for step in per_step[1:]:
        smoothed = momentum * smoothed + (1 - momentum) * step
    return smoothed


def incoherence_profile(seen: InputStatistics) -> Tensor:
    """psi = max |x| / mean |x| of a token, mean over the calibration rows of each step, [present steps]."""
    _, step_of = seen.row_steps.unique(return_inverse=True)
    psi = incoherence(seen.rows)
    return _per_step(psi, step_of) / _per_step(torch.ones_like(psi), step_of)


def to_be_balanced(profile: Tensor, psi: float = INCOHERENT, change: float = CHANGING) -> bool:
    """Whether an input is incoherent at some step, or much more so at one step than at another."""
    return bool(profile.max() > psi or profile.max() > change * profile.min())


def weight_max(group: Group) -> Tensor:
    """w_max: largest |W| per input channel over all sites of the group, [i]."""
    return torch.stack([site.weight.abs().amax(0) for site in group.sites]).amax(0)


def transform_of(
    candidate: Candidate, group: Group, seen: InputStatistics | None, seed: int
) -> tuple[Tensor | None, Tensor | None]:
    """Channel scale and signs of a candidate, shared by the sites of the group."""
    width = group.sites[0].weight.shape[1]
    scale = None
    if candidate.scales:
        assert candidate.alpha is not None
        assert candidate.act_stat is not None
        a = static_statistic(required(seen, group), candidate.act_stat)
        scale = channel_scale(a, weight_max(group), candidate.alpha)
    signs = None
    if candidate.rotates:
        if rotation_of(width) == NO_ROTATION:
            raise BadInput(
                f"{group.input_of} has {width} channels, for which there is no Hadamard rotation here; "
                "take transform=scale, or leave its sites out of the plan"
            )
        signs = random_signs(width, seed, group.input_of)
    return scale, signs


def ways_of(
    kinds: Sequence[TransformName], alphas: Sequence[float], statistics: Sequence[str]
) -> list[Candidate]:
    """Every way of these kinds: with a scale one for each alpha and statistic."""
    found = []
    for kind in kinds:
        if kind in ("plain", "rotate"):
            found.append(Candidate(transform=kind))
        else:
            found += [
                Candidate(transform=kind, alpha=a, act_stat=s) for s in statistics for a in alphas
            ]
    return found


def balanced(
    group: Group,
    seen: InputStatistics | None,
    ways: Sequence[Candidate],
    seed: int,
    said: Mapping[str, object] | None = None,
) -> list[Rounded]:
    """The sites rounded once in the way that leaves the least error; `said` goes into their notes."""
    errors = {}
    if len(ways) > 1:
        found = required(seen, group)
        for way in ways:
            transform = transform_of(way, group, seen, seed)
            errors[way] = output_error(group, found.rows, found.row_steps, *transform)
    best = min(errors, key=lambda way: errors[way]) if errors else ways[0]
    scale, signs = transform_of(best, group, seen, seed)
    notes: dict[str, object] = {**best.to_json(), "error": errors.get(best), **(said or {})}
    if signs is not None:
        notes["rotation"] = rotation_of(group.width)
    return [transformed_and_rounded(site, scale, signs, notes) for site in group.sites]


def required(seen: InputStatistics | None, group: Group) -> InputStatistics:
    """The statistics of the group's input; without them, one line that says what to do."""
    if seen is None:
        raise BadInput(
            f"this method needs calibration statistics of {group.input_of}; run calibrate first"
        )
    return seen


def nearest(
    site: SiteWeight,
    scale: Tensor | None,
    signs: Tensor | None,
    blocks: BlockRotation | None = None,
) -> Rounded:
    """The weight in the new basis, rounded to nearest."""
    return transformed_and_rounded(site, scale, signs, {}, blocks)


def output_error(
    group: Group,
    rows: Tensor,
    steps: Tensor,
    scale: Tensor | None,
    signs: Tensor | None,
    rounding: Callable[[SiteWeight, Tensor | None, Tensor | None], Rounded] = nearest,
    blocks: BlockRotation | None = None,
) -> float:
    """||Y - Y_q||^2 / ||Y||^2, mean over steps, summed over the sites of the group.

    Args:
        group: the sites that read X.
        rows: calibration rows X [n, i].
        steps: the step that each row comes from, integers [n].
        scale, signs: the change of basis.
        rounding: what makes the stored weight of a site, and a branch beside it.
        blocks: a block rotation, part of the change of basis; for nearest rounding.
    """
    transformed = to_input(rows, scale, signs, blocks)
    _, step_of = steps.unique(return_inverse=True)  # [n], 0 .. present steps - 1
    total = 0.0
    for site in group.sites:
        made = (
            rounding(site, scale, signs) if blocks is None else nearest(site, scale, signs, blocks)
        )
        stored = made.weight
        if isinstance(stored, VectorCodes):
            weight = stored.decode()
        else:
            weight = (
                stored if isinstance(stored, Tensor) else stored.dequantize(_bits(site.plan.weight))
            )
        exact = rows @ site.weight.T
        fmt = coarsest(site.plan.activations)
        x = transformed if fmt is None else _rounded(transformed, step_of, fmt)
        y = x @ weight.T
        if made.low_rank is not None:
            y = y + transformed @ made.low_rank.product().T
        lost = _per_step((y - exact).square().sum(1), step_of)
        whole = _per_step(exact.square().sum(1), step_of)
        total += float((lost / whole.clamp(min=1e-12)).mean())
    return total


def _rounded(x: Tensor, step_of: Tensor, fmt: Format) -> Tensor:
    """Activation codes of x [n, i]; where rows share a scale, the rows of one step do."""
    if fmt.granularity not in ("tensor", "sample"):
        return rounded_rows(x, fmt)
    rounded = torch.empty_like(x)
    for step in range(int(step_of.max()) + 1):
        rounded[step_of == step] = rounded_rows(x[step_of == step], fmt, samples=1)
    return rounded


def _per_step(values: Tensor, step_of: Tensor) -> Tensor:
    """Sums of values [n] over the rows of each step, [present steps]."""
    sums = values.new_zeros(int(step_of.max()) + 1)
    return sums.index_add(0, step_of, values)


def coarsest(formats: Sequence[Format | None]) -> Format | None:
    """The format with the fewest bits: what a transform that all windows share must be good for."""
    quantized = [f for f in formats if f is not None]
    return min(quantized, key=lambda f: f.bits) if quantized else None


def _bits(fmt: Format | None) -> int:
    return 16 if fmt is None else fmt.bits
