"""Quantized layers made of what a method gives: codes and their scales, or layers of single windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

import kernels

from .errors import BadInput
from .layers import QuantLinear
from .rounding import Ranges, WeightCodes
from .schema import SitePlan, Window
from .site_tensors import LowRank, Transform
from .transforms import BlockRotation
from .vectors import VectorCodes


def layer_of_codes(
    weight: WeightCodes | VectorCodes | Tensor,
    bias: Tensor | None,
    *,
    plan: SitePlan,
    windows: Sequence[Window],
    channel_scale: Tensor | None,
    signs: Tensor | None,
    blocks: BlockRotation | None = None,
    low_rank: LowRank | None = None,
    ranges: Ranges | None = None,
    shift: Tensor | None = None,
    migration: Tensor | None = None,
    learned_bias: bool = False,
    dtype: torch.dtype,
    backend: str | None = None,
) -> QuantLinear:
    """A layer from codes made by a method (or the transformed weight itself, where it is kept).

    A weight tensor where the plan has a weight format is the untransformed one, to be requantized.
    """
    codes = None if isinstance(weight, torch.Tensor) else weight
    held = weight.codes if isinstance(weight, WeightCodes) else weight
    out_features, in_features = held.shape
    layer = QuantLinear(
        in_features,
        out_features,
        bias=bias is not None,
        plan=plan,
        windows=windows,
        transform=Transform(
            channel_scale is not None,
            signs is not None,
            0 if low_rank is None else len(low_rank.down),
            0 if blocks is None else len(blocks.first),
            requantized=codes is None and plan.weight is not None,
            codebook=codes.kind if isinstance(codes, VectorCodes) else "fp32",
            learned_bias=learned_bias,
            shift=shift is not None,
            migration=migration is not None,
        ),
        dtype=dtype,
        backend=backend,
    )
    values: dict[str, Tensor | None] = {"bias": bias}
    if codes is None:
        assert isinstance(weight, Tensor)
        values["weight"] = weight
    elif isinstance(codes, VectorCodes):
        packed = kernels.bitpack.pack(codes.codes, codes.code_bits)
        values |= {"codes": packed, "codebook": codes.codebook, "codebook_scale": codes.scale}
    else:
        assert plan.weight is not None
        packed = codes.codes
        if packed.dtype == torch.uint8:
            packed = kernels.bitpack.pack(packed, plan.weight.bits)
        values |= {"codes": packed, "scale": codes.scale, "zero": codes.zero}
        values["outer"] = codes.outer
    if channel_scale is not None:
        values["channel_scale"] = channel_scale
    if signs is not None:
        values["signs"] = kernels.bitpack.pack((signs[None] > 0).to(torch.uint8), 1)[0]
    if blocks is not None:
        values |= {"rotations": torch.stack([blocks.first, blocks.second])}
        values |= {"order": blocks.order}
    if low_rank is not None:
        values |= {"down": low_rank.down, "up": low_rank.up}
    if ranges is not None:
        values |= {"act_scale": ranges.scale, "act_zero": ranges.zero}
    values |= {"shift": shift, "migration": migration}
    for name, value in values.items():
        if value is not None:
            buffer = layer.get_buffer(name)
            setattr(layer, name, value.detach().to(buffer.dtype).reshape(buffer.shape).clone())
    return layer


def layer_over_windows(
    parts: Sequence[QuantLinear], plan: SitePlan, windows: Sequence[Window]
) -> QuantLinear:
    """One layer that is, in each window, the layer made for that window alone."""
    first = parts[0]
    if plan.static_formats or any(part.transform != first.transform for part in parts):
        raise BadInput(
            "windows with a transform each take activations as they come, and the same parts in "
            "every window; leave static ranges away, or share one transform"
        )
    layer = QuantLinear(
        first.in_features,
        first.out_features,
        bias=hasattr(first, "bias"),
        plan=plan,
        windows=windows,
        transform=replace(first.transform, per_window=True),
        dtype=first.bias.dtype if hasattr(first, "bias") else torch.float32,
        backend=first.backend,
    )
    for name, buffer in list(layer.named_buffers()):
        values = [part.get_buffer(name) for part in parts]
        own = values[0] if values[0].shape == buffer.shape else torch.stack(values)
        setattr(layer, name, own)
    return layer
