"""AdaRound: every weight goes up or down by what a layer or a unit puts out, and nothing else is changed.

Nagel et al. 2020, https://arxiv.org/abs/2004.10568 (second-hand)

Shapes: X [n, t, i] input; W [o, i] weight; s, z [o, g] its steps and zeros; h(a) in 0..1 for every weight.

    W~   = (clip(floor(W / s) + h(a) + z, 0, 2^b - 1) - z) s          s, z: |W - Q(W)|^2.4 is least
    a    = argmin ||X W~^T - X W^T||^2 + w sum (1 - |2 h(a) - 1|^beta)   beta falls from 20 to 2
    hard = floor(W / s) + [a >= 0]

Layer by layer as in the paper, or by attention and MLP (`reconstruction=unit`, as BRECQ and TaQ-DiT do; the
default, ours). Inputs come from the quantized prefix; activations are rounded as the plan says while
rounding is learned. Without a model, a group's calibration rows take the place of its input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from ..balancing import required
from ..calibration import InputStatistics
from ..cards import Card, Option, Preset
from ..effort import GroupShape, Work
from ..errors import BadInput
from ..learning import Asked
from ..reconstruction import Reconstruction, ReconstructionOptions
from ..reconstruction_effort import learning_memory, learning_work
from ..rounding import rounded_rows
from ..row_learning import learned_weights
from ..schema import Plan
from ..site_tensors import Transform
from ..soft_rounding import SoftWeight
from ..soft_units import Way
from .base import Group, Rounded, SiteWeight

CARD = Card(
    key="adaround",
    title="AdaRound",
    paper="https://arxiv.org/abs/2004.10568",
    bits=("w4a8", "w4a16", "w3a16"),
    integers=True,
    beats="rtn",
    beats_at=("w4a16", "w3a16"),
    needs=("rows",),
    one_window=True,
    learns=True,
    trajectories=True,
    summary="Rounding up or down is learned from the output of each attention and MLP, or layer by layer; no transform.",
    options=(
        Option("reconstruction", "unit", "unit | layer: whose output is to stay"),
        Option("iterations", 400, "steps for each unit"),
        Option("batch", 16, "rows of a step"),
        Option("samples", 16, "trajectories to learn from"),
        Option("steps", 10, "steps of each trajectory"),
        Option("rounding_lr", 0.05, "learning rate"),
        Option("rounding_weight", 0.01, "weight of the loss that presses weights to one side"),
        Option("drop", 0.5, "share of values that are not quantized in a step of learning"),
        Option("cache_mib", 1024, "what inputs and outputs of one unit may take"),
    ),
    presets=(
        Preset("quick", {"iterations": 400, "samples": 16, "steps": 10}, "ours", "w4a8", "minutes on two cores for the embedded model"),
        Preset("paper", {"reconstruction": "layer", "iterations": 10000, "batch": 32, "rounding_lr": 0.001, "drop": 0.0, "samples": 256, "steps": 25, "cache_mib": 16384}, "second-hand", "w4a16", "for a GPU"),
        Preset("brief", {"iterations": 60, "samples": 4, "steps": 4, "batch": 8, "rounding_lr": 0.1}, "ours", "w4a8", "a look: seconds on a small model"),
    ),
)  # fmt: skip


class Options(ReconstructionOptions):
    """Knobs; see the card for what they mean."""

    reconstruction: Literal["unit", "layer"] = "unit"


def check(
    plan: Plan, inputs: Sequence[tuple[str, ...]], timesteps: Sequence[float], options: Options
) -> None:
    """Weights have scales per row or group."""
    for name, site in plan.sites.items():
        if site.weight is not None and site.weight.granularity not in ("row", "group"):
            raise BadInput(
                f"adaround learns the rounding of rows and groups, and {name} is to have {site.weight}"
            )


def stored_transform(options: Options) -> Transform:
    """Nothing beside the codes."""
    return Transform()


def learner(asked: Asked) -> Reconstruction:
    """Unit after unit, or layer after layer, in the order of the network."""
    return Reconstruction(asked, "joint", Way(), asked.options.reconstruction)


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """Each layer by itself, from the group's calibration rows."""
    rows = required(seen, group).rows.float()
    softs = learned_weights(
        group, rows, {s.name: _quantizer(s) for s in group.sites}, options, seed
    )
    return [_rounded(site, softs.get(site.name)) for site in group.sites]


def _quantizer(site: SiteWeight) -> Callable[[Tensor], Tensor]:
    act = site.plan.activations[0]
    return (lambda x: x) if act is None else lambda x: rounded_rows(x, act)


def _rounded(site: SiteWeight, soft: SoftWeight | None) -> Rounded:
    if soft is None:
        return Rounded(site.weight)
    notes: dict[str, object] = {"rounding": "layer", "undecided": round(soft.undecided(), 4)}
    return Rounded(soft.stored(), notes=notes)


def work(shape: GroupShape, options: Options) -> Work:
    """Trajectories, captures and iterations."""
    return learning_work(shape, options)


def memory(shapes: Sequence[GroupShape], options: Options) -> int:
    """Captures, and one unit with its moments."""
    return learning_memory(shapes, options)
