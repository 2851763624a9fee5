"""Rounding that is learned: every weight of a site goes up or down by what the output says.

AdaRound, Nagel et al. 2020, https://arxiv.org/abs/2004.10568 (second-hand); annealing as read in TaQ-DiT's
released code (arXiv 2411.14172).

Shapes: W [o, i] weight on a grid with step d and zero z; a [o, i] logits; h [o, i] in 0..1.

    h(a)  = clip(1.2 sigmoid(a) - 0.1, 0, 1)
    W~    = (clip(floor(W / d) + h(a) + z, 0, 2^b - 1) - z) d        a starts where W~ is the clipped W
    f     = sum over weights of 1 - |2 h - 1|^beta                   beta: none at first, then 20 down to 2
    hard  = floor(W / d) + [a >= 0]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .errors import BadInput
from .rounding import Grid, WeightCodes

STRETCH, SHIFT = 1.2, 0.1  # of the sigmoid, so that h reaches 0 and 1
FIRST_BETA, LAST_BETA, WARM_UP = 20.0, 2.0, 0.2
UNDECIDED = 0.01  # h between this and one less this is not yet rounded


def rectified_sigmoid(a: Tensor) -> Tensor:
    """h(a)."""
    return (STRETCH * a.sigmoid() - SHIFT).clamp(0, 1)


def logits_of(share: Tensor) -> Tensor:
    """a with h(a) = share, of shares in 0..1."""
    return -(STRETCH / (share + SHIFT) - 1).log()


def undecidedness(h: Tensor, beta: float) -> Tensor:
    """f: 0 where every h is 0 or 1."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def beta_at(k: int, steps: int) -> float | None:
    """beta of step k; None in the warm-up, where rounding is free."""
    first = WARM_UP * steps
    if k < first:
        return None
    return LAST_BETA + (FIRST_BETA - LAST_BETA) * (1 - (k - first) / max(1.0, steps - first))


class SoftWeight(nn.Module):
    """A weight between two neighbouring codes each, by its logits `a`."""

    floor: Tensor
    step: Tensor
    zero: Tensor

    def __init__(self, weight: Tensor, grid: Grid) -> None:
        """`weight` float32 [o, i], with everything folded in that is to be rounded with it."""
        super().__init__()
        if grid.fmt.kind != "int":
            raise BadInput(f"rounding is learned between integers, not in {grid.fmt.kind}")
        self.grid = grid
        zero = torch.full_like(grid.scale, 2.0 ** (grid.fmt.bits - 1))
        if grid.zero is not None:
            zero = grid.zero.float()
        self.register_buffer("step", self._by_column(grid.scale))
        self.register_buffer("zero", self._by_column(zero))
        steps = weight.float() / self.step
        self.register_buffer("floor", steps.floor())
        self.a = nn.Parameter(logits_of(steps - steps.floor()))

    def h(self) -> Tensor:
        """How far each weight is up."""
        return rectified_sigmoid(self.a)

    def forward(self) -> Tensor:
        """W~ [o, i]."""
        return self._values(self.floor + self.h())

    @torch.no_grad()
    def hard(self) -> Tensor:
        """The weight that the codes stand for [o, i]."""
        return self._values(self.floor + (self.a >= 0))

    @torch.no_grad()
    def stored(self) -> WeightCodes:
        """What is stored of it, on the CPU."""
        codes = self._clipped(self.floor + (self.a >= 0)).to(torch.uint8)
        found = self.grid.stored(codes)
        return WeightCodes(*(None if t is None else t.cpu() for t in found))  # type: ignore[arg-type]

    @torch.no_grad()
    def undecided(self) -> float:
        """Share of weights that are neither up nor down."""
        h = self.h()
        return float(((h > UNDECIDED) & (h < 1 - UNDECIDED)).float().mean())

    def _clipped(self, steps: Tensor) -> Tensor:
        least = 0 if self.grid.zero is not None else 1
        return (steps + self.zero).clamp(least, 2**self.grid.fmt.bits - 1)

    def _values(self, steps: Tensor) -> Tensor:
        return (self._clipped(steps) - self.zero) * self.step

    def _by_column(self, of_groups: Tensor) -> Tensor:
        """[o, g] -> [o, 1] or [o, i]."""
        groups = of_groups.shape[1]
        if groups == 1:
            return of_groups.float()
        return of_groups.float().repeat_interleave(self.grid.width // groups, dim=1)
