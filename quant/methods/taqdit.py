"""TaQ-DiT: rounding and activation ranges of each attention and MLP are learned together; wide channels migrate.

Liu et al. 2024, https://arxiv.org/abs/2411.14172 (read in released code; of the paper itself the abstract).

Shapes: X [n, t, i] input; W [o, i] weight; s, z step and zero of a tensor, one for all timesteps; s_w, z_w [o].

    Q(x)  = (clip(round(x / s) + z, 0, 2^b - 1) - z) s           s, z: |x - Q(x)|^2.4 is least, then s is learned
    W~    = (clip(floor(W / s_w) + h(a) + z_w, 0, 2^b - 1) - z_w) s_w
    loss  = mean sum_t (y - y^f)^2 + w sum (1 - |2 h(a) - 1|^beta)        unit after unit, in order
    y     = Q((g - v) / m) (W2 diag(m))^T + b',  b' = b + W2m_q (v / m)   g: what comes out of a GELU

All linears of the blocks but adaLN; first and last at 8 bits; queries, keys, values and softmax outputs at 8.
Blocks: `quant.soft_rounding`, `quant.learned_steps`, `quant.range_search`, `quant.migration`,
`quant.attention_ranges`, `quant.reconstruction`. What departs from the released code, which folds migration
after rounding, recomputes m while s moves and rounds it, and takes channels from a list: m is folded before
rounding and fixed, and rounded up; shifts are snapped to the grid; migration is kept layer by layer, only
where the rounded output gains by it; rates and iterations are ours but in the preset `paper`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..adapters import Site
from ..balancing import required
from ..calibration import InputStatistics
from ..cards import Card, Option, Preset
from ..effort import GroupShape, Work
from ..learned_steps import LearnedStep
from ..learning import Asked
from ..range_search import searched_range
from ..reconstruction import SECOND, Mode, Reconstruction, ReconstructionOptions
from ..reconstruction_effort import learning_memory, learning_work
from ..rounding import Ranges
from ..row_learning import learned_weights
from ..schema import Format, Plan, SitePlan
from ..site_tensors import Transform
from ..soft_units import Way
from .base import Group, Rounded

CARD = Card(
    key="taqdit",
    title="TaQ-DiT",
    paper="https://arxiv.org/abs/2411.14172",
    bits=("w4a8", "w8a8"),
    integers=True,
    beats="static-step ranges=window",
    beats_at=("w4a8",),
    needs=("minimum", "maximum"),
    roles=True,
    one_window=True,
    learns=True,
    trajectories=True,
    summary="Rounding and static activation ranges learned together, attention by attention and MLP by MLP; GELU outputs shifted and migrated.",
    options=(
        Option("mode", "joint", "joint | separate: what is learned; plain | shift | migrate: nearest rounding, with nothing, shift or migration of GELU outputs"),
        Option("gate", True, "with joint and separate: keep shift and migration only where a layer gains"),
        Option("ends", 8, "weight bits of the first and the last quantized input's layers; 0: as planned"),
        Option("adaln", "keep", "keep | w8: adaptive layer norms in 16 bit, or 8-bit weights"),
        Option("inside", True, "quantize queries, keys, values and softmax outputs to 8 bits"),
        Option("outliers", 2.5, "channels as many times as wide as the median migrate"),
        Option("largest", 8, "cap of migration factors"),
        Option("iterations", 400, "steps for each unit"),
        Option("batch", 16, "rows of a step"),
        Option("samples", 16, "trajectories to learn from"),
        Option("steps", 10, "steps of each trajectory"),
        Option("rounding_lr", 0.05, "learning rate of rounding"),
        Option("scale_lr", 0.001, "learning rate of activation scales, as a share of them"),
        Option("rounding_weight", 0.01, "weight of the loss that presses weights to one side"),
        Option("drop", 0.5, "share of values that are not quantized in a step of learning"),
        Option("cache_mib", 1024, "what inputs and outputs of one unit may take"),
    ),
    presets=(
        Preset("quick", {"iterations": 400, "samples": 16, "steps": 10}, "ours", "w4a8", "minutes on two cores for the embedded model"),
        Preset("paper", {"iterations": 20000, "batch": 32, "samples": 256, "steps": 25, "rounding_lr": 0.001, "scale_lr": 0.00004, "cache_mib": 16384}, "read in released code", "w4a8", "for a GPU"),
        Preset("brief", {"iterations": 60, "samples": 4, "steps": 4, "batch": 8, "rounding_lr": 0.1}, "ours", "w4a8", "a look: seconds on a small model"),
    ),
)  # fmt: skip

NEAREST = ("plain", "shift", "migrate")


class Options(ReconstructionOptions):
    """Knobs; see the card for what they mean."""

    mode: Literal["joint", "separate", "plain", "shift", "migrate"] = "joint"
    gate: bool = True
    ends: int = Field(default=8, ge=0, le=8)
    adaln: Literal["keep", "w8"] = "keep"
    inside: bool = True
    scale_lr: float = Field(default=1e-3, gt=0, le=1)
    outliers: float = Field(default=2.5, gt=1, le=1000)
    largest: int = Field(default=8, ge=1, le=255)

    @property
    def way(self) -> Way:
        """What is quantized in a unit."""
        learned = self.mode not in NEAREST
        return Way(
            shifts=learned or self.mode == "shift",
            migrates=learned or self.mode == "migrate",
            gated=learned and self.gate,
            inside=self.inside,
            outlying=self.outliers,
            largest=self.largest,
        )


def own_formats(
    sites: Sequence[Site], formats: Mapping[str, SitePlan], options: Options
) -> Mapping[str, SitePlan]:
    """First and last layers at `ends` bits, adaLN at 8 where that is asked for."""
    found = dict(formats)
    windows = max((len(site.activations) for site in formats.values()), default=1)
    if options.adaln == "w8":
        eight = SitePlan(weight=Format(bits=8, symmetric=False), activations=(None,) * windows)
        found |= {s.name: eight for s in sites if s.role == "adaln" and s.block is not None}
    inputs = list(dict.fromkeys(s.input_of for s in sites if s.name in formats))
    if options.ends and len(inputs) > 2:
        ends = {inputs[0], inputs[-1]}
        for s in sites:
            if s.input_of in ends and s.name in formats:
                found[s.name] = _at_least(formats[s.name], options.ends)
    return found


def _at_least(site: SitePlan, bits: int) -> SitePlan:
    weight = site.weight
    if weight is None or weight.kind != "int" or weight.bits >= bits:
        return site
    return SitePlan(weight=weight.model_copy(update={"bits": bits}), activations=site.activations)


def _static(site: SitePlan) -> SitePlan:
    """The same bits, on one asymmetric range for the whole tensor."""
    activations = tuple(
        f if f is None else Format(bits=f.bits, symmetric=False, granularity="tensor", static=True)
        for f in site.activations
    )
    return SitePlan(weight=site.weight, activations=activations)


def planned(
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Options,
    seed: int,
) -> Plan:
    """Static ranges, one for each tensor."""
    return plan.each(_static)


def stored_formats(site: SitePlan, in_features: int, options: Options, steps: int) -> SitePlan:
    """The same."""
    return _static(site)


def stored_transform(options: Options) -> Transform:
    """At most a shift and whole factors; of inputs of second linears only."""
    way = options.way
    return Transform(shift=way.shifts, migration=way.migrates)


def site_transform(site: Site, options: Options) -> Transform:
    """Those of one site."""
    return stored_transform(options) if site.role in SECOND else Transform()


def learner(asked: Asked) -> Reconstruction:
    """Unit after unit, in the order of the network."""
    options: Options = asked.options
    mode: Mode = "joint" if options.mode == "joint" else "separate"
    mode = "nearest" if options.mode in NEAREST else mode
    return Reconstruction(asked, mode, options.way, scale_lr=options.scale_lr)


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """Searched ranges, one for all timesteps; with mode=joint learned with the rounding, from the rows alone."""
    rows, acts = required(seen, group).rows.float(), {}
    for site in group.sites:
        bits = [fmt.bits for fmt in site.plan.static_formats[:1]]
        if bits and bits[0] not in acts:
            acts[bits[0]] = LearnedStep(*searched_range(rows, bits[0]), bits[0])
    own = {
        s.name: acts[s.plan.static_formats[0].bits] for s in group.sites if s.plan.static_formats
    }
    learned = options if options.mode == "joint" else options.model_copy(update={"iterations": 0})
    quantizers = {s.name: own.get(s.name, _plain) for s in group.sites}
    softs = learned_weights(group, rows, quantizers, learned, seed, options.scale_lr)
    mode = options.mode if options.mode == "joint" else "nearest"
    return [
        Rounded(
            softs[s.name].stored() if s.name in softs else s.weight,
            ranges=None if s.name not in own else _ranges(own[s.name], len(s.plan.activations)),
            notes={"rounding": mode},
        )
        for s in group.sites
    ]


def _plain(x: Tensor) -> Tensor:
    return x


def _ranges(act: LearnedStep, windows: int) -> Ranges:
    zero = torch.tensor([[act.zero]] * windows, dtype=torch.uint8)
    return Ranges(act.step().detach().reshape(1, 1).repeat(windows, 1), zero)


def work(shape: GroupShape, options: Options) -> Work:
    """Trajectories, captures and iterations."""
    return learning_work(shape, options, learned=options.mode not in NEAREST)


def memory(shapes: Sequence[GroupShape], options: Options) -> int:
    """Captures, and one unit with its moments."""
    return learning_memory(shapes, options)
