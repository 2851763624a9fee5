"""Changes of basis that a linear layer does not notice in exact arithmetic.

Shapes: X [n, i] input; W [o, i] weight; s [i] channel scale; R [i, i] orthogonal; B1, B2 [b, b].

    X W^T = (X / s) R  ((W * s) R)^T              R = diag(signs) H / sqrt(i), or
                                                  R = (I (x) B1) P (I (x) B2), P a permutation

(ViDiT-Q, arXiv 2406.02540, static-dynamic channel balance, scale first and then rotate; the
exponent is in SmoothQuant's convention, arXiv 2211.10438 eq. 4.) The weight side is folded once,
before rounding; the input side runs at every call.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.hadamard import factors, hadamard

ACTIVATION_FLOOR = 1e-3  # smallest channel statistic that is believed
WEIGHT_FLOOR = 1e-5
NO_ROTATION = "none"
SCALE_RANGE = (1e-3, 1e3)  # well inside float16, in which scales are stored


def channel_scale(input_statistic: Tensor, weight_max: Tensor, alpha: float) -> Tensor:
    """s = a^alpha / w_max^(1 - alpha), per channel [i].

    Args:
        input_statistic: a, the channel's largest |X| by some rule over steps, [i].
        weight_max: largest |W| of the channel over all weights that read this input, [i].
        alpha: share of the difficulty that moves into the weight, in [0, 1].

    Returned in float16 precision, because that is how it is stored: weight and input are then
    balanced by the same numbers. Divided by its geometric mean, which changes nothing but keeps
    the numbers near 1.
    """
    a = input_statistic.double().clamp(min=ACTIVATION_FLOOR)
    w = weight_max.double().clamp(min=WEIGHT_FLOOR)
    s = a**alpha / w ** (1 - alpha)  # [i]
    s = s / s.log().mean().exp()
    return s.clamp(*SCALE_RANGE).half().float()


def rotation_of(width: int) -> str:
    """How a Hadamard matrix rotates so many channels: "12 x 12 x 8", "in blocks of 32", or `NO_ROTATION`."""
    try:
        orders = factors(width)
    except ValueError:
        return NO_ROTATION
    if math.prod(orders) != width:
        return f"in blocks of {math.prod(orders)}"
    return " x ".join(str(order) for order in orders)


def random_signs(width: int, seed: int, name: str) -> Tensor:
    """+-1 per channel, int8 [width], from the seed and the name of the input they rotate."""
    mixed = hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7]
    generator = torch.Generator().manual_seed(int.from_bytes(mixed, "little"))
    return (torch.randint(0, 2, (width,), generator=generator) * 2 - 1).to(torch.int8)


class BlockRotation(NamedTuple):
    """R = (I (x) B1) P (I (x) B2): within blocks of b channels, across them, within them again."""

    first: Tensor  # B1, float32 [b, b]
    order: Tensor  # P, int64 [i]: channel j after it is channel order[j] before it
    second: Tensor  # B2, float32 [b, b]

    def __call__(self, x: Tensor) -> Tensor:
        """X R of x [..., i]."""
        return in_blocks(in_blocks(x, self.first)[..., self.order], self.second)


def in_blocks(x: Tensor, rotation: Tensor) -> Tensor:
    """Every run of b channels of x [..., i] times one matrix [b, b]."""
    return (x.reshape(-1, len(rotation)) @ rotation.to(x.dtype)).reshape(x.shape)


def block_of(width: int, most: int) -> int:
    """The largest power of two that divides `width` and is at most `most`."""
    return min(width & -width, 1 << (most.bit_length() - 1))


def to_input(
    x: Tensor, scale: Tensor | None, signs: Tensor | None, blocks: BlockRotation | None = None
) -> Tensor:
    """(X / s) R, [..., i]; what runs at every call."""
    return _rotated(x if scale is None else x / scale.to(x.dtype), signs, blocks)


def to_weight(
    weight: Tensor, scale: Tensor | None, signs: Tensor | None, blocks: BlockRotation | None = None
) -> Tensor:
    """(W * s) R, [o, i]; folded once, before rounding."""
    return _rotated(weight if scale is None else weight * scale.to(weight.dtype), signs, blocks)


def _rotated(x: Tensor, signs: Tensor | None, blocks: BlockRotation | None) -> Tensor:
    if signs is not None:
        x = hadamard(x, signs.to(x.dtype))
    return x if blocks is None else blocks(x)


def incoherence(x: Tensor) -> Tensor:
    """psi = max |g| / mean |g| of every row g of x [..., n, i]; what balancing lowers, [..., n].

    A Gaussian row of 1152 has about 4.3; rows of zeros have 1.
    """
    magnitude = x.abs()
    mean = magnitude.mean(-1)
    return torch.where(
        mean > 0, magnitude.amax(-1) / mean.clamp(min=torch.finfo(x.dtype).tiny), 1.0
    )
