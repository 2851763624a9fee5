"""What cutting the steps into windows brings: the output error of every run of steps with a transform of its own.

TR-DQ, https://arxiv.org/abs/2503.06564: windows over steps, K in {1, 2, 4, steps} (released code; which of
them pays is shown nowhere). Measured so (ours):

    intervals  all runs [a, b) between GRID equal cuts of the steps, so K = 1, 2, 4 and what lies between;
               every single step, for K = steps; where windows are asked for as borders, those alone
    error      of the transform found on the first half of the rows of steps a .. b-1, on the other half:
               ||X W^T - Q(X') Q(W')^T||^2 / ||X W^T||^2, mean over steps, sum over the sites of an input
    alpha      found by the first half, of NEAR the best over all steps (the method searches all ten)

Rows that a transform was not found on are what windows are judged by: on its own rows a shorter window
is never worse. A window's error is the mean over its steps, so those of several windows add up by steps.

Memory is counted from shapes, not measured: bytes on disk of every tier and number of windows, and what
a simulating copy holds, `quant.residency`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..alphas import alpha_of
from ..balancing import output_error
from ..generation import make_scheduler
from ..methods import trdq
from ..methods.base import Group
from ..models import Model
from ..plans import uniform_formats
from ..recording import InputStatistics
from ..residency import Resident, predicted
from ..schema import Bits, Sample, Sampler
from ..seen import Seen
from ..sizes import SizeReport, predict_size
from ..storage import stored_tensors
from . import ProbeCard, base

CARD = ProbeCard(
    key="windows",
    title="Windows of steps",
    methods=("trdq",),
    needs=("minimum", "maximum", "rows"),
    summary="Output error with a transform for every run of steps; bytes of each storage tier.",
)

GRID = 8  # equal cuts; K = 1, 2 and 4 lie on them
MOST_SINGLE = 32  # steps that each get a window of their own, at most
MOST_INPUTS = 32  # that are looked at, evenly over the blocks
NEAR = (-0.2, 0.0, 0.2)  # alphas about the best one over all steps


def measure(
    model: Model,
    seen: Seen,
    sampler: Sampler,
    samples: Sequence[Sample],
    *,
    method: str,
    bits: Bits,
    options: trdq.Options,
    on_step: base.OnStep = None,
) -> dict[str, Any]:
    """`timesteps`, `log_snr` [steps]; `intervals` [[a, b]]; of `inputs` [i] errors and alphas [i][interval]."""
    whole = options.model_copy(update={"windows": 1, "activations": "dynamic"})
    _, every = base.plan_and_groups(model, seen, sampler, method, bits, whole)
    groups = _spread(every, MOST_INPUTS)
    steps = len(seen.timesteps)
    intervals = intervals_of(steps, options.windows)
    errors, alphas = [], []
    for index, (group, found) in enumerate(groups):
        fit, held = _halves(found)
        own = whole.model_copy(update={"alpha": alpha_of(whole.alpha, group)})
        best, first = _errors(group, fit, held, own, trdq.ALPHAS)
        errors.append([base.rounded(first)])
        alphas.append([best])
        near = sorted({min(max(round(best + d, 6), 0.0), 1.0) for d in NEAR})
        for number, (a, b) in enumerate(intervals[1:], 1):
            run = range(a, b)
            alpha, error = _errors(group, fit.during(run), held.during(run), own, near)
            errors[-1].append(base.rounded(error))
            alphas[-1].append(alpha)
            if on_step is not None:
                on_step(index * len(intervals) + number + 1, len(groups) * len(intervals))
    return {
        "timesteps": list(seen.timesteps),
        "log_snr": log_snr(sampler, seen.timesteps),
        "intervals": [list(interval) for interval in intervals],
        "inputs": [base.input_json(seen, group) for group, _ in groups],
        "of_inputs": len(every),
        "error": errors,
        "alpha": alphas,
        "rows": min(int((found.row_steps == 0).sum()) for _, found in groups),
        "memory": memory(model, bits, whole, steps),
    }


def intervals_of(steps: int, windows: object) -> list[tuple[int, int]]:
    """The runs [a, b) of steps to measure, all of them first; `windows` may be first steps of later windows."""
    cuts = sorted({steps * k // GRID for k in range(GRID + 1)})
    found = list(itertools.combinations(cuts, 2))
    if steps <= MOST_SINGLE:
        found += [(step, step + 1) for step in range(steps)]
    if isinstance(windows, tuple):
        found = list(itertools.pairwise([0, *windows, steps]))
    return [(0, steps), *sorted(set(found) - {(0, steps)})]


def _errors(
    group: Group,
    fit: InputStatistics,
    held: InputStatistics,
    options: trdq.Options,
    alphas: Sequence[float],
) -> tuple[float, float]:
    """The alpha of the least error on the rows that the transform is found on, and its error on the others."""
    tried = []
    for alpha in (options.alpha,) if isinstance(options.alpha, float) else alphas:
        fixed = options.model_copy(update={"alpha": alpha})
        scale, blocks, _ = trdq.chosen(group, fit, fixed, base.SEED)
        on_fit = output_error(group, fit.rows, fit.row_steps, scale, None, blocks=blocks)
        tried.append((on_fit, float(alpha), scale, blocks))
    _, alpha, scale, blocks = min(tried, key=lambda way: way[0])
    return alpha, output_error(group, held.rows, held.row_steps, scale, None, blocks=blocks)


def _halves(seen: InputStatistics) -> tuple[InputStatistics, InputStatistics]:
    """The same statistics with every other row of each step: rows lie in a random order."""
    turn = torch.zeros(len(seen.rows), dtype=torch.long)
    for step in seen.row_steps.unique():
        own = seen.row_steps == step
        turn[own] = torch.arange(int(own.sum())) % 2
    first, second = (
        replace(
            seen,
            rows=seen.rows[turn == half],
            row_steps=seen.row_steps[turn == half],
            row_branches=seen.row_branches[turn == half],
        )
        for half in (0, 1)
    )
    return first, second


def _spread(groups: list[Any], most: int) -> list[Any]:
    """At most so many, evenly from first to last."""
    if len(groups) <= most:
        return groups
    return [groups[round(i * (len(groups) - 1) / (most - 1))] for i in range(most)]


def log_snr(sampler: Sampler, timesteps: Sequence[float]) -> list[float | None]:
    """Log of signal over noise power at every timestep; None where it is not finite or not known."""
    scheduler = make_scheduler(sampler)
    kept = getattr(scheduler, "alphas_cumprod", None)
    found: list[float | None] = []
    for t in timesteps:
        if kept is None or getattr(scheduler.config, "use_flow_sigmas", False):
            share = t / float(getattr(scheduler.config, "num_train_timesteps", 1000))  # sigma
            signal, noise = (1 - share) ** 2, share**2
        else:
            low = min(max(int(t), 0), len(kept) - 1)
            high = min(low + 1, len(kept) - 1)
            signal = float(kept[low] + (kept[high] - kept[low]) * (t - low))
            noise = 1 - signal
        usable = signal > 0 and noise > 0
        found.append(base.rounded(math.log(signal / noise)) if usable else None)
    return found


def memory(model: Model, bits: Bits, options: trdq.Options, steps: int) -> dict[str, Any]:
    """Bytes by tier, for 1, 2, .. windows: `disk`, `resident`; and `full`, the 16-bit transformer."""
    shared = set(stored_tensors(model.transformer, model.source_dtype).shared)

    def size(tier: str, count: int) -> tuple[SizeReport, Resident]:
        own = options.model_copy(update={"tier": tier, "windows": 1 if count == 1 else "step"})
        formats = uniform_formats(model.sites, bits, windows=1 if tier == "B" else count)
        transforms = dict.fromkeys(formats, trdq.stored_transform(own))
        report = predict_size(
            model.transformer,
            model.sites,
            formats,
            transforms,
            dtype=model.source_dtype,
            shared=shared,
        )
        return report, predicted(report, model.sites, formats, transforms)

    tiers = {}
    for tier in trdq.TIERS:
        made = [size(tier, count) for count in range(1, steps + 1)]
        tiers[tier] = {
            "disk": [report.total_bytes for report, _ in made],
            "resident": [held.stored_bytes + held.expanded_bytes for _, held in made],
        }
    return {"full": size("B", 1)[0].fp16_bytes, "tiers": tiers, "evidence": "predicted"}
