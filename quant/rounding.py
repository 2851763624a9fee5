"""Rounding a weight to the integers that are stored: the only place where codes are made.

Shapes: W [o, i] weight; g groups inside a row (1 without groups); d, z [o, g].

    symmetric    d = max|g| / (2^(b-1) - 1)      W ~ (q - 2^(b-1)) d       q in [1, 2^b - 1]
    asymmetric   d = (hi - lo) / (2^b - 1), z = round(-lo / d)             the range contains 0
                 q = clamp(round(g / d) + z, 0, 2^b - 1)   W ~ (q - z) d   q in [0, 2^b - 1]

(ViDiT-Q, arXiv 2406.02540, quantizer definitions.) `d` is at least 1e-8 for each group by itself, so
an all-zero row harms no other. Floating-point block formats are in `quant.blockfloat`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import kernels

from . import blockfloat
from .errors import BadInput
from .schema import ACROSS_SAMPLES, BLOCK_FORMATS, CODEBOOKS, Format

FLOOR = 1e-8
E4M3_MAX = 448.0


class WeightCodes(NamedTuple):
    """Stored numbers of one weight with what they stand for."""

    codes: Tensor  # uint8 [o, i], or float8_e4m3fn [o, i]
    scale: Tensor  # float32 [o, g]; of block formats uint8 (mx) or float8_e4m3fn (nvfp4)
    zero: Tensor | None  # uint8 [o, g]; None when symmetric
    outer: Tensor | None = None  # float32 [1]: nvfp4's second scale

    def dequantize(self, bits: int) -> Tensor:
        """The weight that the codes stand for, float32 [o, i]."""
        rows, groups = self.scale.shape
        if self.scale.dtype != torch.float32:
            values = blockfloat.element_values(self.codes).reshape(rows, groups, -1)
            return (values * blockfloat.steps(self.scale, self.outer)[..., None]).reshape(rows, -1)
        if self.codes.dtype == torch.float8_e4m3fn:
            return self.codes.float() * self.scale
        zero = (
            torch.full_like(self.scale, 2.0 ** (bits - 1))
            if self.zero is None
            else self.zero.float()
        )
        codes = self.codes.float().reshape(rows, groups, -1)  # [o, g, i/g]
        return ((codes - zero[..., None]) * self.scale[..., None]).reshape(rows, -1)


@dataclass(frozen=True)
class Grid:
    """The values that each element of a weight may take: a format with its scales fixed.

    Made from the whole weight, before any element is rounded, so that elements can then be rounded in
    any order, one column at a time.
    """

    fmt: Format
    scale: Tensor  # as in WeightCodes
    zero: Tensor | None
    outer: Tensor | None
    width: int  # i

    def codes(self, w: Tensor, columns: Tensor | None = None) -> Tensor:
        """Nearest codes of w [o, c], which are these columns of the weight (all, in order)."""
        x = w / self._step(columns)
        if self.fmt.kind == "fp8":
            return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
        if self.fmt.kind in BLOCK_FORMATS:
            return blockfloat.elements(x, self.fmt.kind)
        if self.zero is None:
            limit = 2 ** (self.fmt.bits - 1) - 1
            return (x.round().clamp(-limit, limit) + limit + 1).to(torch.uint8)
        zero = self._of_columns(self.zero.float(), columns)
        return (x.round() + zero).clamp(0, 2**self.fmt.bits - 1).to(torch.uint8)

    def values(self, codes: Tensor, columns: Tensor | None = None) -> Tensor:
        """What the codes of these columns stand for, float32 [o, c]."""
        if self.fmt.kind != "int":
            return blockfloat.element_values(codes) * self._step(columns)
        zero = 2 ** (self.fmt.bits - 1)
        if self.zero is not None:
            zero = self._of_columns(self.zero.float(), columns)
        return (codes.float() - zero) * self._step(columns)

    def _step(self, columns: Tensor | None) -> Tensor:
        step = self.scale
        if step.dtype != torch.float32:
            step = blockfloat.steps(step, self.outer)
        return self._of_columns(step, columns)

    def _of_columns(self, by_group: Tensor, columns: Tensor | None) -> Tensor:
        groups = by_group.shape[1]
        if groups == 1:
            return by_group  # [o, 1]
        size = self.width // groups
        if columns is None:
            return by_group.repeat_interleave(size, dim=1)  # [o, i]
        return by_group[:, columns // size]

    def stored(self, codes: Tensor) -> WeightCodes:
        """All columns' codes [o, i] with these scales."""
        zero = None if self.zero is None else self.zero.to(torch.uint8)
        return WeightCodes(codes.contiguous(), self.scale, zero, self.outer)


