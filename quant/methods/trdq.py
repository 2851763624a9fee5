"""TR-DQ: a channel scale and a greedy block rotation of their own for every window of steps.

"TR-DQ: Time-Rotation Diffusion Quantization", arXiv 2503.06564, https://arxiv.org/abs/2503.06564

Shapes: X [n, i] input in window k(t); W [o, i] weight; s_k [i]; R_k1, R_k2 [i, i], blocks of b; P_k [i].

    Y   = Q_act(X / s_k R_k1 P_k R_k2) . Q_weight(W * s_k R_k1 P_k R_k2)^T + bias
    s_k = a_k^alpha_k / w_max^(1 - alpha_k)      a_k: moving average of max_n |X| over the window's steps
    R_k = (I (x) B_k1) P_k (I (x) B_k2)          found greedily on rows of the window, `quant.rotations`

Every window has a weight of its own, so what is stored is said by `tier`. A: the 16-bit weight once,
its codes made anew when a window begins (accuracy reference, saves nothing on disk). B: one transform
and one set of codes from all windows; windows have activation ranges alone, where those are static.
C: the codes of every window. A and C compute with the same integers; four windows of 4-bit codes take
as many bytes as the 16-bit weight, which `dqviz size` says before anything runs.

Attention sharing (`sharing`) is the paper's too: where both guidance branches attend alike, one map
serves both. It changes no weight; `quant.sharing` has its equations, `quant.similarity` its choice.

Reconstructed from the released code (the paper's body was not at hand). Departs from it: rotations come
from real token rows of all samples and both guidance branches (the code averages over the batch);
windows are half-open ranges of float timesteps; every window has its own step sizes (the code keeps
those of the last one); alpha is searched on calibration rows of the window unless it is given (the code
ships 0.11 for every step); blocks are smaller where 128 does not divide the width; a window count of 4
is the default, the code has one window per step for video and one for all for images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from ..alphas import SEARCH, Alpha, alpha_of, check_names
from ..balancing import moving_average, output_error, required, weight_max
from ..calibration import InputStatistics
from ..cards import Card, Option
from ..effort import GroupShape, Work, judging, mixing, rounding
from ..errors import BadInput
from ..plans import refined, windows_between, windows_from, with_windows
from ..ranges import clipped_ranges, static
from ..rotations import BLOCK, block_rotation, searching
from ..schema import Plan, SitePlan, Window
from ..sharing_choice import SharingOptions, SharingRequest
from ..site_tensors import Transform
from ..transforms import BlockRotation, channel_scale, to_input
from .base import Group, Rounded, transformed_and_rounded

CARD = Card(
    key="trdq",
    title="TR-DQ",
    paper="https://arxiv.org/abs/2503.06564",
    bits=("w4a8", "w8a8", "w4a4"),
    beats="rtn",
    needs=("minimum", "maximum", "rows"),
    summary="Channel scale, greedy block rotations and permutation per window of steps; three storage tiers.",
    options=(
        Option(
            "windows",
            4,
            "equal runs of steps: 1, 2, 4 or step, or borders: [5, 10] begins windows with steps 5 and 10; "
            "a plan with several windows keeps its own",
        ),
        Option(
            "tier",
            "C",
            "A: 16-bit weights, requantized when a window begins; B: one set of codes for all; C: codes per window",
        ),
        Option(
            "alpha",
            "search",
            "share moved into the weight, 0 to 1; 'search': best per window; {\"name\": alpha}: inputs by name or pattern",
        ),
        Option("block", 128, "channels that a rotation mixes, a power of two; fewer if they must"),
        Option(
            "activations", "dynamic", "per row, or with tier=B static: a clipped range per window"
        ),
        Option(
            "sharing",
            "off",
            "spatial self-attention of both guidance branches from one: map (own values) or output (one result)",
        ),
        Option(
            "sharing_set",
            "similarity",
            "attentions and steps that share: where maps are similar, outputs differ little (error), or released",
        ),
        Option(
            "sharing_threshold",
            0.9,
            "least cosine of the maps, or with sharing_set=error least 1 - relative output error",
        ),
        Option("sharing_steps", "all", "timesteps that may share, half-open ranges: [[300, 1000]]"),
    ),
)

ALPHAS = tuple(a / 10 for a in range(10))
MOMENTUM = 0.5
TIERS = ("A", "B", "C")


class Options(SharingOptions):
    """Knobs; see the card for what they mean."""

    windows: Literal[1, 2, 4, "step"] | tuple[int, ...] = 4
    tier: Literal["A", "B", "C"] = "C"
    alpha: Alpha = SEARCH
    block: int = Field(default=BLOCK, ge=2, le=1024)
    activations: Literal["dynamic", "static"] = "dynamic"

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        borders = self.windows if isinstance(self.windows, tuple) else (1,)
        if not borders or sorted({0, *borders}) != [0, *borders]:
            raise ValueError(
                "windows as borders are the first steps of the later windows, rising, e.g. [5, 10]"
            )
        if self.block & (self.block - 1):
            raise ValueError("block is a power of two")
        if self.activations == "static" and self.tier != "B":
            raise ValueError("activations=static goes with tier=B, where windows share the codes")
        return self

    @property
    def own_windows(self) -> bool:
        """Whether the plan is cut into windows."""
        return self.windows != 1 and (self.tier != "B" or self.activations == "static")

    def count(self, steps: int) -> int:
        """How many windows a sampler of so many steps is cut into."""
        if isinstance(self.windows, tuple):
            return len(self.windows) + 1
        return steps if self.windows == "step" else min(self.windows, steps)


def check(
    plan: Plan,
    inputs: Iterable[Sequence[str]],
    timesteps: Sequence[float],
    options: Options,
) -> None:
    """Names in alpha are inputs' names, windows begin with steps that there are."""
    check_names(options.alpha, inputs)
    if options.own_windows and len(plan.windows) == 1:
        cut(plan, timesteps, options)


