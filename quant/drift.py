"""Where along the sampling a quantized network goes wrong, per step and guidance branch.

With full precision's inputs x_t and outputs f(x_t), the quantized network q, its own inputs y_t, and
relative errors |a, b| = ||a - b|| / ||b||, all per sample and then averaged over the samples:

    teacher-forced   a(t) = |q(x_t), f(x_t)|       what step t itself does wrong, for the conditional,
                                                   the unconditional and the guided output
    free-running     b(t) = |y_t, x_t|             what has gathered before step t; b(0) is the
                                                   starting noise, the last one the final latent
    amplification    b(t+1) / (b(t) + a(t))        how the sampler treats both; a(t) of the guided output
    guidance adds    a_guided(t) / a_cond(t)       how much guidance enlarges the network's error

Shapes: x, y [steps, n, c, h, w]. A ratio without a denominator, and what a run without guidance
does not have, is null. Steps count from the noisiest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .errors import BadInput
from .evaluate import check_pair
from .generation import Generation, Trajectory, make_scheduler, predict, scale_input
from .metrics.latent_error import measure as relative_error
from .models import Model
from .schema import Sampler, Value

Series = tuple[float | None, ...]  # one number per step
BRANCHES = ("cond", "uncond", "guided")


class TeacherForced(Value):
    """Error of single network evaluations on full precision's inputs."""

    cond: Series
    uncond: Series | None  # None without guidance
    guided: Series


class PerSample(Value):
    """The two errors that are drawn as a strip under each picture, [steps][n]."""

    teacher_forced: tuple[Series, ...]  # guided
    free_running: tuple[Series, ...]  # one entry more than there are steps


class Drift(Value):
    """Error along the trajectory; series over steps, the noisiest first."""

    timesteps: tuple[float, ...]
    samples: int
    teacher_forced: TeacherForced
    free_running: Series  # steps + 1: before every step, then the final latents
    amplification: Series
    guidance_added: Series
    per_sample: PerSample


def drift(
    model: Model,
    reference: Generation,
    candidate: Generation,
    transformer: nn.Module,
    *,
    batch_size: int = 8,
    on_step: Callable[[int, int], None] | None = None,
) -> Drift:
    """Error of `transformer` along full precision's trajectory.

    Args:
        model: the pipeline that both were drawn with.
        reference: full precision, recorded.
        candidate: drawn with `transformer` from the same samples, recorded.
        transformer: the quantized network.
        batch_size: samples per network evaluation.
        on_step: called with (steps done, steps in all); may raise `Cancelled`.
    """
    check_pair(reference, candidate)
    if reference.trajectory is None or candidate.trajectory is None:
        raise BadInput("error along the trajectory needs recorded runs: generate(..., record=True)")
    forced = _teacher_forced(
        model, reference, reference.trajectory, transformer, batch_size, on_step
    )
    free = _free_running(
        reference, candidate, reference.trajectory, candidate.trajectory
    )  # [steps + 1, n]
    mean = {branch: error.mean(axis=1) for branch, error in forced.items()}  # [steps] each
    a, b = mean["guided"], free.mean(axis=1)
    guided = "uncond" in mean
    return Drift(
        timesteps=reference.trajectory.timesteps,
        samples=len(reference.samples),
        teacher_forced=TeacherForced(
            cond=_series(mean["cond"]),
            uncond=_series(mean["uncond"]) if guided else None,
            guided=_series(a),
        ),
        free_running=_series(b),
        amplification=_series(_ratio(b[1:], b[:-1] + a)),
        guidance_added=_series(_ratio(a, mean["cond"]) if guided else np.full(len(a), np.nan)),
        per_sample=PerSample(
            teacher_forced=tuple(_series(row) for row in forced["guided"]),
            free_running=tuple(_series(row) for row in free),
        ),
    )


def _teacher_forced(
    model: Model,
    reference: Generation,
    trajectory: Trajectory,
    transformer: nn.Module,
    batch_size: int,
    on_step: Callable[[int, int], None] | None,
) -> dict[str, np.ndarray]:
    """Relative error by branch, float64[steps, n]; no "uncond" without guidance."""
    branches = [b for b in BRANCHES if getattr(trajectory, b) is not None]
    errors = {branch: np.zeros(trajectory.inputs.shape[:2]) for branch in branches}
    count = len(reference.samples)
    for step, timestep in enumerate(trajectory.timesteps):
        scaled = _network_input(
            reference.sampler, trajectory.inputs[step], timestep
        )  # [n, c, h, w]
        for first in range(0, count, batch_size):
            rows = slice(first, first + batch_size)
            samples = reference.samples[rows]
            out = predict(model, scaled[rows], timestep, samples, reference.sampler, transformer)
            for branch in branches:
                truth = getattr(trajectory, branch)[step, rows]
                errors[branch][step, rows] = relative_error(truth, getattr(out, branch))
        if on_step is not None:
            on_step(step + 1, len(trajectory.timesteps))
    return errors


def _network_input(sampler: Sampler, latents: Tensor, timestep: float) -> Tensor:
    """Latents as the scheduler hands them to the network at this step."""
    scheduler = make_scheduler(sampler)
    return scale_input(scheduler, latents, torch.tensor(timestep))


def _free_running(ours: Generation, theirs: Generation, x: Trajectory, y: Trajectory) -> np.ndarray:
    """Relative latent error before every step and at the end, float64[steps + 1, n]."""
    steps = [relative_error(ours_t, theirs_t) for ours_t, theirs_t in zip(x.inputs, y.inputs)]
    return np.stack([*steps, relative_error(ours.latents, theirs.latents)])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, float64[steps]; NaN where below is 0."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below != 0)


def _series(values: Sequence[float] | np.ndarray) -> Series:
    """With null for what is not finite."""
    return tuple(float(v) if np.isfinite(v) else None for v in values)
