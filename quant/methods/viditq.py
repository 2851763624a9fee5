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

Departs from the released code: the weight is rounded once, after both (the code rounds twice);
random signs are stored; a Hadamard matrix is built for any width; alpha is searched on calibration
rows unless it is given; with `transform=choose` the cheaper parts are used alone where they leave
less error on those rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from ..alphas import SEARCH, Alpha, alpha_of, check_names
from ..balancing import STATISTICS, Candidate, output_error, required, transform_of
from ..calibration import InputStatistics
from ..cards import Card, Option
from ..layers import Transform
from ..schema import Plan, Value
from .base import Group, Rounded, transformed_and_rounded

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
            "share of the difficulty moved into the weight, 0 to 1; 'search' takes the best of 0, 0.1 .. 0.9; {name: alpha} sets inputs by name or pattern and searches the others",
        ),
        Option(
            "act_stat", "max", "channel statistic over the steps: first, max, mean, ema, or search"
        ),
        Option(
            "transform",
            "choose",
            "plain, scale, rotate, both, or choose: the one with the least error on calibration rows, for each input",
        ),
    ),
)

ALPHAS = tuple(a / 10 for a in range(10))


class Options(Value):
    """Knobs; see the card for what they mean."""

    alpha: Alpha = SEARCH
    act_stat: Literal["first", "max", "mean", "ema", "search"] = "max"
    transform: Literal["plain", "scale", "rotate", "both", "choose"] = "choose"


def planned(
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Options,
    seed: int,
) -> Plan:
    """As given, once every name in the option alpha is an input's."""
    check_names(options.alpha, (group for group, _ in groups))
    return plan


def candidates(options: Options) -> list[Candidate]:
    """All ways that the options leave open."""
    kinds: Sequence[str] = (
        ("plain", "rotate", "scale", "both")
        if options.transform == "choose"
        else (options.transform,)
    )
    alphas = (options.alpha,) if isinstance(options.alpha, float) else ALPHAS
    statistics = STATISTICS if options.act_stat == "search" else (options.act_stat,)
    found = []
    for kind in kinds:
        if kind in ("plain", "rotate"):
            found.append(Candidate(transform=kind))  # type: ignore[arg-type]
        else:
            found += [
                Candidate(transform=kind, alpha=a, act_stat=s) for s in statistics for a in alphas
            ]  # type: ignore[arg-type]
    return found


def stored_transform(options: Options) -> Transform:
    """What a site stores at most; with `transform=choose` a site may store less."""
    return Transform(
        scale=options.transform in ("scale", "both", "choose"),
        rotate=options.transform in ("rotate", "both", "choose"),
    )


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """Choose the transform on calibration rows, fold it, round once."""
    options = options.model_copy(update={"alpha": alpha_of(options.alpha, group)})
    ways = candidates(options)
    errors = {}
    if len(ways) > 1:
        found = required(seen, group)
        for way in ways:
            transform = transform_of(way, group, seen, seed)
            errors[way] = output_error(group, found.rows, found.row_steps, *transform)
    best = min(errors, key=lambda way: errors[way]) if errors else ways[0]
    scale, signs = transform_of(best, group, seen, seed)
    notes: dict[str, object] = {**best.to_json(), "error": errors.get(best)}
    return [transformed_and_rounded(site, scale, signs, notes) for site in group.sites]