def check_shape(fmt: Format, in_features: int, where: str) -> None:
    """Stop when a format's groups do not divide the input width."""
    if fmt.kind == "codebook" and in_features % CODEBOOKS[fmt.bits][1]:
        raise BadInput(
            f"{where}: vectors of {CODEBOOKS[fmt.bits][1]} do not divide its {in_features} inputs; "
            "keep this site in 16 bit"
        )
    if fmt.group_size is not None and in_features % fmt.group_size:
        fits = [g for g in (256, 128, 64, 32, 16, 8) if in_features % g == 0]
        advice = f"use a group of {fits[0]}" if fits else "use one scale per row"
        if fmt.kind in BLOCK_FORMATS:
            advice = "keep this site in 16 bit, or use fp8 or integers"
        raise BadInput(
            f"{where}: groups of {fmt.group_size} do not divide its {in_features} inputs; {advice}"
        )


def groups_of(fmt: Format, in_features: int) -> int:
    """Number of scales in each weight row."""
    return 1 if fmt.group_size is None else in_features // fmt.group_size


def grid_of(weight: Tensor, fmt: Format) -> Grid:
    """The grid that spans `weight` [o, i]: its ends are representable, so nothing is clipped."""
    if fmt.kind == "codebook":
        raise BadInput(f"rounding has no grid in a {fmt}; use method kmeans-vq or vq4dit")
    w = weight.float()
    rows, width = w.shape
    if fmt.kind == "fp8":
        scale = (_amax(w, fmt) / E4M3_MAX).clamp(min=FLOOR)  # [o, 1]
        return Grid(fmt, scale, None, None, width)
    grouped = w.reshape(rows, groups_of(fmt, width), -1)  # [o, g, i/g]
    if fmt.kind in BLOCK_FORMATS:
        outer = blockfloat.outer_scale(w.abs().amax()).reshape(1) if fmt.kind == "nvfp4" else None
        scale = blockfloat.block_scales(grouped.abs().amax(-1), fmt.kind, outer)
        return Grid(fmt, scale, None, outer, width)
    if fmt.symmetric:
        peak = grouped.abs().amax(-1)  # [o, g]
        if fmt.granularity == "tensor":
            peak = peak.amax().expand_as(peak)
        scale = (peak / (2 ** (fmt.bits - 1) - 1)).clamp(min=FLOOR)
        return Grid(fmt, scale.contiguous(), None, None, width)
    low = grouped.amin(-1).clamp(max=0)  # [o, g]
    high = grouped.amax(-1).clamp(min=0)
    if fmt.granularity == "tensor":
        low, high = low.amin().expand_as(low), high.amax().expand_as(high)
    scale = ((high - low) / (2**fmt.bits - 1)).clamp(min=FLOOR)
    return Grid(fmt, scale.contiguous(), (-low / scale).round(), None, width)


def round_to_nearest(weight: Tensor, fmt: Format) -> WeightCodes:
    """Codes of `weight` [o, i] by rounding to nearest, ties to even."""
    grid = grid_of(weight, fmt)
    return grid.stored(grid.codes(weight.float()))


def _amax(w: Tensor, fmt: Format) -> Tensor:
    peak = w.abs().amax(dim=1, keepdim=True)  # [o, 1]
    return peak.amax().expand_as(peak).contiguous() if fmt.granularity == "tensor" else peak


