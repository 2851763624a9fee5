"""How the output error of every input depends on alpha, for the scale alone and for scale and rotation.

Zhao et al., ICLR 2025, https://arxiv.org/abs/2406.02540 (the search of alpha: second-hand text);
TR-DQ, https://arxiv.org/abs/2503.06564 (alpha per window: read in released code).

Shapes: X [n, i] calibration rows; W [o, i] weight; s, a, w_max [i]; R [i, i].

    s     = a^alpha / w_max^(1 - alpha)           a: the method's statistic of |X| per channel
    scale = error of (X / s, W * s)               both = error of (X / s R, W * s R)
    plain = error of (X, W)                       rotate = error of (X R, W R)

R is the method's own: a randomized Hadamard matrix, or greedy block rotations, found anew for every
alpha. Where a method has a transform per window of steps, every window has its own curve (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..balancing import STATISTICS, moving_average, static_statistic, weight_max
from ..methods.base import Group
from ..methods.trdq import MOMENTUM
from ..models import Model
from ..recording import InputStatistics
from ..rotations import block_rotation
from ..schema import Bits, Sample, Sampler, Value
from ..seen import Seen
from ..site_tensors import Transform
from ..transforms import channel_scale, random_signs
from . import ProbeCard, base

CARD = ProbeCard(
    key="alpha",
    title="Error over alpha",
    methods=("viditq", "trdq"),
    needs=("minimum", "maximum", "rows"),
    summary="Output error of every input for eleven values of alpha, with and without the rotation.",
)

ALPHAS = tuple(a / 10 for a in range(11))


def measure(
    model: Model,
    seen: Seen,
    sampler: Sampler,
    samples: Sequence[Sample],
    *,
    method: str,
    bits: Bits,
    options: Value,
    on_step: base.OnStep = None,
) -> dict[str, Any]:
    """`alphas`, `statistic`, `rotation`, `windows`; of each of `inputs`, per window, curves and levels."""
    transform = base.stored_transform(method, options)
    plan, groups = base.plan_and_groups(model, seen, sampler, method, bits, options)
    inputs = []
    for index, (group, found) in enumerate(groups):
        curves = [
            curves_of(part, own, transform, options)
            for part, own in base.by_window(group, found, transform.per_window)
        ]
        inputs.append({**base.input_json(seen, group), "windows": curves})
        if on_step is not None:
            on_step(index + 1, len(groups))
    return {
        "alphas": list(ALPHAS),
        "statistic": str(getattr(options, "act_stat", "moving average")),
        "rotation": "blocks" if transform.block else "hadamard",
        "windows": base.windows_json(plan, seen, transform.per_window),
        "inputs": inputs,
    }


def curves_of(
    group: Group, seen: InputStatistics, transform: Transform, options: Value
) -> dict[str, Any]:
    """`plain`, `rotate`: one error each; `scale`, `both`: one for every alpha, lists by part."""
    statistics = _statistics(seen, options)
    w_max = weight_max(group)
    scale: list[dict[str, float]] = []
    both: list[dict[str, float]] = []
    for alpha in ALPHAS:
        scales = [channel_scale(a, w_max, alpha) for a in statistics]
        for found, rotated in ((scale, False), (both, True)):
            tried = [
                base.split_error(group, seen, _basis(group, seen, s, transform, rotated))
                for s in scales
            ]
            found.append(min(tried, key=lambda e: e["error"]))
    return {
        "plain": base.split_error(group, seen, (None, None, None)),
        "rotate": base.split_error(group, seen, _basis(group, seen, None, transform, True)),
        "scale": _by_part(scale),
        "both": _by_part(both),
    }


def _statistics(seen: InputStatistics, options: Value) -> list[Any]:
    """a, as the method's option `act_stat` says; every one where that is searched."""
    name = getattr(options, "act_stat", None)
    if name is None:
        return [moving_average(seen.absmax.amax(1), MOMENTUM)]
    return [static_statistic(seen, n) for n in (STATISTICS if name == "search" else (name,))]


def _basis(
    group: Group, seen: InputStatistics, scale: Any, transform: Transform, rotated: bool
) -> base.Basis:
    """Scale, and the method's own rotation of what it leaves."""
    if not rotated:
        return scale, None, None
    if transform.block:
        rows = seen.rows if scale is None else seen.rows / scale
        return scale, None, block_rotation(rows, base.SEED, group.input_of, transform.block)
    return scale, random_signs(group.width, base.SEED, group.input_of), None


def _by_part(errors: list[dict[str, float]]) -> dict[str, list[float]]:
    return {part: [e[part] for e in errors] for part in ("error", "weight", "activation")}
