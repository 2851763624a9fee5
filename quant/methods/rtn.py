"""RTN: round every weight to nearest, every activation row as it comes.

The baseline that every method is judged against. It shares ViDiT-Q's formats (per-channel weights,
row-wise dynamic activations), so that the difference between the two is the transform alone.

Shapes: X [n, i] input; W [o, i] weight.

    Y = Q_act(X) . Q_weight(W)^T + bias

Quantizers as in arXiv 2406.02540; needs no calibration.
"""

from __future__ import annotations

from ..calibration import InputStatistics
from ..cards import Card
from ..schema import Value
from ..site_tensors import Transform
from .base import Group, Rounded, transformed_and_rounded

CARD = Card(
    key="rtn",
    title="RTN",
    paper="https://arxiv.org/abs/2406.02540",
    bits=(
        "w8a8",
        "w6a6",
        "w4a8",
        "w4a4",
        "w8a16",
        "w4a16",
        "w3a16",
        "w2a16",
        "fp8",
        "mxfp8",
        "mxfp4",
        "nvfp4",
    ),
    summary="Round to nearest: per-channel weights, row-wise dynamic activations, no transform.",
)


class Options(Value):
    """RTN has nothing to set."""


def stored_transform(options: Options) -> Transform:
    """Nothing is stored beside the codes."""
    return Transform()


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """Round each site by itself; `seen` is not read."""
    return [
        transformed_and_rounded(site, None, None, {"transform": "plain"}) for site in group.sites
    ]