def planned(
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Options,
    seed: int,
) -> Plan:
    """The calibrated steps cut into windows; static formats where they are asked for."""
    if options.own_windows and len(plan.windows) == 1:
        if not timesteps:
            raise BadInput("trdq cuts the calibrated steps into windows; run calibrate first")
        plan = with_windows(plan, cut(plan, timesteps, options))
    if options.activations == "static":
        plan = plan.each(static)
    return plan


def cut(plan: Plan, timesteps: Sequence[float], options: Options) -> tuple[Window, ...]:
    """The windows of the steps."""
    if options.windows == "step":
        return refined(plan.windows, timesteps)
    if isinstance(options.windows, tuple):
        return windows_from(timesteps, options.windows)
    return windows_between(timesteps, options.count(len(timesteps)))


def stored_formats(site: SitePlan, in_features: int, options: Options, steps: int) -> SitePlan:
    """As planned."""
    if options.own_windows and len(site.activations) == 1:
        site = SitePlan(weight=site.weight, activations=site.activations * options.count(steps))
    return static(site) if options.activations == "static" else site


def sharing(options: Options) -> SharingRequest | None:
    """Attention shared between the guidance branches, `quant.sharing`; None unless it is asked for."""
    return options.sharing_request


def stored_transform(options: Options) -> Transform:
    """A scale and a block rotation at every site, for all windows or each."""
    return Transform(
        scale=True,
        block=options.block,
        per_window=options.tier != "B" and options.windows != 1,
        requantized=options.tier == "A",
    )


def alternatives(options: Options) -> list[Options]:
    """The same method in every tier; only B has static activations."""
    tiers = []
    for tier in TIERS:
        activations = options.activations if tier == "B" else "dynamic"
        tiers.append(options.model_copy(update={"tier": tier, "activations": activations}))
    return tiers


def work(shape: GroupShape, options: Options) -> Work:
    """A search and a judgement for every alpha and window, then the codes of each."""
    windows = options.count(shape.steps) if stored_transform(options).per_window else 1
    mixed = mixing(stored_transform(options), shape.width)
    once = rounding(shape, mixed) * (0 if options.tier == "A" else windows)
    found = searching(shape, options.block, windows)
    if isinstance(options.alpha, float):
        return found + once
    return (found + judging(shape, mixed, windows)) * len(ALPHAS) + once


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> Sequence[Rounded | tuple[Rounded, ...]]:
    """One transform for the sites of the group in each window, or for all windows."""
    options = options.model_copy(update={"alpha": alpha_of(options.alpha, group)})
    found = required(seen, group)
    if not stored_transform(options).per_window:
        return _in_one_basis(group, found, options, seed)
    windows = [
        _in_one_basis(group.in_window(k), found.during(steps), options, seed)
        for k, steps in enumerate(group.calibrated(len(found.count)))
    ]
    return list(zip(*windows, strict=True))


def _in_one_basis(
    group: Group, seen: InputStatistics, options: Options, seed: int
) -> list[Rounded]:
    """Choose the transform, fold it and round once; tier A leaves both to the layer."""
    scale, blocks, notes = chosen(group, seen, options, seed)
    made = []
    for site in group.sites:
        rounded = transformed_and_rounded(site, scale, None, notes, blocks)
        if options.tier == "A" and site.plan.weight is not None:
            rounded = replace(rounded, weight=site.weight)
        if site.plan.static_formats:
            x = to_input(seen.rows, scale, None, blocks)
            ranges = clipped_ranges(group, site.plan, x, seen.row_steps)
            rounded = replace(rounded, ranges=ranges)
        made.append(rounded)
    return made


def chosen(
    group: Group, seen: InputStatistics, options: Options, seed: int
) -> tuple[Tensor, BlockRotation, dict[str, object]]:
    """s and R of the alpha with the least error on the calibration rows, and what was chosen."""
    a, w_max = moving_average(seen.absmax.amax(1), MOMENTUM), weight_max(group)
    tried = []
    for alpha in (options.alpha,) if isinstance(options.alpha, float) else ALPHAS:
        scale = channel_scale(a, w_max, alpha)
        blocks = block_rotation(seen.rows / scale, seed, group.input_of, options.block)
        error = None
        if options.alpha == "search":
            error = output_error(group, seen.rows, seen.row_steps, scale, None, blocks=blocks)
        tried.append((error or 0.0, alpha, scale, blocks))
    error, alpha, scale, blocks = min(tried, key=lambda way: way[0])
    notes: dict[str, object] = {"transform": "scale and rotations", "alpha": alpha}
    return scale, blocks, notes | ({"error": error} if options.alpha == "search" else {})
