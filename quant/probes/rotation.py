"""What the greedy block rotations do, factor by factor, and a Hadamard matrix in their place.

TR-DQ, https://arxiv.org/abs/2503.06564; DuQuant, https://arxiv.org/abs/2406.01721 (the search: read in
released code); the comparison with a Hadamard matrix is ours.

Shapes: X [n, i] calibration rows of a window; s [i]; b channels of a block, m = i / b blocks.

    X1 = X / s (I (x) B1)      X2 = X1 P      X3 = X2 (I (x) B2)
    peaks           max(X) - min(X) after 0, 1, .. factors of B1, then of B2
    block abs-max   mean over a block's channels of max_n |X|: of X1 as it lies, and of X2
    psi             max |g| / mean |g| of a row g, mean and 99th percentile over the rows
    error           as in `quant.probes.base`, of: X; X / s; X1; X3; X / s with a Hadamard matrix
    multiply-adds   per element of the input, at every call

s is the method's own: its alpha, or the one of 0, 0.1 .. 0.9 with the least error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import kernels

from ..alphas import SEARCH, alpha_of
from ..balancing import moving_average, output_error, weight_max
from ..methods.base import Group
from ..methods.trdq import ALPHAS, MOMENTUM
from ..models import Model
from ..recording import InputStatistics
from ..rotations import ROWS, block_rotation, generator_of, greedy_rotation, zigzag
from ..schema import Bits, Sample, Sampler, Value
from ..seen import Seen
from ..transforms import (
    BlockRotation,
    block_of,
    channel_scale,
    in_blocks,
    incoherence,
    random_signs,
    to_input,
)
from . import ProbeCard, base

CARD = ProbeCard(
    key="rotation",
    title="Rotation",
    methods=("trdq",),
    needs=("minimum", "maximum", "rows"),
    summary="Peak after every factor of the greedy search, what the permutation does to the blocks, and a Hadamard matrix beside it.",
)


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
    """`windows`; of each of `inputs`, per window: alpha, block, peaks, block abs-max, ways compared."""
    transform = base.stored_transform(method, options)
    plan, groups = base.plan_and_groups(model, seen, sampler, method, bits, options)
    inputs = []
    for index, (group, found) in enumerate(groups):
        parts = base.by_window(group, found, transform.per_window)
        looked = [look(part, own, options, transform.block) for part, own in parts]
        inputs.append({**base.input_json(seen, group), "windows": looked})
        if on_step is not None:
            on_step(index + 1, len(groups))
    return {"windows": base.windows_json(plan, seen, transform.per_window), "inputs": inputs}


def look(group: Group, seen: InputStatistics, options: Value, most: int) -> dict[str, Any]:
    """One input in one window."""
    alpha, scale = chosen_scale(group, seen, options, most)
    b = block_of(group.width, most)
    x = (seen.rows / scale)[:ROWS]
    # The same draws as `block_rotation` makes, with what it looked at on the way.
    generator = generator_of(base.SEED, group.input_of)
    first, peaks1 = greedy_rotation(x, b, generator)
    x1 = in_blocks(x, first)
    order = zigzag(x1.abs().amax(0), group.width // b)
    x2 = x1[:, order]
    second, peaks2 = greedy_rotation(x2, b, generator)
    blocks = BlockRotation(first, order, second)
    identity = torch.arange(group.width)
    only_first = BlockRotation(first, identity, torch.eye(b))
    signs = random_signs(group.width, base.SEED, group.input_of)
    ways: dict[str, tuple[base.Basis, int]] = {
        "plain": ((None, None, None), 0),
        "scale": ((scale, None, None), 0),
        "first": ((scale, None, only_first), b),
        "greedy": ((scale, None, blocks), 2 * b),
        "hadamard": ((scale, signs, None), kernels.hadamard.cost(group.width)),
    }
    return {
        "alpha": alpha,
        "block": b,
        "peaks": [base.all_rounded(peaks1), base.all_rounded(peaks2)],
        "kept": [_least(peaks1), _least(peaks2)],
        "block_absmax": {
            "before": base.all_rounded(_per_block(x1, b)),
            "after": base.all_rounded(_per_block(x2, b)),
        },
        "ways": {
            key: {
                **_psi(to_input(seen.rows, *basis)),
                **base.split_error(group, seen, basis),
                "multiply_adds": cost,
            }
            for key, (basis, cost) in ways.items()
        },
    }


def chosen_scale(
    group: Group, seen: InputStatistics, options: Value, most: int
) -> tuple[float, Tensor]:
    """Alpha and s: given, or of the least error with the rotation that belongs to it."""
    a, w_max = moving_average(seen.absmax.amax(1), MOMENTUM), weight_max(group)
    given = alpha_of(getattr(options, "alpha", SEARCH), group)
    if isinstance(given, float):
        return given, channel_scale(a, w_max, given)
    tried = []
    for alpha in ALPHAS:
        scale = channel_scale(a, w_max, alpha)
        blocks = block_rotation(seen.rows / scale, base.SEED, group.input_of, most)
        error = output_error(group, seen.rows, seen.row_steps, scale, None, blocks=blocks)
        tried.append((error, alpha, scale))
    _, alpha, scale = min(tried, key=lambda way: way[0])
    return alpha, scale


def _least(peaks: Sequence[float]) -> int:
    """How many factors were kept."""
    return min(range(len(peaks)), key=lambda k: peaks[k])


def _per_block(x: Tensor, b: int) -> Tensor:
    """Mean over a block's channels of their largest |x|, [m]."""
    return x.abs().amax(0).reshape(-1, b).mean(1)


def _psi(x: Tensor) -> dict[str, float]:
    psi = incoherence(x)
    return {
        "psi": base.rounded(float(psi.mean())),
        "psi_p99": base.rounded(float(psi.quantile(0.99))),
    }
