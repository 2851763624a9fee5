"""Inputs of integer linears, and their definition in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.int_linear import PackedWeight, cpu
from kernels.quantize_rows import quantize_rows

needs_onednn = pytest.mark.skipif(
    not cpu.available(), reason="torch without oneDNN's integer linear"
)


def rows_of(m: int, k: int, seed: int = 0) -> Tensor:
    """Seeded x [m, k] whose mean is not zero."""
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)) + 0.3


def exact(
    x: Tensor, w: PackedWeight, bias: Tensor | None, act_bits: int | None, symmetric: bool
) -> Tensor:
    """The definition in float64, from the stored codes and nothing of the op."""
    q = w.codes().double()
    group = torch.arange(w.in_features) // (w.group_size or w.in_features)
    z = torch.full_like(w.scale, 2.0 ** (w.bits - 1)) if w.zero is None else w.zero
    weight = (q - z.double()[:, group]) * w.scale.double()[:, group]
    a = x.double()
    if act_bits is not None:
        rows = quantize_rows(x, act_bits, symmetric)
        zero = 0.0 if rows.zero is None else rows.zero.double()
        a = (rows.codes.double() - zero) * rows.scale.double()
    y = a @ weight.T
    return y if bias is None else y + bias.double()


def relative(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||."""
    return float((a.double() - b.double()).norm() / b.double().norm())
