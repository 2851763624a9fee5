"""Learning assignments and codebooks block by block or all at once: the steps of VQ4DiT.

Parts are learned one after another: all blocks together on the student's own hidden states, or each alone
on the teacher's. A part begins from k-means, assigns (stage A), tunes (stage B), and is then codes only.
The equations are in `quant.methods.vq4dit` and `quant.assignments`, where the sources are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .assignments import FROZEN_AT, Assignment, Rates, coherence
from .clustering import STAGE, Clusterings, usage
from .learning import Asked, check_finite, generator
from .methods.base import Rounded
from .swapping import shallow_copy, swap
from .vectors import VectorCodes
from .walks import (
    HELD_OUT,
    Call,
    ShuffledWalk,
    Walk,
    call_of,
    distance,
    moved,
    outputs_of,
    tensors_in,
)

HARD_EVERY = 25  # steps between two losses with the likeliest codewords
TO_BE_RESTORED = VectorCodes(torch.zeros(1, 1, dtype=torch.uint8), torch.zeros(2, 1))
PROBED = 2  # moments of a held-out trajectory that gradients are compared on


class CodebookLearner:
    """k-means of every site, then assignments and codebooks of every part."""

    def __init__(self, asked: Asked) -> None:
        options, model = asked.options, asked.model
        self.asked, self.options = asked, options
        network = model.transformer
        single = next(p.dtype for p in network.parameters() if p.is_floating_point())
        self.teacher = network if single == torch.float32 else copy.deepcopy(network).float()
        self.student = shallow_copy(self.teacher)
        for parameter in self.student.parameters():
            parameter.requires_grad_(False)
        formats = {n: s.weight for n, s in asked.plan.sites.items() if s.weight is not None}
        self.clusterings = Clusterings(
            self.teacher, formats, asked.seed, options.iterations, model.device
        )
        blocks = model.adapter.blocks(network)
        self.local = options.block_input == "teacher"
        parts = [[b] for b in blocks] if self.local else [blocks]
        self.parts = [part for part in parts if _inside(part, formats)]
        sampler = model.sampler(options.steps, options.guidance)
        around = model, self.teacher, sampler, options.samples, asked.seed
        self.drawn = options.trajectories if options.order == "shuffled" and not self.local else 0
        self.walk = ShuffledWalk(*around, self.drawn) if self.drawn else Walk(*around)
        self._probe = Walk(*around, HELD_OUT)
        self.each = options.trajectories * self.walk.steps
        self.recorded = min(options.cached, options.trajectories) * self.walk.steps * self.local
        self.sites: dict[str, Assignment] = {}  # of parts that are begun
        self.coherence: dict[str, list[float]] = {}  # with k-means, and now
        self._calls: list[Call] = []  # of the block that learns alone
        self._best = float("inf")
        self._next = 0
        self._worst = ""

    @property
    def steps(self) -> int:
        """k-means, trajectories that are drawn, then for every part what is recorded and learned."""
        return self._first + len(self.parts) * (self.recorded + self.each)

    @property
    def stage(self) -> str:
        """Of the next step."""
        if self._next < self.clusterings.steps:
            return STAGE
        if self._next < self._first:
            return "trajectories"
        part, at = self._place(self._next)
        where = f": {self.parts[part][0]}" if self.local else ""
        if at < self.recorded:
            return f"teacher{where}"
        begun = [s for n, s in self.sites.items() if n in self._sites_of(part)]
        decided = begun and all(s.hardened for s in begun)
        tuning = decided or self.options.candidates == 1 or at - self.recorded >= self._deadline
        return f"{'codebooks' if tuning else 'assignments'}{where}"

    @property
    def worst(self) -> str:
        """The block that the last loss is most of."""
        return self._worst

    @torch.enable_grad()
    def step(self, k: int) -> Mapping[str, float]:
        """Some k-means, one drawn trajectory, one recorded moment, or one step of learning."""
        self._next = k + 1
        if k < self.clusterings.steps:
            return self.clusterings.step(k)
        if k < self._first:
            assert isinstance(self.walk, ShuffledWalk)
            self.walk.draw(k - self.clusterings.steps)
            return {}
        part, at = self._place(k)
        if at == 0 or not any(n in self.sites for n in self._sites_of(part)):
            self._begin(part)
        if at < self.recorded:
            self._record(part, at)
            return {}
        at -= self.recorded
        if at == self._deadline:
            for site in self._learning(part):
                site.harden()
        losses = self._learn(part, at)
        if at == self.each - 1:
            self._end(part)
        return losses

    def loss(self, part: int, at: int) -> Tensor:
        """L_d of a part at one moment of its trajectories, with the gradient's graph."""
        if self.local:
            args, kwargs, wanted = self._moment(part, at)
            block = self.parts[part][0]
            found = tensors_in(self.student.get_submodule(block)(*args, **kwargs))
            return self._finite({block: self._distance(found, wanted)})
        names = self.parts[part]
        self.walk.to(at)
        with torch.no_grad(), outputs_of(self.teacher, names) as wanted_by:
            self._guided = self.walk.evaluate(self.teacher).guided
        return self._student_loss(self.walk, names, wanted_by)

    def state(self) -> dict[str, Tensor]:
        """k-means of parts to come, assignments of those begun, and where the walk stands."""
        state = {f"{STAGE}.{n}": t for n, t in self.clusterings.state().items()}
        for name, site in self.sites.items():
            state |= {f"site.{name}/{n}": t for n, t in site.state().items()}
        for name, pair in self.coherence.items():
            state[f"coherence.{name}"] = torch.tensor(pair, dtype=torch.float64)
        state["best"] = torch.tensor(min(self._best, 1e30), dtype=torch.float64)
        state["next"] = torch.tensor(self._next)
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state; what the teacher says is asked again."""
        self.clusterings.restore(_below(state, f"{STAGE}."))
        self._best, self._next = float(state["best"]), int(state["next"])
        self.coherence = {n: t.tolist() for n, t in _below(state, "coherence.").items()}
        held: dict[str, dict[str, Tensor]] = {}
        for key, tensor in _below(state, "site.").items():
            name, _, last = key.rpartition("/")
            held.setdefault(name, {})[last] = tensor
        self.sites.clear()
        for part in range(len(self.parts)):
            own = [n for n in self._sites_of(part) if n in held]
            for name in own:
                self._put(name).restore(held[name])
        self._calls.clear()

    def measures(self) -> dict[str, Any]:
        """Where every site stands; how gradients of vectors that share a codeword agree."""
        sites = {n: usage(self.clusterings.found(n)) for n in self.clusterings.codes}
        sites |= {n: site.measures() | usage(site.found()) for n, site in self.sites.items()}
        agree = {
            name: {"kmeans": pair[0], "now": pair[1] if len(pair) > 1 else None}
            for name, pair in self.coherence.items()
        }
        return {"sites": sites, "coherence": agree}

    def rounded(self) -> Mapping[str, Rounded]:
        """Codes, codebooks and biases of every site."""
        made: dict[str, Rounded] = {}
        for group, _ in self.asked.groups:
            for site in group.sites:
                if site.plan.weight is None:
                    made[site.name] = Rounded(site.weight)
                    continue
                held = self.sites.get(site.name)
                found = self.clusterings.found(site.name) if held is None else held.found()
                bias = site.bias if held is None else held.bias
                changed = 0.0 if held is None else held.measures()["changed"]
                made[site.name] = Rounded(
                    found.stored(self.options.codebook),
                    bias=None if bias is None else bias.detach().cpu().float(),
                    notes={"codebook": list(found.codebook.shape), "changed": changed},
                )
        return made

    @property
    def _first(self) -> int:
        """The first step with a part."""
        return self.clusterings.steps + self.drawn

    @property
    def _deadline(self) -> int:
        return round(self.options.deadline * self.each)

    def _decided_at(self, at: int) -> float:
        """From which ratio on a vector is frozen: 0.99, and with annealing at last any."""
        if not self.options.annealing:
            return FROZEN_AT
        done = min(1.0, at / max(1, self._deadline))
        return FROZEN_AT - done * (FROZEN_AT - 1 / self.options.candidates)

    def _place(self, k: int) -> tuple[int, int]:
        return divmod(k - self._first, self.recorded + self.each)

    def _sites_of(self, part: int) -> list[str]:
        return _inside(self.parts[part], self.clusterings.formats)

    def _learning(self, part: int) -> list[Assignment]:
        return [self.sites[name] for name in self._sites_of(part)]

    def _put(self, name: str) -> Assignment:
        """An assignment in the student's place of a site."""
        linear = self.teacher.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        held = name in self.clusterings.codes
        found = self.clusterings.found(name) if held else TO_BE_RESTORED
        site = Assignment(name, linear, found, self.asked.model.device)
        swap(self.student, name, site)
        self.sites[name] = site
        return site

    def _begin(self, part: int) -> None:
        """Candidates and ratios from k-means, whose own gradients are looked at first."""
        names = self._sites_of(part)
        for name in names:
            self._put(name)
        self.clusterings.forget(names)
        self._calls.clear()
        for name, found in self._coherences(part).items():
            self.coherence[name] = [found]
        for name in names:
            weight: Tensor = self.teacher.get_submodule(name).weight  # type: ignore[assignment]
            self.sites[name].open(weight.detach(), self.options.candidates, self.options.ratios)

    def _end(self, part: int) -> None:
        for site in self._learning(part):
            site.harden()
        for name, found in self._coherences(part).items():
            self.coherence[name] = [self.coherence[name][0], found]
        self._calls.clear()

    def _record(self, part: int, at: int) -> None:
        if len(self._calls) < at:  # gone on with in the middle
            for earlier in range(len(self._calls), at):
                self._record(part, earlier)
        self.walk.to(at)
        block = self.parts[part][0]
        self._calls.append(call_of(self.walk, self.teacher, block, torch.device("cpu")))

    def _moment(self, part: int, at: int) -> Call:
        """How the teacher calls the block of this part at a moment that is drawn for this step."""
        if len(self._calls) < self.recorded:
            self._record(part, self.recorded - 1)
        draw = generator(self.asked.seed, "moment", part, at)
        call = self._calls[int(torch.randint(self.recorded, (1,), generator=draw))]
        return moved(call, self.asked.model.device)

    def _learn(self, part: int, at: int) -> dict[str, float]:
        sites, options = self._learning(part), self.options
        if at % self.walk.steps == 0:
            self._best = float("inf")
        penalty = sum(site.penalty for site in sites) / max(1, len(sites))
        fires = penalty > self._best
        self._best = min(self._best, penalty)
        for site in sites:
            site.codebook.requires_grad_(options.codebook_from_start or site.hardened)
        rates = Rates(options.assignment_rate, options.codebook_rate, options.bias_rate)
        found = self.loss(part, at)
        losses = {"loss": float(found.detach()), "penalty": penalty}
        if at % HARD_EVERY == 0 and not all(site.hardened for site in sites):
            losses["hard"] = self._hard_loss(part, at)
        found.backward()
        for site in sites:
            site.update(rates, fires / len(sites), self._decided_at(at))
        if not self.local:
            self.walk.advance(self._guided)
        return losses

    @torch.no_grad()
    def _hard_loss(self, part: int, at: int) -> float:
        """The loss at this moment as if everything were decided now."""
        sites = self._learning(part)
        for site in sites:
            site.hard = True
        found = float(self.loss(part, at))
        for site in sites:
            site.hard = False
        return found

    def _coherences(self, part: int) -> dict[str, float]:
        """Of every site, mean over held-out moments, with the codes as they are."""
        found: dict[str, list[float]] = {}

        def watching(site: Assignment) -> Any:
            return lambda g: found.setdefault(site.name, []).append(
                coherence(g, site.codes, len(site.codebook))
            )

        sites, names = self._learning(part), self.parts[part]
        for site in sites:
            site.watch = watching(site)
            site.codebook.requires_grad_()
        for m in range(PROBED):
            self._probe.to((2 * m + 1) * self._probe.steps // (2 * PROBED))
            if self.local:
                block = self.student.get_submodule(names[0])
                args, kwargs, wanted = call_of(
                    self._probe, self.teacher, names[0], self.asked.model.device
                )
                self._distance(tensors_in(block(*args, **kwargs)), wanted).backward()
            else:
                with torch.no_grad(), outputs_of(self.teacher, names) as wanted_by:
                    self._probe.evaluate(self.teacher)
                self._student_loss(self._probe, names, wanted_by).backward()
        for site in sites:
            site.watch, site.codebook.grad = None, None
            if site.bias is not None:
                site.bias.grad = None
        return {name: sum(values) / len(values) for name, values in found.items()}

    def _student_loss(
        self, walk: Walk, names: Sequence[str], wanted: Mapping[str, list[Tensor]]
    ) -> Tensor:
        with outputs_of(self.student, names) as found:
            walk.evaluate(self.student)
        return self._finite({n: self._distance(found[n], wanted[n]) for n in names})

    def _distance(self, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        return distance(found, wanted, relative=self.options.loss == "relative")

    def _finite(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Mean of the blocks' losses; one that is no number is named."""
        check_finite({f"the output of {name}": loss.detach() for name, loss in losses.items()})
        self._worst = max(losses, key=lambda name: float(losses[name].detach()))
        return torch.stack(list(losses.values())).mean()


def _inside(blocks: Sequence[str], sites: Iterable[str]) -> list[str]:
    """The sites that lie in these blocks."""
    within = tuple(f"{name}." for name in blocks)
    return [name for name in sites if name.startswith(within)]


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n[len(prefix) :]: t for n, t in state.items() if n.startswith(prefix)}
