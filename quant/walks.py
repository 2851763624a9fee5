"""Full-precision trajectories that learning walks along, and what the blocks of a network say on them.

Shapes: x_t [n, c, h, w] latents of one trajectory's samples before step t; h_l^net block outputs.

    L_d = (1 / L) sum_l mean((h_l^student - h_l^teacher)^2)        at the teacher's own x_t

(VQ4DiT, arXiv 2408.17131: both networks see the teacher's latents; read in the released code.) Nothing
but noise and classes goes in: trajectory j has seeds of its own from `FIRST_SEED` on, which nothing is
reported on, and distinct conditions drawn at random. Step k is step k mod T of trajectory k div T; a walk
that goes on in the middle of a trajectory draws it again up to there.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import Prediction
from .errors import BadInput
from .generation import make_scheduler, scale_input, starting_noise
from .learning import generator
from .models import Model
from .schema import Sample, Sampler

FIRST_SEED = 200_000
HELD_OUT = 300_000  # first seed of trajectories that nothing is learned from


class Enough(Exception):
    """The block was reached; the rest of the network is not needed."""


class Walk:
    """Trajectories of one full-precision network, one step after another."""

    def __init__(
        self,
        model: Model,
        network: nn.Module,
        sampler: Sampler,
        samples: int,
        seed: int,
        first_seed: int = FIRST_SEED,
    ) -> None:
        self.model, self.network, self.sampler = model, network, sampler
        self.samples, self.seed, self.first_seed = samples, seed, first_seed
        self.steps = len(make_scheduler(sampler).timesteps)
        self._trajectory, self._at = -1, 0

    def to(self, k: int) -> None:
        """Go to step k."""
        trajectory, at = divmod(k, self.steps)
        if trajectory != self._trajectory or at < self._at:
            self._begin(trajectory)
        while self._at < at:
            with torch.no_grad():
                self.advance(self.evaluate(self.network).guided)

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """What a network sees here: latents and timestep."""
        t = self._scheduler.timesteps[self._at]
        return scale_input(self._scheduler, self._x, t), t[None].to(self.model.device)

    def evaluate(self, network: nn.Module) -> Prediction:
        """A network here, both guidance branches."""
        x, t = self.inputs
        return self.model.adapter.predict(network, x, t, self._conditions, self.sampler.guidance)

    @torch.no_grad()
    def advance(self, guided: Tensor) -> None:
        """Take the step that the full-precision network's prediction asks for."""
        if self._at + 1 < self.steps:
            t = self._scheduler.timesteps[self._at]
            own = {"generator": self._noise} if self._draws else {}
            self._x = self._scheduler.step(guided.detach(), t, self._x, **own).prev_sample
        self._at += 1

    def _begin(self, trajectory: int) -> None:
        model, self._trajectory, self._at = self.model, trajectory, 0
        drawn = calibration_samples(model, trajectory, self.samples, self.seed, self.first_seed)
        self._conditions = model.conditions(drawn, self.sampler)
        self._scheduler = make_scheduler(self.sampler)
        self._draws = "generator" in inspect.signature(self._scheduler.step).parameters
        self._noise = generator(self.seed, "walk", self.first_seed, trajectory)
        noise = starting_noise(model.latent_shape(self.sampler), drawn)
        self._x = noise.to(model.device) * getattr(self._scheduler, "init_noise_sigma", 1.0)


