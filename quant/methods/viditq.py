"""ViDiT-Q: a static channel scale, then a rotation, under row-wise dynamic quantization.

Zhao et al., ICLR 2025, https://arxiv.org/abs/2406.02540

Shapes: X [n, i] input; W [o, i] weight; s [i] channel scale; R [i, i] orthogonal; alpha in [0, 1].

    Y   = Q_act((X / s) R) . Q_weight((W * s) R)^T + bias
    s   = a^alpha / w_max^(1 - alpha)            a: static |X| per channel; w_max = max_o |W|
    R   = diag(signs) H / sqrt(i)                H Hadamard, signs random
    psi(g) = max|g| / mean|g|                    incoherence, what s and R lower

The scale takes what is imbalanced at every step, the rotation spreads what changes from step to
step; activations are quantized per (batch, token) row, so guidance branches do not share a scale.
q, k and v read one tensor and share one transform, with w_max over all three. Equations
reconstructed from the released code, which scales first and then rotates.

Released code of the preprint's generation has other parts, kept here as ablations. With
`balance=timestep_aware` every range k of steps has a scale of its own, and so a weight of its own:

    s_k = a_k^alpha / w_max^(1 - alpha)          a_k: the statistic over the steps of range k

`scales=batch` shares an activation scale between all samples of a batch, one per token position,
`scales=branch` between those of a guidance branch, which that code's `cfg_split` does by calling the
network twice. Neither runs on integers here, or is written to a checkpoint.

Which inputs are balanced at all: all (the released video code), those where it leaves less error on
calibration rows (`transform=choose`, ours), or those whose incoherence is large or changes over the
steps (`transform=incoherence`; the authors' answer to a question, second-hand; its limits are ours).

Departs from the released code: the weight is rounded once, after both (the code rounds twice);
random signs are stored; a Hadamard matrix is built for any width; alpha is searched on calibration
rows unless it is given; with `fold`, 1 / s goes into what makes an input (`quant.folding`; released
kernels fold nothing).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field, model_validator

from ..alphas import SEARCH, Alpha, alpha_of, check_names
from ..balancing import (
    CHANGING,
    INCOHERENT,
    STATISTICS,
    Candidate,
    TransformName,
    balanced,
    incoherence_profile,
    required,
    to_be_balanced,
    ways_of,
)
from ..calibration import InputStatistics
from ..cards import Card, Option, Preset
from ..effort import GroupShape, Work, judging, mixing, rounding
from ..errors import BadInput
from ..folding import Fold
from ..plans import windows_between, with_windows
from ..schema import Format, Plan, SitePlan, Value
from ..site_tensors import Transform
from ..transforms import NO_ROTATION, rotation_of
from .base import Group, Rounded

CARD = Card(
    key="viditq",
    title="ViDiT-Q",
    paper="https://arxiv.org/abs/2406.02540",
    bits=("w8a8", "w6a6", "w4a8", "w4a4", "w4a16", "fp8"),
    beats="rtn",
    needs=("minimum", "maximum", "rows"),
    summary="Static channel scale, then a randomized Hadamard rotation; row-wise dynamic activations.",
    options=(
        Option(
            "alpha",
            "search",
            "share of the difficulty moved into the weight, 0 to 1; 'search' takes the best of 0, 0.1 .. 0.9; {\"name\": alpha} sets inputs by name or pattern and searches the others",
        ),
        Option(
            "act_stat", "max", "channel statistic over the steps: first, max, mean, ema, or search"
        ),
        Option(
            "transform",
            "choose",
            "plain, scale, rotate, both; choose: the least error on calibration rows, for each input; incoherence: both where an input needs it, else plain",
        ),
        Option("psi", 8.0, "with transform=incoherence: balanced where psi is larger at some step"),
        Option("change", 1.5, "or where its largest is so many times its smallest over the steps"),
        Option(
            "fold",
            "none",
            "where a scale is folded so that nothing is divided at run time: none, values (rows that make an attention's output), or all (adaLN rows too)",
        ),
        Option(
            "balance",
            "static",
            "static: one scale for all steps; timestep_aware: one per range of steps, with weights of its own (preprint; transform=scale or both)",
        ),
        Option("ranges", 2, "equal runs of steps for balance=timestep_aware, 2 to 20"),
        Option(
            "scales",
            "row",
            "of activations: row; batch or branch: shared by the samples of a batch or of a guidance branch (preprint, simulation only)",
        ),
    ),
    presets=(
        Preset(
            "opensora-w8a8",
            {"transform": "plain"},
            "read in released code",
            "w8a8",
            "dynamic rows alone are enough at 8 bits",
        ),
        Preset(
            "opensora-w6a6",
            {"transform": "scale", "alpha": 0.625, "act_stat": "ema"},
            "read in released code",
            "w6a6",
            "one scale for all steps",
        ),
        Preset(
            "opensora-w4a8-static",
            {"transform": "scale", "alpha": 0.12, "act_stat": "ema"},
            "read in released code",
            "w4a8",
            "their ablation: one scale for all steps",
        ),
        Preset(
            "opensora-w4a8",
            {
                "transform": "scale",
                "alpha": 0.11,
                "act_stat": "ema",
                "balance": "timestep_aware",
                "ranges": 2,
            },
            "read in released code",
            "w4a8",
            "a scale for each half of the noise range",
        ),
        Preset(
            "pixart",
            {"transform": "scale", "alpha": 0.3, "act_stat": "ema"},
            "read in released code",
            "w8a8",
            "also released as w4a8, in a file that sets 6 bits for weights",
        ),
        Preset(
            "dit",
            {"transform": "both", "alpha": 0.12, "act_stat": "mean"},
            "second-hand",
            "w8a8",
            "0.88 in the newer code's convention",
        ),
        Preset(
            "wan",
            {"transform": "both", "alpha": 0.4335, "act_stat": "max"},
            "read in released code",
            "w8a8",
            "a port of the newer code; 0.5665 in its convention",
        ),
    ),
)

ALPHAS = tuple(a / 10 for a in range(10))


class Options(Value):
    """Knobs; see the card for what they mean."""

    alpha: Alpha = SEARCH
    act_stat: Literal["first", "max", "mean", "ema", "search"] = "max"
    transform: Literal["plain", "scale", "rotate", "both", "choose", "incoherence"] = "choose"
    psi: float = Field(default=INCOHERENT, ge=1)
    change: float = Field(default=CHANGING, ge=1)
    fold: Fold = "none"
    balance: Literal["static", "timestep_aware"] = "static"
    ranges: int = Field(default=2, ge=2, le=20)
    scales: Literal["row", "batch", "branch"] = "row"

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if self.per_range and self.transform not in ("scale", "both"):
            raise ValueError(
                "balance=timestep_aware goes with transform=scale (as released) or both, because "
                "every range has the same parts"
            )
        needed = {"ranges": ("balance", "timestep_aware")}
        needed |= dict.fromkeys(("psi", "change"), ("transform", "incoherence"))
        for name, (other, value) in needed.items():
            given = getattr(self, name)
            if given != type(self).model_fields[name].default and getattr(self, other) != value:
                raise ValueError(
                    f"{name}={given:g} does nothing without {other}={value}; add it, or leave {name} out"
                )
        return self

    @property
    def per_range(self) -> bool:
        """Whether every range of steps has a scale of its own."""
        return self.balance == "timestep_aware"


def candidates(options: Options) -> list[Candidate]:
    """All ways that the options leave open."""
    kinds: Sequence[TransformName] = ("plain", "rotate", "scale", "both")
    if options.transform != "choose":
        kinds = ("both",) if options.transform == "incoherence" else (options.transform,)
    alphas = (options.alpha,) if isinstance(options.alpha, float) else ALPHAS
    statistics = STATISTICS if options.act_stat == "search" else (options.act_stat,)
    return ways_of(kinds, alphas, statistics)


def work(shape: GroupShape, options: Options) -> Work:
    """A judgement for every candidate and range, then the codes of each."""
    ranges = min(options.ranges, shape.steps) if options.per_range else 1
    ways, found = candidates(options), Work()
    for way in ways if len(ways) > 1 else ():
        stored = Transform(rotate=way.transform in ("rotate", "both"))
        found = found + judging(shape, mixing(stored, shape.width), ranges)
    return found + rounding(shape, mixing(stored_transform(options), shape.width)) * ranges


def check(
    plan: Plan,
    inputs: Iterable[Sequence[str]],
    timesteps: Sequence[float],
    options: Options,
) -> None:
    """Names in alpha are inputs' names."""
    check_names(options.alpha, inputs)


