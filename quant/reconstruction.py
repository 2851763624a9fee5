"""Learning one unit after another, so that its quantized output is that of the full-precision model.

BRECQ, Li et al. 2021, https://arxiv.org/abs/2102.05426 (units in order); QDrop, arXiv 2203.05740 (mixing); losses
and schedules as read in TaQ-DiT's released code (arXiv 2411.14172).

Shapes: x^q, x^f [n, t, i] input of a unit with all earlier ones quantized, and in full precision; y [n, t, o].

    x    = where(Bernoulli(1/2), x^q, x^f)                 element by element
    loss = mean_{n, o} sum_t (y - y^f)^2 + w sum (1 - |2 h - 1|^beta)
    joint      rounding and activation scales together
    separate   rounding with activations as they are, then scales with the rounded weights, half the steps each

Learning rates fall as a cosine for scales and stay for rounding. What is judged are rows that are not
learned from, rounded hard, with nothing mixed. Adaptive-layer-norm layers are rounded to nearest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from .attention_ranges import AttentionRange, put_in
from .calibration_inputs import CalibrationInputs
from .group_layers import layers_from
from .learned_steps import Mixing
from .learning import Asked, check_finite, generator
from .methods.base import Group, Rounded, SiteWeight
from .range_search import searched_grid
from .rounding import Ranges, WeightCodes
from .schema import Value
from .soft_rounding import beta_at, undecidedness
from .soft_units import SoftUnit, Way
from .swapping import shallow_copy, swap
from .unit_learning import UnitLearning, output_loss
from .units import MIB, Grain, Unit, capture, units_of

Mode = Literal["nearest", "joint", "separate"]
HARD_LOSSES = 20  # of a unit, in the log
SECOND = ("fc2", "context_fc2")  # roles that read what comes out of a GELU
CHANNELS = ("ranges", "m")  # lists of all channels of an input, in what the views are told


class ReconstructionOptions(Value):
    """Options of every method that learns units; their cards list them."""

    iterations: int = Field(default=400, ge=0, le=200_000)
    batch: int = Field(default=16, ge=1, le=1024)
    samples: int = Field(default=16, ge=1, le=4096)
    steps: int = Field(default=10, ge=1, le=1000)
    rounding_lr: float = Field(default=5e-2, gt=0, le=1)
    rounding_weight: float = Field(default=0.01, ge=0, le=100)
    drop: float = Field(default=0.5, ge=0, lt=1)
    cache_mib: int = Field(default=1024, ge=1)


class Reconstruction:
    """The learner of these methods (`quant.learning.Learner`)."""

    def __init__(
        self, asked: Asked, mode: Mode, way: Way, grain: Grain = "unit", scale_lr: float = 0.0
    ) -> None:
        """`scale_lr`: of activation scales, where there are any."""
        self.asked, self.mode, self.way, self.scale_lr = asked, mode, way, scale_lr
        self.options: ReconstructionOptions = asked.options
        model, plan = asked.model, asked.plan
        sites = {
            s.name: s for s in model.sites if s.name in plan.sites and plan.sites[s.name].quantized
        }
        learned = [n for n, s in sites.items() if s.role != "adaln"]
        self.apart = [n for n in sites if n not in learned]
        self.inputs_of = {n: s.input_of for n, s in sites.items()}
        self.second = [n for n, s in sites.items() if s.role in SECOND]
        self.units = units_of(model.transformer, learned, grain)
        sampler = model.sampler()
        if asked.seen is not None:
            told = asked.seen.manifest["sampler"]
            names = ("steps", "guidance", "scheduler", "size", "frames")
            sampler = model.sampler(*(told.get(name) for name in names))
        self.inputs = CalibrationInputs(model, sampler, self.options.samples, self.options.steps)
        self.student = shallow_copy(model.transformer)
        self.found: dict[str, Rounded] = {}
        self.ranges: dict[str, AttentionRange] = {}
        self.about: dict[str, dict[str, Any]] = {}
        self.gates: dict[str, dict[str, Any]] = {}
        self._told: set[str] = set()  # gates whose long lists are in the log
        self.done = 0
        self.now: UnitLearning | None = None
        self._round_apart()

    @property
    def steps(self) -> int:
        """One per drawn batch; then of each unit one that captures and searches, and its iterations."""
        return len(self.inputs.batches) + len(self.units) * self._of_unit

    @property
    def stage(self) -> str:
        """Trajectories, or the unit and what is done to it."""
        unit, r = self._place(self.done)
        if unit is None:
            return "trajectories"
        if r == 0:
            return f"{unit.name}: ranges"
        if self.mode == "separate" and r > self._rounding_steps:
            return f"{unit.name}: scales"
        free = beta_at(r - 1, self._rounding_steps) is None
        return f"{unit.name}: {'free' if free else 'rounding'}"

    def step(self, k: int) -> Mapping[str, float]:
        """Draw a batch, begin a unit, or learn a little of it."""
        unit, r = self._place(k)
        losses: dict[str, float] = {}
        if unit is None:
            self.inputs.draw(k)
        elif r == 0:
            self.now = self._begin(unit)
            losses["hard"] = self.now.hard_before
        else:
            assert self.now is not None
            losses = self._learn(self.now, r - 1)
        self.done = k + 1
        if unit is not None and self._place(k + 1)[0] != unit:
            self._commit()
        return losses

    def state(self) -> dict[str, Tensor]:
        """Trajectories, what is done, and the unit that is learned now."""
        found = self.inputs.state() | {"done": torch.tensor(self.done)}
        for site, rounded in self.found.items():
            found |= {f"site.{site}.{n}": t for n, t in _tensors(rounded).items()}
        said = {
            "about": self.about,
            "gates": self.gates,
            "ranges": {name: own.to_json() for name, own in self.ranges.items()},
        }
        found["said"] = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
        if self.now is not None:
            found |= {f"now.{n}": t for n, t in self.now.state().items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Make the student as it was; captures are made anew."""
        self.inputs.restore(state)
        self.done = int(state["done"])
        said = json.loads(bytes(state["said"].tolist()))
        self.about, self.gates = said["about"], said["gates"]
        ranges = {n: AttentionRange.parse(own, n) for n, own in said["ranges"].items()}
        of_sites: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("site."):
                site, _, part = name.removeprefix("site.").rpartition(".")
                of_sites.setdefault(site, {})[part] = tensor
        self._put({site: _rounded(parts) for site, parts in of_sites.items()}, ranges)
        unit, r = self._place(self.done)
        if unit is not None and r > 0:
            before = {n: self.gates[n] for n in unit.sites if n in self.gates}
            self.now = self._begin(unit)
            self.gates |= before
            self.now.restore({n[4:]: t for n, t in state.items() if n.startswith("now.")})

    def measures(self) -> dict[str, Any]:
        """Errors of units so far, and of inputs of second linears what the views show.

        Lists of all channels are as long as the weights are wide: they are told once.
        """
        about = dict(self.about)
        if self.now is not None:
            about[self.now.soft.unit.name] = self.now.measures() | {"mode": self.mode}
        post_gelu = {
            site: {n: v for n, v in gate.items() if site not in self._told or n not in CHANNELS}
            for site, gate in self.gates.items()
        }
        self._told |= set(post_gelu)
        return {
            "units": [{"unit": name, **own} for name, own in about.items()],
            "post_gelu": post_gelu,
        }

    def rounded(self) -> Mapping[str, Rounded]:
        """Every site as it is stored."""
        return {site: replace(found, notes=self._notes(site)) for site, found in self.found.items()}

    def attention(self) -> Mapping[str, AttentionRange]:
        """Ranges inside attentions."""
        return self.ranges

    @property
    def _of_unit(self) -> int:
        return 1 + (0 if self.mode == "nearest" else self.options.iterations)

    @property
    def _rounding_steps(self) -> int:
        whole = self.options.iterations
        return whole // 2 if self.mode == "separate" else whole

    def _place(self, k: int) -> tuple[Unit | None, int]:
        k -= len(self.inputs.batches)
        if k < 0:
            return None, 0
        index, r = divmod(k, self._of_unit)
        return (self.units[index], r) if index < len(self.units) else (None, 0)

    def _begin(self, unit: Unit) -> UnitLearning:
        runs, bound = self.inputs.runs(), self.options.cache_mib * MIB
        teacher = self.asked.model.transformer
        plain = capture(teacher, unit.name, runs, bound)
        prefix = capture(self.student, unit.name, runs, bound, like=plain)
        soft = SoftUnit(
            unit,
            teacher.get_submodule(unit.name),
            self.asked.plan.sites,
            self.inputs_of,
            self.second,
            self.way,
            prefix,
        )
        self.gates |= soft.gates
        return UnitLearning(soft, plain, prefix, self.asked.model.device)

    def _learn(self, now: UnitLearning, k: int) -> dict[str, float]:
        options, total, rounding = self.options, self.options.iterations, self._rounding_steps
        separate, name = self.mode == "separate", now.soft.unit.name
        weights_learn = k < rounding
        seeded = generator(self.asked.seed, name, k)
        drawn = torch.Generator(now.device).manual_seed(seeded.initial_seed())
        mixing = Mixing(drawn, 1 - options.drop)
        first = rounding if separate else 0
        fall = 0.5 * (1 + math.cos(math.pi * max(0, k - first) / max(1, total - first)))
        now.learn_at(
            options.rounding_lr if weights_learn else 0.0,
            0.0 if separate and weights_learn else self.scale_lr * fall,
        )
        now.soft.quantize(
            "soft" if weights_learn else "hard",
            activations=not (separate and weights_learn),
            follows=weights_learn,
            mixing=mixing,
        )
        x, wanted = now.batch(options.batch, seeded, mixing)
        lost = output_loss(now.soft(x), wanted)
        beta = beta_at(k, rounding) if weights_learn else None
        pressed = torch.zeros((), device=now.device)
        if beta is not None:
            for linear in now.soft.linears.values():
                if linear.soft is not None:
                    pressed = pressed + undecidedness(linear.soft.h(), beta)
            pressed = options.rounding_weight * pressed
        loss = lost + pressed
        now.adam_step(loss)
        check_finite({f"{name}: {n}": t for n, t in now.soft.learned().items()})
        found = {
            "loss": float(loss.detach()),
            "output": float(lost.detach()),
            "rounding": float(pressed.detach()),
        }
        if (k + 1) % max(1, total // HARD_LOSSES) == 0 or k + 1 == total:
            found["hard"] = now.hard()
        return found

    def _commit(self) -> None:
        assert self.now is not None
        soft = self.now.soft
        self.about[soft.unit.name] = self.now.measures() | {"mode": self.mode}
        attention = soft.attention()
        ranges = {} if attention is None else {soft.unit.name: attention}
        self.now = None
        self._put(soft.rounded(), ranges)

    def _put(self, found: Mapping[str, Rounded], ranges: Mapping[str, AttentionRange]) -> None:
        """Sites, and the insides of attentions, into the student as they are stored."""
        self.found |= found
        self.ranges |= ranges
        model, plan = self.asked.model, self.asked.plan
        for name, rounded in found.items():
            linear = model.transformer.get_submodule(name)
            bias = None if linear.bias is None else linear.bias.detach().cpu()  # type: ignore[union-attr]
            weight = linear.weight.detach().cpu().float()  # type: ignore[union-attr]
            group = Group(name, (SiteWeight(name, weight, bias, plan.sites[name]),))
            made = layers_from([rounded], group, "this method", plan, dtype=model.dtype)
            swap(self.student, name, made[name][0].to(model.device))
        for name, own in ranges.items():
            put_in(self.student.get_submodule(name), own.quantizers)

    def _round_apart(self) -> None:
        """Sites that nothing is learned of, to nearest."""
        plan, found = self.asked.plan, {}
        for name in self.apart:
            fmt = plan.sites[name].weight
            weight: Any = self.asked.model.transformer.get_submodule(name).weight
            weight = weight.detach().cpu().float()
            grid = None if fmt is None else searched_grid(weight, fmt)
            found[name] = Rounded(weight if grid is None else grid.stored(grid.codes(weight)))
        self._put(found, {})

    def _notes(self, site: str) -> dict[str, object]:
        if site in self.apart:
            return {"rounding": "nearest"}
        gate = {"gate": self.gates[site]["gate"]} if site in self.gates else {}
        return {"rounding": self.mode, **gate}


def _tensors(rounded: Rounded) -> dict[str, Tensor]:
    """A site's tensors by the names that `_rounded` reads."""
    found: dict[str, Tensor | None] = {"shift": rounded.shift, "migration": rounded.migration}
    if isinstance(rounded.weight, Tensor):
        found["weight"] = rounded.weight
    else:
        found |= rounded.weight._asdict()
    if rounded.ranges is not None:
        found |= {"act_scale": rounded.ranges.scale, "act_zero": rounded.ranges.zero}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _rounded(parts: Mapping[str, Tensor]) -> Rounded:
    weight: Any = parts.get("weight")
    if weight is None:
        weight = WeightCodes(parts["codes"], parts["scale"], parts.get("zero"), parts.get("outer"))
    ranges = Ranges(parts["act_scale"], parts.get("act_zero")) if "act_scale" in parts else None
    return Rounded(
        weight, ranges=ranges, shift=parts.get("shift"), migration=parts.get("migration")
    )
