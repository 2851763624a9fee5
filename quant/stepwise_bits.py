"""Weights whose bits change over the steps: what they take in storage, and what the steps compute with.

Shapes: p_i weights of part i; b_ik its bits in step window k, which holds a share f_k of the steps.

    computed = sum_i p_i sum_k f_k b_ik / sum_i p_i          mean bits of a weight in a step
    stored   = sum_i p_i sum(distinct b_ik) / sum_i p_i      every width that a part has is a copy of it

Codes of one width do not contain those of another (their steps differ), so each needs its own copy.
Scales, biases and the kept layers come on top of either count.

`RELEASED` is ViDiT-Q-MP's W4A8 plan for OpenSORA v1, arXiv 2406.02540, https://arxiv.org/abs/2406.02540,
read in the released code; the paper's abstract says 2.5x less memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CLAIMED = 2.5  # times less than 16 bit, second-hand: abstract of the preprint


@dataclass(frozen=True)
class Part:
    """Weights that always have the same bits as each other."""

    name: str
    weights: int
    bits: tuple[int, ...]  # in each step window, the noisiest first


@dataclass(frozen=True)
class Storage:
    """Bits per weight."""

    computed: float
    stored: float

    @property
    def saving(self) -> float:
        """Times less than 16 bit, by what is stored."""
        return 16 / self.stored


def storage_of(parts: Sequence[Part], shares: Sequence[float]) -> Storage:
    """Count a plan: `shares` says which share of the steps each window holds."""
    weights = sum(part.weights for part in parts)
    computed = sum(
        part.weights * sum(f * b for f, b in zip(shares, part.bits, strict=True)) for part in parts
    )
    stored = sum(part.weights * sum(set(part.bits)) for part in parts)
    return Storage(computed / weights, stored / weights)


BLOCKS, WIDTH = 28, 1152  # STDiT-XL/2
SHARES = (0.25, 0.25, 0.25, 0.25)  # steps 19-15, 14-10, 9-5, 4-0 of 20

# 8 bits for everything in the noisiest window, afterwards for the MLPs alone, and for one temporal
# attention in the last window again. An attention has four linears of width x width, an MLP eight times that.
RELEASED = (
    Part("mlp", BLOCKS * 8 * WIDTH**2, (8, 8, 8, 8)),
    Part("attn and cross_attn", BLOCKS * 8 * WIDTH**2, (8, 4, 4, 4)),
    Part("attn_temp but block 23", (BLOCKS - 1) * 4 * WIDTH**2, (8, 4, 4, 4)),
    Part("attn_temp of block 23", 4 * WIDTH**2, (8, 4, 4, 8)),
)
