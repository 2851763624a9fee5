"""What a learned method feeds a transformer with: the full-precision model's own trajectories, some steps of each.

TaQ-DiT, arXiv 2411.14172: 256 trajectories of 100 steps at 25 evenly spaced ones (read in released code,
whose generator is not released). Both guidance branches (ours). Seeds from 200000 on, so that they are
none of those that anything is reported on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .generation import make_scheduler, scale_input, starting_noise, timesteps_of
from .models import Model
from .schema import Sample, Sampler
from .units import Runs

FIRST_SEED = 200_000
BATCH = 8  # samples that are drawn together


def spaced(total: int, count: int) -> list[int]:
    """`count` steps of `total`, evenly spaced from the first on."""
    return [total * i // count for i in range(min(count, total))]


class CalibrationInputs:
    """Latents of some samples before some steps; drawn one batch at a time."""

    def __init__(self, model: Model, sampler: Sampler, samples: int, steps: int) -> None:
        self.model, self.sampler = model, sampler
        drawn = model.samples(range(FIRST_SEED, FIRST_SEED + samples))
        self.batches: list[tuple[Sample, ...]] = [
            tuple(drawn[i : i + BATCH]) for i in range(0, samples, BATCH)
        ]
        self.timesteps = timesteps_of(sampler)
        self.steps = spaced(len(self.timesteps), steps)
        self.latents: list[Tensor] = []  # of each batch [steps, b, c, h, w]

    @property
    def kept(self) -> tuple[float, ...]:
        """Timesteps of the kept steps."""
        return tuple(self.timesteps[s] for s in self.steps)

    @torch.no_grad()
    def draw(self, index: int) -> None:
        """Draw one batch; they come in order."""
        model, batch = self.model, self.batches[index]
        scheduler = make_scheduler(self.sampler)
        conditions = model.conditions(batch, self.sampler)
        noise = starting_noise(model.latent_shape(self.sampler), batch)
        x = noise.to(model.device) * getattr(scheduler, "init_noise_sigma", 1.0)
        found = []
        for step, t in enumerate(scheduler.timesteps[: self.steps[-1] + 1]):
            seen = scale_input(scheduler, x, t)
            if step in self.steps:
                found.append(seen.cpu())
            out = model.adapter.predict(
                model.transformer, seen, t[None].to(model.device), conditions, self.sampler.guidance
            )
            x = scheduler.step(out.guided, t, x).prev_sample
        self.latents[index:] = [torch.stack(found)]

    def runs(self) -> Runs:
        """Every batch at every kept step, as calls of a network."""
        return [
            (at, partial(self._run, batch=index, at=at))
            for index in range(len(self.batches))
            for at in range(len(self.steps))
        ]

    @torch.no_grad()
    def _run(self, network: nn.Module, batch: int, at: int) -> None:
        model = self.model
        conditions = model.conditions(self.batches[batch], self.sampler)
        t = torch.tensor([self.kept[at]], device=model.device)
        x = self.latents[batch][at].to(model.device)
        model.adapter.predict(network, x, t, conditions, self.sampler.guidance)

    def state(self) -> dict[str, Tensor]:
        """What was drawn."""
        return {f"latents.{i}": x for i, x in enumerate(self.latents)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse."""
        names: Sequence[str] = [n for n in state if n.startswith("latents.")]
        self.latents = [state[f"latents.{i}"] for i in range(len(names))]
