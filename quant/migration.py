"""The input of an MLP's second linear: its channels are shifted, and the wide ones scaled into the weight.

TaQ-DiT, Liu et al. 2024, https://arxiv.org/abs/2411.14172 (momentum-based shift, reconstruction-driven
migration; read in released code), with corrections that are ours.

Shapes: g [..., c] what comes out of the GELU; v, m [c]; s, z one step and zero for all; W [o, c].

    v_c = (min g_c + max g_c) / 2, then 0.95 v_c + 0.05 (that of each batch) while the unit is learned
    O   = channels whose range is more than 2.5 times the median's, a quarter of all at most
    s_c = step of (g - v)_c alone, c in O;  s the step of all others together
    m_c = ceil(s_c / s) in O, at most 8; else 1            ours: the code rounds, which clips dense edges;
                                                           s is max s_c / 8 at least, so that the cap clips nothing
    x'  = (g - v) / m, rounded with s and z;  y = x' (W diag(m))^T + b'
    b'  = b + W_m (v / m)                                  W_m as it is quantized: ours, as the code adds back

v is snapped to whole multiples of s m (ours): v = k s m, so that g = 0 has a code. Then Q(g) = (clip(round(
g / (s m)) - k + z, 0, 2^b - 1) + k - z) s m, each channel with a whole zero of its own, and b' cancels
to b where g is 0. The range gets one step more, because snapping moves v by half a step at most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .learned_steps import LearnedStep, straight_round
from .range_search import searched_range, searched_rows

MOMENTUM = 0.95
OUTLYING = 2.5  # times the median range
SHARE = 0.25  # of the channels, at most
LARGEST = 255  # m is stored in a byte
HELD = 1 << 22  # values of channels that are searched one by one, at most


def midpoints(g: Tensor) -> Tensor:
    """Middle of each channel's range, g [..., c] -> [c]."""
    flat = g.reshape(-1, g.shape[-1])
    return (flat.amin(0) + flat.amax(0)) / 2


def outlier_channels(low: Tensor, high: Tensor, ratio: float = OUTLYING) -> Tensor:
    """O as bool [c], from the channels' ends."""
    width = high - low  # [c]
    most = int(SHARE * len(width))
    found = width > ratio * width.median()
    if int(found.sum()) > most:
        found = torch.zeros_like(found)
        found[width.topk(most).indices] = True
    return found


def factors(own: Tensor, step: float, outliers: Tensor, cap: int) -> Tensor:
    """m [c] from the steps s_c [c]."""
    wanted = (own / step - 1e-4).ceil().clamp(1, min(cap, LARGEST))
    return torch.where(outliers, wanted, torch.ones_like(wanted))


def whole_shift(v: Tensor, m: Tensor, step: Tensor | float) -> Tensor:
    """k [c]: v in whole steps s m."""
    return (v / m / step).round()


def choose(
    g: Tensor, bits: int, *, shifts: bool, migrates: bool, ratio: float = OUTLYING, cap: int = 8
) -> ShiftedStep:
    """The quantizer that reconstruction starts from, for g [n, c] of all timesteps."""
    low, high = g.amin(0), g.amax(0)  # [c]
    v = (low + high) / 2 if shifts else torch.zeros_like(low)
    outliers = outlier_channels(low, high, ratio)
    if not migrates or not bool(outliers.any()):
        outliers = torch.zeros_like(outliers)
    scale, zero = searched_range((g - v)[:, ~outliers], bits)
    if shifts:  # one step more: snapping moves v
        scale *= (2**bits - 1) / (2**bits - 2)
    m = torch.ones_like(low)
    if bool(outliers.any()):
        wide = (g - v)[:, outliers]
        wide = wide[:: -(-wide.numel() // HELD)].T.contiguous()  # [O, n]
        ends = torch.stack([low - v, high - v], 1)[outliers]
        own = torch.full_like(low, scale)
        own[outliers] = searched_rows(torch.cat([wide, ends], 1), bits)[0][:, 0]
        scale = max(scale, float(own.max()) / min(cap, LARGEST))  # what is capped is not clipped
        m = factors(own, scale, outliers, cap)
    return ShiftedStep(scale, zero, bits, v if shifts else None, m)


class ShiftedStep(LearnedStep):
    """A learned step with a shift by channel, which follows its batches, and whole factors."""

    v: Tensor
    m: Tensor

    def __init__(self, scale: float, zero: int, bits: int, v: Tensor | None, m: Tensor) -> None:
        super().__init__(scale, zero, bits)
        self.shifts = v is not None
        self.follows = False  # v moves with every batch
        self.register_buffer("v", torch.zeros_like(m) if v is None else v.clone())
        self.register_buffer("m", m.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Q(x), after v has moved where it does."""
        if self.follows and self.shifts and self.active:
            self.v = MOMENTUM * self.v + (1 - MOMENTUM) * midpoints(x.detach())
        return super().forward(x)

    def _quantized(self, x: Tensor, step: Tensor) -> Tensor:
        zero = self.zero - whole_shift(self.v, self.m, step.detach())  # [c]
        own = step * self.m  # [c]
        return ((straight_round(x / own) + zero).clamp(0, 2**self.bits - 1) - zero) * own

    @torch.no_grad()
    def stored(self) -> tuple[Tensor | None, Tensor | None]:
        """v float16 [c], snapped, and m uint8 [c]; None where there is nothing to store."""
        k = whole_shift(self.v, self.m, self.step())
        v = (k * self.step() * self.m).half().cpu() if self.shifts else None
        m = self.m.to(torch.uint8).cpu() if bool((self.m > 1).any()) else None
        return v, m
