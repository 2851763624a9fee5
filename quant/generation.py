"""Drawing pictures: one sampling loop for every family, full precision and quantized alike.

Starting noise comes from one CPU generator per sample in float32, so a picture depends on its seed
alone and not on the batch it was drawn in, nor on the device.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import Prediction
from .errors import BadInput, unknown
from .models import Model
from .schema import Sample, Sampler


@dataclass(frozen=True)
class StepEvent:
    """One finished denoising step of one batch."""

    step: int  # 0 for the noisiest
    steps: int
    timestep: float
    first: int  # index of the batch's first sample
    samples: tuple[Sample, ...]  # of this batch
    latents: Tensor  # [b, c, h, w], of clips [b, c, f, h, w], after the step
    preview: Callable[[], Tensor]  # decodes the current estimate, as `Generation.images`


@dataclass(frozen=True)
class Trajectory:
    """What the network saw and said at every step; step 0 is the noisiest. Of clips [steps, n, c, f, h, w]."""

    timesteps: tuple[float, ...]  # [steps]
    inputs: Tensor  # [steps, n, c, h, w] latents before each step
    cond: Tensor  # [steps, n, c, h, w] network output, conditional branch
    uncond: Tensor | None  # the same, unconditional; None without guidance
    guided: Tensor  # [steps, n, c, h, w]


@dataclass(frozen=True)
class Generation:
    """Pictures or clips with all that is needed to pair them with others."""

    samples: tuple[Sample, ...]
    sampler: Sampler
    images: Tensor  # [n, h, w, 3], clips [n, f, h, w, 3], float32 in [0, 1], CPU
    latents: Tensor  # [n, c, h, w], of clips [n, c, f, h, w], float32, CPU
    seconds: float  # wall time of the whole generation, decoding included
    trajectory: Trajectory | None = None


def starting_noise(shape: Sequence[int], samples: Sequence[Sample], offset: float = 0.0) -> Tensor:
    """Unit Gaussian noise per sample seed, [n, *shape] float32; `offset` adds that many sigmas of other noise."""
    rows = []
    for sample in samples:
        generator = torch.Generator().manual_seed(sample.seed)
        row = torch.randn(*shape, generator=generator)
        if offset:
            row = row + offset * torch.randn(*shape, generator=generator)
        rows.append(row)
    return torch.stack(rows)


def make_scheduler(sampler: Sampler) -> Any:
    """A fresh diffusers scheduler with its timesteps set."""
    import diffusers
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

    cls: Any = getattr(diffusers, sampler.scheduler, None)
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin)):
        known = [n for n in dir(diffusers) if n.endswith("Scheduler")]
        raise unknown("scheduler", sampler.scheduler, known)
    # JSON has no infinity: what came back as null is the class's own default (lambda_min_clipped).
    config = {name: value for name, value in sampler.config.items() if value is not None}
    if sampler.scheduler == "DDIMScheduler" and "clip_sample" not in config:
        config["clip_sample"] = False  # the class's default greys out latents that exceed 1
    scheduler = cls.from_config(config)  # pyright: ignore[reportAttributeAccessIssue]  (from its ConfigMixin half)
    if sampler.sigmas is None:
        scheduler.set_timesteps(sampler.steps)
    elif "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(sigmas=list(sampler.sigmas))
    else:
        raise BadInput(f"scheduler {sampler.scheduler} takes no noise levels (sigmas) of its own")
    return scheduler


def scale_input(scheduler: Any, latents: Tensor, timestep: Tensor) -> Tensor:
    """What the network sees of `latents`: some schedulers scale, flow-matching ones have no such step."""
    scale = getattr(scheduler, "scale_model_input", None)
    return latents if scale is None else scale(latents, timestep)


def timesteps_of(sampler: Sampler) -> tuple[float, ...]:
    """Scheduler timesteps in the order of sampling, the noisiest first."""
    return tuple(float(t) for t in make_scheduler(sampler).timesteps)


@torch.no_grad()
def predict(
    model: Model,
    latents: Tensor,
    timestep: float,
    samples: Sequence[Sample],
    sampler: Sampler,
    transformer: nn.Module | None = None,
) -> Prediction:
    """One network evaluation at given latents [n, c, h, w]: what teacher-forced errors are made of."""
    network = model.transformer if transformer is None else transformer
    conditions = model.conditions(samples, sampler)
    at = torch.tensor([timestep], device=model.device)
    x = latents.to(model.device)
    out = model.adapter.predict(network, x, at, conditions, sampler.guidance)
    uncond = None if out.uncond is None else out.uncond.cpu()
    return Prediction(out.cond.cpu(), uncond, out.guided.cpu())


@torch.no_grad()
def generate(
    model: Model,
    samples: Sequence[Sample],
    sampler: Sampler,
    *,
    transformer: nn.Module | None = None,
    batch_size: int = 8,
    record: bool = False,
    noise_offset: float = 0.0,
    on_step: Callable[[StepEvent], None] | None = None,
) -> Generation:
    """Draw one picture or clip per sample.

    Args:
        model: the pipeline that encodes, denoises and decodes.
        samples: seeds with classes or prompts.
        sampler: scheduler, steps and guidance.
        transformer: drawn with instead of the model's own (a quantized one).
        batch_size: samples per batch; guidance doubles it. Results do not depend on it beyond rounding.
        record: keep the trajectory (inputs and both branches' outputs of every step).
        noise_offset: sigmas of extra starting noise, for the yardstick ladder.
        on_step: called after every step of every batch; may raise `Cancelled`.
    """
    if not samples:
        raise BadInput("there is nothing to draw: no seeds were given; e.g. --seeds 0-7")
    network = model.transformer if transformer is None else transformer
    started = time.perf_counter()
    batches = [tuple(samples[i : i + batch_size]) for i in range(0, len(samples), batch_size)]
    drawn = []
    for index, batch in enumerate(batches):
        first = index * batch_size
        drawn.append(_draw(model, network, batch, sampler, first, record, noise_offset, on_step))
    images, latents, trajectories = zip(*drawn, strict=True)
    return Generation(
        samples=tuple(samples),
        sampler=sampler,
        images=torch.cat(images),
        latents=torch.cat(latents),
        seconds=time.perf_counter() - started,
        trajectory=_join(trajectories) if record else None,
    )


def _draw(
    model: Model,
    network: nn.Module,
    batch: tuple[Sample, ...],
    sampler: Sampler,
    first: int,
    record: bool,
    noise_offset: float,
    on_step: Callable[[StepEvent], None] | None,
) -> tuple[Tensor, Tensor, Trajectory | None]:
    adapter = model.adapter
    scheduler = make_scheduler(sampler)
    conditions = model.conditions(batch, sampler)
    noise = starting_noise(model.latent_shape(sampler), batch, noise_offset)
    latents = noise.to(model.device) * getattr(scheduler, "init_noise_sigma", 1.0)  # [b, c, h, w]
    kept: dict[str, list[Tensor]] = {"inputs": [], "cond": [], "uncond": [], "guided": []}
    for step, timestep in enumerate(scheduler.timesteps):
        if record:
            kept["inputs"].append(latents.cpu())
        scaled = scale_input(scheduler, latents, timestep)
        out = adapter.predict(
            network, scaled, timestep[None].to(model.device), conditions, sampler.guidance
        )
        if record:
            kept["cond"].append(out.cond.cpu())
            kept["guided"].append(out.guided.cpu())
            if out.uncond is not None:
                kept["uncond"].append(out.uncond.cpu())
        latents = scheduler.step(out.guided, timestep, latents).prev_sample
        if on_step is not None:
            now = latents
            on_step(
                StepEvent(
                    step=step,
                    steps=len(scheduler.timesteps),
                    timestep=float(timestep),
                    first=first,
                    samples=batch,
                    latents=now,
                    preview=lambda now=now: adapter.decode(model.pipe, now),
                )
            )
    images = adapter.decode(model.pipe, latents)
    trajectory = None
    if record:
        stacked = {name: torch.stack(parts) if parts else None for name, parts in kept.items()}
        timesteps = tuple(float(t) for t in scheduler.timesteps)
        trajectory = Trajectory(timesteps=timesteps, **stacked)  # type: ignore[arg-type]
    return images, latents.float().cpu(), trajectory


def _join(parts: Sequence[Trajectory | None]) -> Trajectory:
    whole = [p for p in parts if p is not None]
    return Trajectory(
        timesteps=whole[0].timesteps,
        inputs=torch.cat([p.inputs for p in whole], dim=1),
        cond=torch.cat([p.cond for p in whole], dim=1),
        uncond=None
        if whole[0].uncond is None
        else torch.cat([p.uncond for p in whole if p.uncond is not None], dim=1),
        guided=torch.cat([p.guided for p in whole], dim=1),
    )
