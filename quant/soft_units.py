"""A unit as it is while it is learned: soft weights, learned ranges, and what becomes of them.

TaQ-DiT, arXiv 2411.14172 (quantizer sites and their order read in released code); the gate is ours.

Shapes: x [n, t, i] input of a unit; g [rows, c] what comes into its second linear layer.

A site's weight W' (with migration factors folded in) is a `SoftWeight`; its input goes through one learned step,
shared by the sites that read one tensor. With `Way.inside`, so do q, k, v and the softmax of an attention.
The gate keeps migration, or else the shift, only where the site's own output error, all rounded to
nearest, is then the least.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention_ranges import PARTS, AttentionRange, Range, inside, obstacle, put_in
from .errors import BadInput
from .learned_steps import LearnedStep, Mixing
from .methods.base import Rounded
from .migration import ShiftedStep, choose, outlier_channels
from .range_search import searched_grid, searched_range
from .rounding import Ranges, rounded_rows
from .schema import Format, SitePlan
from .soft_rounding import SoftWeight
from .swapping import swap
from .units import Captured, Unit

FIRST_ROWS = 64  # of a unit's input, all steps among them, that ranges are searched on
GATE_ROWS = 4096

Weights = Literal["soft", "hard"]


@dataclass(frozen=True)
class Way:
    """What is quantized in a unit, and how it starts."""

    shifts: bool = False  # inputs of second linears
    migrates: bool = False
    gated: bool = False  # only where it pays
    inside: bool = False  # q, k, v and softmax of attentions
    outlying: float = 2.5
    largest: int = 8


class _Dynamic(nn.Module):
    """Rows rounded as they come, the gradient straight through."""

    def __init__(self, fmt: Format) -> None:
        super().__init__()
        self.fmt, self.mixing, self.active = fmt, None, True

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        samples = len(x) if x.dim() > 2 else None
        flat = x.detach().reshape(-1, x.shape[-1])
        rounded = rounded_rows(flat, self.fmt, samples).reshape(x.shape)
        quantized = x + (rounded - x).detach()
        return quantized if self.mixing is None else self.mixing.mixed(quantized, x)


class _SoftLinear(nn.Module):
    """A linear layer between its codes."""

    m: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        fmt: Format | None,
        act: nn.Module | None,
        soft: SoftWeight | None = None,
    ) -> None:
        """`soft`: of the same weight with the same factors, where its ranges were searched before."""
        super().__init__()
        self.act = act
        self.register_buffer("m", act.m if isinstance(act, ShiftedStep) else None)
        weight = linear.weight.detach().float()
        self.folded = weight if self.m is None else weight * self.m
        if soft is None and fmt is not None:
            soft = SoftWeight(self.folded, searched_grid(self.folded, fmt))
        self.soft = soft
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())
        self.weights: Weights = "soft"

    def weight(self) -> Tensor:
        if self.soft is None:
            return self.folded
        return self.soft() if self.weights == "soft" else self.soft.hard()

    def forward(self, x: Tensor) -> Tensor:
        return self.made(x, self.bias)

    def made(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """What comes out, with this bias."""
        x = x if self.act is None else self.act(x)
        return F.linear(x if self.m is None else x / self.m, self.weight(), bias)


class SoftUnit:
    """One unit with all that is learned of it."""

    def __init__(
        self,
        unit: Unit,
        module: nn.Module,
        formats: Mapping[str, SitePlan],
        inputs_of: Mapping[str, str],
        second: Sequence[str],
        way: Way,
        seen: Captured,
    ) -> None:
        """`second`: the sites behind a GELU; `seen`: what the unit's input is like."""
        self.unit, self.way, self.seen = unit, way, seen
        self.module: Any = copy.deepcopy(module).float().eval().requires_grad_(False)
        self.formats = {site: formats[site] for site in unit.sites}
        self.gates: dict[str, dict[str, Any]] = {}
        self.inside: dict[str, LearnedStep] = {}
        self.linears: dict[str, _SoftLinear] = {}
        found, attended = self._recorded()
        acts: dict[object, nn.Module | None] = {}
        for site in unit.sites:
            fmt = formats[site].activations[0]
            linear = self._linear(site)
            key = (inputs_of[site], None if fmt is None else fmt.fingerprint)
            if site in second and fmt is not None and fmt.static:
                self.linears[site] = self._gated(site, linear, found[site], fmt.bits)
                acts[key] = self.linears[site].act
                continue
            if key not in acts:
                acts[key] = _act(fmt, found[site])
            self.linears[site] = _SoftLinear(linear, formats[site].weight, acts[key])
        for site, soft in self.linears.items():
            self._put(site, soft)
        if attended:
            self.inside = {part: _ranged(part, values) for part, values in attended.items()}
            put_in(self.module, self.inside)
        self.acts = [a for a in acts.values() if a is not None] + list(self.inside.values())

    @property
    def logits(self) -> list[nn.Parameter]:
        """Of the rounding."""
        return [s.soft.a for s in self.linears.values() if s.soft is not None]

    @property
    def scales(self) -> list[nn.Parameter]:
        """Of the activations."""
        return [a.factor for a in self.acts if isinstance(a, LearnedStep)]

    def quantize(
        self,
        weights: Weights,
        *,
        activations: bool = True,
        follows: bool = False,
        mixing: Mixing | None = None,
    ) -> None:
        """How the unit runs from now on."""
        for linear in self.linears.values():
            linear.weights = weights
        for act in self.acts:
            act.active, act.mixing = activations, mixing  # type: ignore[assignment]
            if isinstance(act, ShiftedStep):
                act.follows = follows

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs [n, ...] of rows of the unit's inputs."""
        args, kwargs = self.seen.arguments(inputs)
        made = self.module(*args, **kwargs)
        return [made] if isinstance(made, Tensor) else list(made)

    def learned(self) -> dict[str, Tensor]:
        """All numbers that learning changes, by name; the tensors themselves."""
        found: dict[str, Tensor] = {}
        for site, linear in self.linears.items():
            if linear.soft is not None:
                found[f"{site}.a"] = linear.soft.a.data
        for i, act in enumerate(self.acts):
            if isinstance(act, LearnedStep):
                found[f"{i}.factor"] = act.factor.data
            if isinstance(act, ShiftedStep):
                found[f"{i}.v"] = act.v
        return found

    def learn_from(self, kept: Mapping[str, Tensor]) -> None:
        """Take over what `learned` once gave."""
        for name, tensor in self.learned().items():
            tensor.copy_(kept[name])

    def undecided(self) -> float:
        """Share of weights that are neither up nor down."""
        softs = [s.soft for s in self.linears.values() if s.soft is not None]
        count = sum(s.a.numel() for s in softs)
        return sum(s.undecided() * s.a.numel() for s in softs) / max(1, count)

    def rounded(self) -> dict[str, Rounded]:
        """Every site as it is stored."""
        return {site: self._stored(site, linear) for site, linear in self.linears.items()}

    def attention(self) -> AttentionRange | None:
        """Ranges inside, where they are quantized."""
        if not self.inside:
            return None
        ranges = {
            part: Range(scale=float(s.step().detach()), zero=s.zero, bits=s.bits)
            for part, s in self.inside.items()
        }
        return AttentionRange(**ranges)

    def _stored(self, site: str, linear: _SoftLinear) -> Rounded:
        act = linear.act
        ranges = shift = migration = None
        if isinstance(act, LearnedStep):
            zero = torch.tensor([[act.zero]], dtype=torch.uint8)
            ranges = Ranges(act.step().detach().cpu().reshape(1, 1), zero)
        if isinstance(act, ShiftedStep):
            shift, migration = act.stored()
        weight = linear.folded.cpu() if linear.soft is None else linear.soft.stored()
        return Rounded(weight, ranges=ranges, shift=shift, migration=migration)

    def _linear(self, site: str) -> nn.Linear:
        name = site[len(self.unit.name) + 1 :]
        linear = self.module if not name else self.module.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise BadInput(f"{site} is no linear layer any more; quantize the model itself")
        return linear

    def _put(self, site: str, soft: nn.Module) -> None:
        name = site[len(self.unit.name) + 1 :]
        if name:
            swap(self.module, name, soft)
        else:
            self.module = soft

    @torch.no_grad()
    def _recorded(self) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """Inputs of every site [rows, c], and what an attention multiplies, of some rows of the unit's."""
        device = next(self.module.parameters()).device
        every = max(1, len(self.seen) // FIRST_ROWS)
        rows = [t[::every].float().to(device) for t in self.seen.inputs]
        self.first_steps = self.seen.steps[::every]
        found: dict[str, Tensor] = {}

        def keeper(site: str) -> Any:
            def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                found[site] = args[0].reshape(-1, args[0].shape[-1])

            return keep

        hooks = [self._linear(s).register_forward_pre_hook(keeper(s)) for s in self.unit.sites]
        attended: dict[str, list[Tensor]] = {}
        rounds = any(f is not None for s in self.formats.values() for f in s.activations)
        if (
            self.way.inside
            and rounds
            and self.unit.kind == "attention"
            and not obstacle(self.module)
        ):
            attended = inside(self.module, lambda: self(rows))
        else:
            self(rows)
        for hook in hooks:
            hook.remove()
        return found, attended

    @torch.no_grad()
    def _gated(self, site: str, linear: nn.Linear, g: Tensor, bits: int) -> _SoftLinear:
        """With the best allowed quantizer of what comes out of a GELU, by the site's own output."""
        way = self.way
        wanted = (way.shifts, way.migrates)
        options = [wanted] if not way.gated else [(True, True), (True, False), (False, False)]
        judged = g[:: max(1, len(g) // GATE_ROWS)]
        exact = F.linear(judged, linear.weight.float())
        errors: list[float] = []
        trials: dict[ShiftedStep, _SoftLinear] = {}
        for shifts, migrates in options:
            step = choose(
                g, bits, shifts=shifts, migrates=migrates, ratio=way.outlying, cap=way.largest
            )
            searched = next((t.soft for s, t in trials.items() if torch.equal(s.m, step.m)), None)
            trial = _SoftLinear(linear, self.formats[site].weight, step, searched)
            trial.weights = "hard"
            errors.append(float((trial.made(judged, None) - exact).square().mean()))
            trials[step] = trial
        step, best = list(trials.items())[errors.index(min(errors))]
        self.gates[site] = self._about(g, step) | {
            "errors": {_name(*o): e for o, e in zip(options, errors, strict=True)}
        }
        return best

    def _about(self, g: Tensor, step: ShiftedStep) -> dict[str, Any]:
        """What the views show of the input of a second linear."""
        by_row = g.reshape(len(self.first_steps), -1)
        low, high = by_row.amin(1).cpu(), by_row.amax(1).cpu()  # [rows]
        steps = range(int(self.first_steps.max()) + 1)
        of = [self.first_steps == s for s in steps]
        lowest, highest = float(g.min()), float(g.max())
        least, most = g.amin(0), g.amax(0)
        wide = outlier_channels(least, most, self.way.outlying)
        return {
            "low": [float(low[o].min()) if bool(o.any()) else None for o in of],
            "high": [float(high[o].max()) if bool(o.any()) else None for o in of],
            "negative": float((g < 0).float().mean()),
            "bins_negative": -min(lowest, 0.0) / max(highest - min(lowest, 0.0), 1e-12),
            "ranges": [float(f"{v:.4g}") for v in (most - least).tolist()],
            "outliers": wide.nonzero().flatten().tolist(),
            "m": [int(v) for v in step.m.tolist()],
            "gate": _name(step.shifts, bool((step.m > 1).any())),
        }


def _name(shifts: bool, migrates: bool) -> str:
    return "migrate" if migrates else "shift" if shifts else "plain"


def _act(fmt: Format | None, values: Tensor) -> nn.Module | None:
    if fmt is None:
        return None
    if not fmt.static:
        return _Dynamic(fmt)
    scale, zero = searched_range(values, fmt.bits)
    return LearnedStep(scale, zero, fmt.bits)


def _ranged(part: str, values: Sequence[Tensor], bits: int = 8) -> LearnedStep:
    found = searched_range(values, bits, one_sided=part == "probabilities")
    return LearnedStep(*found, bits)


assert tuple(AttentionRange.model_fields) == PARTS