def planned(
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Options,
    seed: int,
) -> Plan:
    """Steps cut into ranges, and scales that samples share, where they are asked for."""
    if options.per_range and len(plan.windows) == 1:
        if not timesteps:
            raise BadInput("balance=timestep_aware cuts the calibrated steps; run calibrate first")
        ranges = min(options.ranges, len(timesteps))
        plan = with_windows(plan, windows_between(timesteps, ranges))
    sites = {name: _with_scales(site, options) for name, site in plan.sites.items()}
    return plan.model_copy(update={"sites": sites})


def stored_formats(site: SitePlan, in_features: int, options: Options, steps: int) -> SitePlan:
    """As planned."""
    if options.per_range and len(site.activations) == 1:
        ranges = min(options.ranges, steps)
        site = site.model_copy(update={"activations": site.activations * ranges})
    return _with_scales(site, options)


def _with_scales(site: SitePlan, options: Options) -> SitePlan:
    """Activation formats with scales shared as the options say; integers with a scale per row only."""
    if options.scales == "row":
        return site

    def shared(fmt: Format | None) -> Format | None:
        if fmt is None:
            return None
        if fmt.kind != "int" or fmt.granularity != "row":
            raise BadInput(f"scales={options.scales} shares the scales of integer rows, not {fmt}")
        return fmt.model_copy(update={"granularity": options.scales})

    return site.model_copy(update={"activations": tuple(shared(f) for f in site.activations)})


def stored_transform(options: Options) -> Transform:
    """What a site stores at most; where a transform is chosen a site may store less."""
    return Transform(
        scale=options.transform not in ("plain", "rotate"),
        rotate=options.transform not in ("plain", "scale"),
        per_window=options.per_range,
    )


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> Sequence[Rounded | tuple[Rounded, ...]]:
    """Choose the transform on calibration rows, fold it, round once; for each range or for all."""
    options = options.model_copy(update={"alpha": alpha_of(options.alpha, group)})
    if not options.per_range:
        return _in_one_basis(group, seen, options, seed)
    found = required(seen, group)
    ranges = [
        _in_one_basis(group.in_window(k), found.during(steps), options, seed)
        for k, steps in enumerate(group.calibrated(len(found.count)))
    ]
    return list(zip(*ranges, strict=True))


def _in_one_basis(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    ways, said = candidates(options), {}
    if options.transform == "incoherence":
        profile = incoherence_profile(required(seen, group))
        said = {"incoherence": float(profile.max()), "spread": float(profile.max() / profile.min())}
        if not to_be_balanced(profile, options.psi, options.change):
            ways = [Candidate(transform="plain")]
    if options.transform == "choose" and rotation_of(group.width) == NO_ROTATION:
        ways = [way for way in ways if not way.rotates]
    return balanced(group, seen, ways, seed, said)
