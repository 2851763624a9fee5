"""Drawing from any step on, counted, with all that a run needs to be taken up again in the middle.

The loop is that of `quant.generation`, operation for operation, so latents are equal bit for bit. Before a
step nothing differs between two runs whose networks agree until then: a run starts from the other's latents
and a copy of its scheduler's state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..generation import make_scheduler, scale_input, starting_noise, timesteps_of
from ..models import Model
from ..schema import Sample, Sampler
from ..step import at


@dataclass
class Counter:
    """What was asked of networks; one evaluation is of one sample, both guidance branches."""

    calls: int = 0
    evaluations: int = 0
    backward_calls: int = 0


@dataclass(frozen=True)
class State:
    """One batch about to take a step."""

    step: int
    latents: Tensor  # [n, c, h, w], of clips [n, c, f, h, w]
    scheduler: Any  # as it is before that step; whoever goes on takes a copy


@dataclass(frozen=True)
class Run:
    """One batch, drawn."""

    samples: tuple[Sample, ...]
    conditions: Any
    states: dict[int, State]  # by step, those that were asked for
    latents: Tensor  # final
    guided: tuple[Tensor, ...] = ()  # output of every step, where it was asked for


@dataclass
class Drawer:
    """Draws with any network, from any step."""

    model: Model
    sampler: Sampler
    counter: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.timesteps = timesteps_of(self.sampler)

    def begin(self, samples: Sequence[Sample]) -> Run:
        """A batch before its first step: nothing is drawn yet."""
        scheduler = make_scheduler(self.sampler)
        noise = starting_noise(self.model.latent_shape(self.sampler), samples)
        latents = noise.to(self.model.device) * getattr(scheduler, "init_noise_sigma", 1.0)
        conditions = self.model.conditions(samples, self.sampler)
        return Run(tuple(samples), conditions, {0: State(0, latents, scheduler)}, latents)

    def evaluate(self, network: nn.Module, x: Tensor, timestep: Tensor, conditions: Any) -> Tensor:
        """The guided output at what the network sees, x [n, *latent]."""
        self.counter.calls += 1
        self.counter.evaluations += len(x)
        there = timestep[None].to(self.model.device)
        with at(float(timestep)):
            out = self.model.adapter.predict(network, x, there, conditions, self.sampler.guidance)
        return out.guided

    @torch.no_grad()
    def drawn(
        self,
        network: nn.Module,
        run: Run,
        first: int = 0,
        *,
        marks: Collection[int] = (),
        record: bool = False,
        before: Callable[[int], None] | None = None,
    ) -> Run:
        """Go on from a run's state before step `first`, to the end.

        Args:
            network: drawn with.
            run: has that state; stays as it is.
            first: step to begin with.
            marks: steps whose states are kept.
            record: keep the outputs of every step.
            before: called with the number of every step before it is taken; may raise `Cancelled`.
        """
        state = run.states[first]
        scheduler, latents = copy.deepcopy(state.scheduler), state.latents
        states, guided = {}, []
        for step in range(first, len(self.timesteps)):
            if before is not None:
                before(step)
            if step in marks:
                states[step] = State(step, latents, copy.deepcopy(scheduler))
            timestep = scheduler.timesteps[step]
            x = scale_input(scheduler, latents, timestep)
            out = self.evaluate(network, x, timestep, run.conditions)
            if record:
                guided.append(out)
            latents = scheduler.step(out, timestep, latents).prev_sample
        return Run(run.samples, run.conditions, states, latents, tuple(guided))


class Replay:
    """The scheduler alone over recorded outputs: latents as functions of the starting noise and the outputs.

    `outputs` e_t are leaves, `seen` what the network sees at each step, `final` z_0. Under autograd, so
    whatever memory a scheduler has is in the graph, which holds nothing of the network.
    """

    def __init__(self, sampler: Sampler, noise: Tensor, outputs: Sequence[Tensor]) -> None:
        scheduler = make_scheduler(sampler)
        self.timesteps = scheduler.timesteps
        self.outputs = [e.detach().clone().requires_grad_() for e in outputs]
        self.seen: list[Tensor] = []
        with torch.enable_grad():
            z = noise.detach()
            for e, timestep in zip(self.outputs, self.timesteps, strict=True):
                self.seen.append(scale_input(scheduler, z, timestep))
                z = scheduler.step(e, timestep, z).prev_sample
        self.final = z

    def check(self, latents: Tensor, sampler: Sampler) -> None:
        """Stop where the latents of the recorded run are others: the scheduler draws noise by itself."""
        if not torch.allclose(self.final, latents, rtol=1e-3, atol=1e-4):
            raise BadInput(
                f"scheduler {sampler.scheduler} draws noise of its own in every step, so two runs differ by "
                "more than what is rounded; take one that does not, e.g. DPMSolverMultistepScheduler"
            )

    def cotangent(self, step: int, probe: Tensor, later: dict[int, Tensor]) -> Tensor:
        """d (probe . z_0 + sum over later steps s of later[s] . seen_s) / d e_step."""
        through = {s: g for s, g in later.items() if s > step and self.seen[s].requires_grad}
        found = torch.autograd.grad(
            [self.final, *(self.seen[s] for s in through)],
            self.outputs[step],
            [probe, *through.values()],
            retain_graph=True,
            allow_unused=True,
        )[0]
        return torch.zeros_like(self.outputs[step]) if found is None else found
