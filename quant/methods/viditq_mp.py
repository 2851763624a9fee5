"""ViDiT-Q-MP: ViDiT-Q with weight bits of their own for every layer, allocated within metric groups.

Zhao et al., ICLR 2025, https://arxiv.org/abs/2406.02540; the integer program is MixDQ's,
https://arxiv.org/abs/2405.17873

Shapes: X [n, i] input; W_l [o, i] weight of layer l, n_l numbers; G a metric group, with P_G numbers.

    Y     = Q_act((X / s) R) . Q_weight((W * s) R)^T + bias            ViDiT-Q, at the bits b_l of the layer
    b     = argmin over the layers of G of sum_l n_l e_l(b_l),   sum_l n_l b_l <= P_G B_G      for every G by itself
    B_G   = k_G B (sum_G P_G) / (sum_G k_G P_G)                        k of the content group; others 1

Layers damage what they make: cross-attention and text streams the content (the match with the prompt), temporal
attention the consistency over time, self-attention and feed-forward layers what is seen. An error of one group says
nothing of another's, so errors are added, and bits exchanged, inside a group alone.

The bits that the method is asked for (w4a8) are the average B; activations keep theirs. A plan whose weights
have different bits already, as `dqviz allocate` makes them from a table that was measured through the sampler, is
taken as it is.

Departs from the paper, which measures every layer by its group's metric on generated pictures, scans k and B,
and draws every candidate: here e_l is the layer's relative output error on calibration rows under a rotation,
the mean over steps (the released shortcut also orders layers by output error), and k is an option. Errors are weighed by n_l,
so layers of equal error keep equal bits, and those that round worse than others of their group take more: an error of a
layer's own output does not say what it is worth to the picture, and unweighed it moves bits from large layers to
small ones for being small. Step windows with weights of other bits are left out, because each width is stored (`quant.stepwise_bits`); so the W4A8 plan of the
preprint is not this one. Transforms are chosen as `viditq` does with its defaults. Whether it is better than
`viditq` at the same bytes is not claimed here: measure it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field, field_validator

from ..adapters import Site
from ..allocation import Choice, Item, Key, Problem, solve
from ..balancing import Candidate, balanced, output_error, required, transform_of, ways_of
from ..calibration import InputStatistics
from ..cards import Card, Option, Preset
from ..effort import GroupShape, Work, judging, mixing, rounding
from ..errors import BadInput
from ..group_budgets import group_budgets
from ..schema import Plan, SitePlan, Value
from ..site_tensors import Transform
from ..transforms import NO_ROTATION, rotation_of
from .base import Group, Rounded, SiteWeight

CARD = Card(
    key="viditq-mp",
    title="ViDiT-Q-MP",
    paper="https://arxiv.org/abs/2406.02540",
    bits=("w8a8", "w6a6", "w4a8", "w4a4"),
    integers=True,
    beats="rtn",
    needs=("minimum", "maximum", "rows"),
    roles=True,
    summary="ViDiT-Q with weight bits allocated layer by layer inside metric groups; the bits asked for are the average.",
    options=(
        Option("widths", (2, 3, 4, 5, 6, 7, 8), "bits that a weight may take"),
        Option(
            "k",
            1.0,
            "average bits of the content group over those of the others; the released scan tries 0.46 to 1.36",
        ),
    ),
    presets=(
        Preset("iclr", {"widths": [2, 4, 8]}, "read in released code", "w4a8", "the newer list"),
        Preset("preprint", {"widths": [4, 6, 8]}, "read in released code", "w6a6", "the older list"),
    ),
)  # fmt: skip

CONTENT = "content"
ALPHAS = tuple(a / 10 for a in range(10))
SECONDS = 60.0  # of the solver for a group, at most; it takes milliseconds

Width = Annotated[int, Field(ge=2, le=8)]


class Options(Value):
    """Knobs; see the card for what they mean."""

    widths: tuple[Width, ...] = (2, 3, 4, 5, 6, 7, 8)
    k: float = Field(default=1.0, gt=0.1, lt=10)

    @field_validator("widths")
    @classmethod
    def _listed(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(widths)) < max(len(widths), 1):
            raise ValueError("widths are different numbers of bits, e.g. [2,4,8]")
        return widths


def check_sites(plan: Plan, sites: Sequence[Site], options: Options) -> None:
    """k shares bits between layers of content and others; a plan with bits of its own shares nothing."""
    if average(plan.sites.values()) is not None:
        shares_of([site.group for site in sites], options.k)


def shares_of(groups: Iterable[str], k: float) -> dict[str, float]:
    """k by group, of those that do not have 1. Raises BadInput where k would change nothing."""
    found = list(dict.fromkeys(groups))
    if CONTENT in found and len(found) > 1:
        return {CONTENT: k}
    if k != 1:
        raise BadInput(
            f"option k={k:g} shares bits between layers of content and others, and this model has only "
            f"those of {', '.join(found)}; leave k away"
        )
    return {}


def average(formats: Iterable[SitePlan]) -> int | None:
    """B: the bits that all weights are asked for; None where they differ, or some are kept."""
    bits = {None if site.weight is None else site.weight.bits for site in formats}
    return bits.pop() if len(bits) == 1 else None


def with_bits(site: SitePlan, bits: int) -> SitePlan:
    """The same formats with another width of the weight."""
    assert site.weight is not None
    return site.model_copy(update={"weight": site.weight.model_copy(update={"bits": bits})})


def error(group: Group, site: SiteWeight, bits: int, found: InputStatistics, seed: int) -> float:
    """e_l(b): relative output error of one layer, the mean over steps, rotated where its width can be."""
    alone = replace(group, sites=(replace(site, plan=with_bits(site.plan, bits)),))
    way = Candidate(transform="plain" if rotation_of(group.width) == NO_ROTATION else "rotate")
    transform = transform_of(way, group, found, seed)
    return output_error(alone, found.rows, found.row_steps, *transform)


def planned(
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Options,
    seed: int,
) -> Plan:
    """Bits for every weight; a plan with bits of its own stays as it is."""
    target = average(plan.sites.values())
    if target is None:
        return plan
    items: dict[str, list[Item]] = {}
    for group, seen in groups:
        found = required(seen, group)
        for site in group.sites:
            size = site.weight.numel()
            choices = tuple(
                Choice(b, size * error(group, site, b, found, seed), {"bits": float(b * size)})
                for b in options.widths
            )
            items.setdefault(site.metric_group, []).append(Item(Key(site.name), choices))
    bits = allocated(items, target, options.k)
    sites = {name: with_bits(site, bits[name]) for name, site in plan.sites.items()}
    return plan.model_copy(update={"sites": sites})


def allocated(items: Mapping[str, Sequence[Item]], target: float, k: float) -> dict[str, int]:
    """Bits by layer: the least weighed sum of errors inside every group, under its share of the average."""
    sizes = {
        group: sum(item.choices[0].uses["bits"] / int(item.choices[0].label) for item in of)
        for group, of in items.items()
    }
    budgets = group_budgets(sizes, target, shares_of(sizes, k))
    found: dict[str, int] = {}
    for group, of in items.items():
        bound = {"bits": round(budgets[group] * sizes[group], 6)}
        chosen = solve(Problem(tuple(of)), bound, seconds=SECONDS).chosen
        found |= {key.site: int(label) for key, label in chosen.items()}
    return found


def stored_transform(options: Options) -> Transform:
    """A scale and a rotation at most."""
    return Transform(scale=True, rotate=True)


def work(shape: GroupShape, options: Options) -> Work:
    """A judgement for every width, one for every way to balance, then the codes."""
    rotation = mixing(Transform(rotate=True), shape.width)
    found = judging(shape, rotation) * len(options.widths)
    for way in _ways():
        found = found + judging(shape, rotation if way.rotates else 0)
    return found + rounding(shape, mixing(stored_transform(options), shape.width))


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """Choose the transform on calibration rows, fold it, round once at the layer's bits."""
    ways = _ways()
    if rotation_of(group.width) == NO_ROTATION:
        ways = [way for way in ways if not way.rotates]
    return balanced(group, seen, ways, seed)


def _ways() -> list[Candidate]:
    return ways_of(("plain", "rotate", "scale", "both"), ALPHAS, ("max",))