class ShuffledWalk(Walk):
    """All moments of some trajectories, which are drawn first, in random order.

    Every moment comes once, and every T steps have each noise level once. So what is learned last is no picture's
    and no noise level's alone (ours).
    """

    def __init__(
        self,
        model: Model,
        network: nn.Module,
        sampler: Sampler,
        samples: int,
        seed: int,
        trajectories: int,
    ) -> None:
        super().__init__(model, network, sampler, samples, seed)
        self.trajectories = trajectories
        self._source = Walk(model, network, sampler, samples, seed)
        self._drawn: list[list[tuple[Any, tuple[Tensor, Tensor]]]] = []  # by trajectory and step

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """What a network sees here: latents and timestep."""
        return self._inputs

    def draw(self, trajectory: int) -> None:
        """Draw every trajectory up to this one."""
        for j in range(len(self._drawn), trajectory + 1):
            moments = []
            for at in range(self.steps):
                self._source.to(j * self.steps + at)
                moments.append((self._source._conditions, self._source.inputs))
            self._drawn.append(moments)

    def to(self, k: int) -> None:
        """Go to the moment of step k, less than trajectories x T."""
        self.draw(self.trajectories - 1)
        turn, place = divmod(k, self.steps)
        self._at = self._order(self.steps, f"turn {turn}")[place]
        trajectory = self._order(self.trajectories, f"noise level {self._at}")[turn]
        self._conditions, self._inputs = self._drawn[trajectory][self._at]

    def advance(self, guided: Tensor) -> None:
        """Every moment was drawn before."""

    def _order(self, count: int, of: str) -> list[int]:
        draw = generator(self.seed, "order", self.first_seed, of)
        return torch.randperm(count, generator=draw).tolist()


def calibration_samples(
    model: Model, trajectory: int, count: int, seed: int, first_seed: int = FIRST_SEED
) -> tuple[Sample, ...]:
    """Samples of one trajectory: seeds in order, conditions at random, distinct while there are enough."""
    seeds = range(first_seed + trajectory * count, first_seed + (trajectory + 1) * count)
    by_class = model.adapter.conditioned_on == "class"
    known: Sequence[Any] = sorted(model.classes) if by_class else list(model.card.prompts)
    if by_class and not known:
        known = range(int(model.transformer.config.num_embeds_ada_norm))  # type: ignore[union-attr,arg-type]
    if not known:
        raise BadInput(f"{model.key} has no sample prompts to draw trajectories for; add some")
    order = torch.randperm(len(known), generator=generator(seed, "conditions", trajectory))
    chosen: list[Any] = [known[int(order[i % len(known)])] for i in range(count)]
    if by_class:
        return tuple(Sample(seed=s, class_id=c) for s, c in zip(seeds, chosen, strict=True))
    return tuple(Sample(seed=s, prompt=c) for s, c in zip(seeds, chosen, strict=True))


@contextmanager
def outputs_of(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """What these blocks say in calls inside, by name: the tensors of their outputs."""
    found: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Any:
        return lambda _, args, out: found.__setitem__(name, tensors_in(out))

    hooks = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


Call = tuple[tuple[Any, ...], dict[str, Any], list[Tensor]]  # arguments of a block, and its outputs


def call_of(walk: Walk, network: nn.Module, name: str, device: torch.device) -> Call:
    """How one block is called at this step and what it says, on `device`; what follows is not run."""
    found: list[Call] = []

    def keep(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        found.append((moved(args, device), moved(kwargs, device), moved(tensors_in(out), device)))
        raise Enough

    hook = network.get_submodule(name).register_forward_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad():
            walk.evaluate(network)
    except Enough:
        pass
    finally:
        hook.remove()
    return found[0]


def moved(value: Any, device: torch.device) -> Any:
    """The same with every tensor on `device`."""
    if isinstance(value, Tensor):
        return value.detach().to(device)
    if isinstance(value, tuple | list):
        return type(value)(moved(v, device) for v in value)
    if isinstance(value, dict):
        return {name: moved(v, device) for name, v in value.items()}
    return value


def tensors_in(out: Any) -> list[Tensor]:
    """The tensors of a block's output; families with two streams give a tuple."""
    parts = out if isinstance(out, tuple | list) else (out,)
    return [part for part in parts if isinstance(part, Tensor)]


def distance(
    found: Sequence[Tensor], wanted: Sequence[Tensor], *, relative: bool = False
) -> Tensor:
    """mean((h^student - h^teacher)^2) over all numbers of one block's outputs.

    `relative` to mean((h^teacher)^2), so that no block and no noise level outweighs the others.
    """
    lost = sum((f.float() - w.float()).square().sum() for f, w in zip(found, wanted, strict=True))
    whole = sum(w.float().square().sum() if relative else w.numel() for w in wanted)
    return lost / whole  # type: ignore[return-value]