def rounded_rows(x: Tensor, fmt: Format, samples: int | None = None) -> Tensor:
    """What the dynamically scaled activation codes of x [m, i] stand for, float32.

    `samples` says of how many samples, equally long, the rows are; granularity "sample" reads it, and
    takes rows for samples where it is None. "batch" and "branch" share a scale over samples, and take
    each row by itself where it is None.
    """
    if fmt.kind == "fp8":
        return kernels.quantize_rows.quantize_rows_fp8(x, fmt.granularity).dequantize()
    if fmt.kind in BLOCK_FORMATS:
        assert fmt.group_size is not None
        return blockfloat.rounded_blocks(x, fmt.kind, fmt.group_size)
    if fmt.granularity == "group":
        pieces = x.reshape(-1, fmt.group_size or x.shape[1])  # [m g, i/g]
        return kernels.quantize_rows(pieces, fmt.bits, fmt.symmetric).dequantize().reshape(x.shape)
    if fmt.granularity == "sample":
        groups = 1 if fmt.group_size is None else x.shape[1] // fmt.group_size
        apart = x.reshape(samples or len(x), -1, groups, x.shape[1] // groups)  # [b, n, g, i/g]
        pieces = apart.transpose(1, 2)  # [b, g, n, i/g]
        flat = pieces.reshape(-1, pieces.shape[2] * pieces.shape[3])
        rounded = kernels.quantize_rows(flat, fmt.bits, fmt.symmetric).dequantize()
        return rounded.reshape(pieces.shape).transpose(1, 2).reshape(x.shape)
    if fmt.granularity in ACROSS_SAMPLES:
        return _rounded_over_samples(x, fmt, samples)
    return kernels.quantize_rows(x, fmt.bits, fmt.symmetric, fmt.granularity).dequantize()


def _rounded_over_samples(x: Tensor, fmt: Format, samples: int | None) -> Tensor:
    """One scale per token position over all samples, or over those of each half: x [b n, i]."""
    if samples is None:
        return kernels.quantize_rows(x, fmt.bits, fmt.symmetric).dequantize()
    parts = 2 if fmt.granularity == "branch" else 1
    if samples % parts:
        raise BadInput(
            f"scales per guidance branch need both branches in a batch, and this one has {samples} "
            "samples; draw with guidance above 1"
        )
    apart = x.reshape(parts, samples // parts, -1, x.shape[1])  # [2, b/2, n, i]
    tokens = apart.transpose(1, 2)  # [2, n, b/2, i]
    flat = tokens.reshape(-1, tokens.shape[2] * tokens.shape[3])
    rounded = kernels.quantize_rows(flat, fmt.bits, fmt.symmetric).dequantize()
    return rounded.reshape(tokens.shape).transpose(1, 2).reshape(x.shape)


class Ranges(NamedTuple):
    """Static activation scales of one site, one row per step window, one column per channel group."""

    scale: Tensor  # float32 [k, g]
    zero: Tensor | None  # uint8 [k, g]; None when symmetric


def ranges_between(low: Tensor, high: Tensor, fmt: Format) -> Ranges:
    """Scales for activations between `low` and `high` [k, g], both in the quantizers of the rows."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    if fmt.symmetric:
        peak = torch.maximum(-low, high)
        return Ranges((peak / (2 ** (fmt.bits - 1) - 1)).clamp(min=FLOOR), None)
    scale = ((high - low) / (2**fmt.bits - 1)).clamp(min=FLOOR)
    return Ranges(scale, (-low / scale).round().to(torch.uint8))


def static_codes(
    x: Tensor, fmt: Format, scale: Tensor, zero: Tensor | None, shift: Tensor | None = None
) -> Tensor:
    """Codes of x [m, i] on stored scales [g], whole float32 numbers; beyond the range they are clipped.

    `shift` [i], in whole steps, is what the range lies about, channel by channel.
    """
    grouped = x.float().reshape(len(x), len(scale), -1)  # [m, g, i/g]
    codes = (grouped / scale[:, None]).round()
    if shift is not None:
        codes = codes - shift.reshape(len(scale), -1)
    if zero is None:
        limit = 2 ** (fmt.bits - 1) - 1
        return codes.clamp(-limit, limit).reshape(x.shape)
    return (codes + zero.float()[:, None]).clamp(0, 2**fmt.bits - 1).reshape(x.shape)


def rounded_statically(
    x: Tensor, fmt: Format, scale: Tensor, zero: Tensor | None, shift: Tensor | None = None
) -> Tensor:
    """What the codes of x [m, i] stand for on stored scales [g]."""
    codes = static_codes(x, fmt, scale, zero, shift).reshape(len(x), len(scale), -1)
    if zero is not None:
        codes = codes - zero.float()[:, None]
    if shift is not None:
        codes = codes + shift.reshape(len(scale), -1)
    return (codes * scale[:, None]).reshape(x.shape)
