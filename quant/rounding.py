"""Rounding a weight to the integers that are stored: the only place where codes are made.

Shapes: W [o, i] weight; g groups inside a row (1 without groups); d, z [o, g].

    symmetric    d = max|g| / (2^(b-1) - 1)      W ~ (q - 2^(b-1)) d       q in [1, 2^b - 1]
    asymmetric   d = (hi - lo) / (2^b - 1), z = round(-lo / d)             the range contains 0
                 q = clamp(round(g / d) + z, 0, 2^b - 1)   W ~ (q - z) d   q in [0, 2^b - 1]

(ViDiT-Q, arXiv 2406.02540, quantizer definitions.) `d` is at least 1e-8 for each group by itself, so
an all-zero row harms no other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import kernels

from .errors import BadInput
from .schema import Format

FLOOR = 1e-8
E4M3_MAX = 448.0


class WeightCodes(NamedTuple):
    """Stored integers of one weight with what they stand for."""

    codes: Tensor  # uint8 [o, i], or float8_e4m3fn [o, i]
    scale: Tensor  # float32 [o, g]
    zero: Tensor | None  # uint8 [o, g]; None when symmetric

    def dequantize(self, bits: int) -> Tensor:
        """The weight that the codes stand for, float32 [o, i]."""
        if self.codes.dtype == torch.float8_e4m3fn:
            return self.codes.float() * self.scale
        rows, groups = self.scale.shape
        zero = (
            torch.full_like(self.scale, 2.0 ** (bits - 1))
            if self.zero is None
            else self.zero.float()
        )
        codes = self.codes.float().reshape(rows, groups, -1)  # [o, g, i/g]
        return ((codes - zero[..., None]) * self.scale[..., None]).reshape(rows, -1)


def check_shape(fmt: Format, in_features: int, where: str) -> None:
    """Stop when a format's groups do not divide the input width."""
    if fmt.group_size is not None and in_features % fmt.group_size:
        fits = [g for g in (256, 128, 64, 32, 16, 8) if in_features % g == 0]
        advice = f"use a group of {fits[0]}" if fits else "use one scale per row"
        raise BadInput(
            f"{where}: groups of {fmt.group_size} do not divide its {in_features} inputs; {advice}"
        )


def groups_of(fmt: Format, in_features: int) -> int:
    """Number of scales in each weight row."""
    return 1 if fmt.group_size is None else in_features // fmt.group_size


def round_to_nearest(weight: Tensor, fmt: Format) -> WeightCodes:
    """Codes of `weight` [o, i] by rounding to nearest, ties to even."""
    w = weight.float()
    rows, width = w.shape
    if fmt.kind == "fp8":
        scale = (_amax(w, fmt) / E4M3_MAX).clamp(min=FLOOR)  # [o, 1]
        return WeightCodes(
            (w / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scale, None
        )
    grouped = w.reshape(rows, groups_of(fmt, width), -1)  # [o, g, i/g]
    top = 2**fmt.bits - 1
    if fmt.symmetric:
        peak = grouped.abs().amax(-1)  # [o, g]
        if fmt.granularity == "tensor":
            peak = peak.amax().expand_as(peak)
        limit = 2 ** (fmt.bits - 1) - 1
        scale = (peak / limit).clamp(min=FLOOR)
        q = (grouped / scale[..., None]).round().clamp(-limit, limit) + 2 ** (fmt.bits - 1)
        return WeightCodes(q.to(torch.uint8).reshape(rows, width), scale.contiguous(), None)
    low = grouped.amin(-1).clamp(max=0)  # [o, g]
    high = grouped.amax(-1).clamp(min=0)
    if fmt.granularity == "tensor":
        low, high = low.amin().expand_as(low), high.amax().expand_as(high)
    scale = ((high - low) / top).clamp(min=FLOOR)
    zero = (-low / scale).round()
    q = ((grouped / scale[..., None]).round() + zero[..., None]).clamp(0, top)
    return WeightCodes(
        q.to(torch.uint8).reshape(rows, width), scale.contiguous(), zero.to(torch.uint8)
    )


def _amax(w: Tensor, fmt: Format) -> Tensor:
    peak = w.abs().amax(dim=1, keepdim=True)  # [o, 1]
    return peak.amax().expand_as(peak).contiguous() if fmt.granularity == "tensor" else peak


def rounded_rows(x: Tensor, fmt: Format) -> Tensor:
    """What the activation codes of x [m, i] stand for, float32."""
    if fmt.kind == "fp8":
        return kernels.quantize_rows.quantize_rows_fp8(x, fmt.granularity).dequantize()
    return kernels.quantize_rows(x, fmt.bits, fmt.symmetric, fmt.granularity).dequantize()
