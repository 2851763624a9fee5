"""QuaRot's rotation: spread outlier channels over all channels by a randomized Hadamard matrix.

Ashkboos et al., NeurIPS 2024, https://arxiv.org/abs/2404.00456

Shapes: X [n, i] input; W [o, i] weight; R [i, i] orthogonal.

    Y   = Q_act(X R) . Q_weight(W R)^T + bias
    R   = diag(signs) H / sqrt(i)                H Hadamard, signs random

The rotation alone, as diffusion transformers can take it: their adaLN modulation stands between norm
and linear layer, so that R cannot be folded into a neighbour as in the paper and runs at every call
before each linear layer (ours). Needs no calibration. GPTQ, which the paper adds for the weights, is
method `gptq` with `transform=rotate`.
"""

from __future__ import annotations

from ..balancing import Candidate, transform_of
from ..calibration import InputStatistics
from ..cards import Card
from ..schema import Value
from ..site_tensors import Transform
from .base import Group, Rounded, transformed_and_rounded

CARD = Card(
    key="quarot",
    title="Hadamard (QuaRot)",
    paper="https://arxiv.org/abs/2404.00456",
    bits=("w8a8", "w6a6", "w4a8", "w4a4", "w4a16"),
    beats="rtn",
    beats_at=("w4a4", "w6a6"),  # at w4a8 pictures of a random model show no gain
    summary="Randomized Hadamard rotation alone; row-wise dynamic activations; no calibration.",
)


class Options(Value):
    """There is nothing to set."""


def stored_transform(options: Options) -> Transform:
    """A rotation at every site."""
    return Transform(rotate=True)


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """Rotate, fold, round once; `seen` is not read."""
    way = Candidate(transform="rotate")
    _, signs = transform_of(way, group, None, seed)
    return [transformed_and_rounded(site, None, signs, way.to_json()) for site in group.sites]
