"""Activation scales that are learned, and the mixing of quantized and plain values while they are.

LSQ, Esser et al. 2019, https://arxiv.org/abs/1902.08153 (gradient); QDrop, Wei et al. 2022,
https://arxiv.org/abs/2203.05740 (mixing); both as read in TaQ-DiT's released code (arXiv 2411.14172).

Shapes: x [..., c] values; s step, one for all; m [c] whole factors of it by channel, k [c] whole zeros beside z.

    Q(x) = (clip(round(x / (s m)) + z - k, 0, 2^b - 1) - z + k) s m      round: straight through
    ds is scaled by 1 / sqrt(numel (2^b - 1)); z is fixed
    while learning, each value is Q(x) with probability p, x else

The step is learned as a factor of what it starts from (ours): steps of softmax outputs and of activations
differ by orders of magnitude, and one learning rate has to do for both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .rounding import FLOOR

LEAST = 0.01  # of what a step starts from


class Mixing:
    """Which values are quantized in one step of learning."""

    def __init__(self, generator: torch.Generator, kept: float) -> None:
        """`kept`: probability that a value is quantized."""
        self.generator, self.kept = generator, kept

    def mixed(self, quantized: Tensor, plain: Tensor) -> Tensor:
        """Element by element, one or the other."""
        if self.kept >= 1:
            return quantized
        drawn = torch.rand(quantized.shape, generator=self.generator, device=self.generator.device)
        return torch.where(drawn.to(quantized.device) < self.kept, quantized, plain)


class LearnedStep(nn.Module):
    """A static quantizer of one tensor whose step is learned."""

    first: Tensor

    def __init__(self, scale: float, zero: int, bits: int) -> None:
        super().__init__()
        self.zero, self.bits = zero, bits
        self.register_buffer("first", torch.tensor(scale, dtype=torch.float32))
        self.factor = nn.Parameter(torch.ones(()))
        self.mixing: Mixing | None = None  # all are quantized
        self.active = True

    def step(self) -> Tensor:
        """s, above zero."""
        return (self.first * self.factor.abs().clamp(min=LEAST)).clamp(min=FLOOR)

    def forward(self, x: Tensor) -> Tensor:
        """Q(x), mixed with x where that is asked for."""
        if not self.active:
            return x
        top = 2**self.bits - 1
        quantized = self._quantized(x, _scaled_gradient(self.step(), (x.numel() * top) ** -0.5))
        return quantized if self.mixing is None else self.mixing.mixed(quantized, x)

    def _quantized(self, x: Tensor, step: Tensor) -> Tensor:
        codes = (straight_round(x / step) + self.zero).clamp(0, 2**self.bits - 1)
        return (codes - self.zero) * step


def straight_round(x: Tensor) -> Tensor:
    """round(x), with the gradient of x."""
    return x + (x.round() - x).detach()


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """x, with `factor` times its gradient."""
    return x * factor + (x * (1 - factor)).detach()
