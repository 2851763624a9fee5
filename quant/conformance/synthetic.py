"""Synthetic activations and weights with the outliers that small random models lack.

One per cent of the channels is always large and decays over the steps, two per cent are large at
random, drawn anew at every step; weights have heavy tails.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..methods.base import Group, SiteWeight
from ..recording import InputStatistics, counts_of
from ..schema import Format, SitePlan


def activations(channels: int, rows: int, steps: int, seed: int) -> Tensor:
    """[steps, rows, channels], the noisiest step first."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, rows, channels, generator=generator)
    static = torch.randperm(channels, generator=generator)[: max(1, channels // 100)]
    for step in range(steps):
        noise = 1 - step / max(1, steps - 1)
        x[step, :, static] *= 4 + 30 * noise**2
        moving = torch.randperm(channels, generator=generator)[: max(1, channels // 50)]
        x[step, :, moving] *= 6
    return x


def weight(out_features: int, channels: int, seed: int) -> Tensor:
    """Student-t(5) * 0.03, [out_features, channels]."""
    generator = torch.Generator().manual_seed(seed + 1000)
    normal = torch.randn(out_features, channels, generator=generator)
    chi = torch.randn(5, out_features, channels, generator=generator).square().mean(0)
    return 0.03 * normal / chi.sqrt()


def statistics(x: Tensor) -> InputStatistics:
    """Statistics of x [steps, rows, c] as one guidance branch; all rows kept."""
    steps, rows, channels = x.shape
    return InputStatistics(
        minimum=x.amin(1, keepdim=True),
        maximum=x.amax(1, keepdim=True),
        mean=x.mean(1, keepdim=True),
        second_moment=x.square().mean(1, keepdim=True),
        count=torch.full((steps, 1), rows),
        mean_abs=x.abs().mean((1, 2))[:, None],
        histogram=counts_of(x)[:, None].int(),
        histogram_rows=torch.full((steps, 1), rows),
        moments=torch.stack([x.double().pow(p).sum((1, 2)) for p in (1, 2, 3, 4)], -1)[:, None],
        row_absmax=x.abs().amax(-1)[:, None],
        rows=x.reshape(-1, channels),
        row_steps=torch.arange(steps).repeat_interleave(rows).short(),
        row_branches=torch.zeros(steps * rows, dtype=torch.int16),
        surface=x.abs().half(),
        surface_steps=torch.arange(steps).short(),
        surface_factors=torch.ones(2, dtype=torch.int16),
    )


def plan(weight_bits: int | None, activation_bits: int | None, windows: int = 1) -> SitePlan:
    """The default formats at these widths."""
    return SitePlan(
        weight=None if weight_bits is None else Format(bits=weight_bits, symmetric=False),
        activations=(None if activation_bits is None else Format(bits=activation_bits),) * windows,
    )


def group(channels: int, outs: tuple[int, ...], site_plan: SitePlan, seed: int) -> Group:
    """Sites that read one input."""
    sites = tuple(
        SiteWeight(f"site{i}", weight(o, channels, seed + i), torch.zeros(o), site_plan)
        for i, o in enumerate(outs)
    )
    return Group("input", sites)
