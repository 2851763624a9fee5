"""`torch.ops.dqviz.block_rotation`: the version ``triton``. On CPU tensors it is the definition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dispatch import triton_obstacle
from ..quantize_rows import RowCodes
from ..quantize_rows.custom_op import as_int8, empty_codes
from . import reference

LARGEST_BLOCK = 128  # channels


@torch.library.custom_op("dqviz::block_rotation", mutates_args=(), device_types="cpu")
def block_rotation(
    x: Tensor,
    channel_scale: Tensor | None,
    first: Tensor,
    order: Tensor,
    second: Tensor,
    bits: int,
    symmetric: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """x [m, k] -> codes int8 [m, k], scale float32 [m, 1], zero the same ([0, 1] if symmetric)."""
    return as_int8(reference.values(x, channel_scale, first, order, second), bits, symmetric)


@block_rotation.register_kernel("cuda")
def _(*operands: Any) -> tuple[Tensor, Tensor, Tensor]:
    from .triton_impl import block_rotation

    with torch.cuda.device_of(operands[0]):  # Triton launches on the current device
        return block_rotation(*operands)


@block_rotation.register_fake
def _(x: Tensor, *operands: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty_codes(x, len(x), operands[-1])


def obstacle(k: int, b: int, device: torch.device) -> str | None:
    """What prevents the Triton version for k channels in blocks of b, or None."""
    if b & (b - 1) or b > LARGEST_BLOCK:
        return f"blocks of {b} have no Triton version, those of a power of two up to {LARGEST_BLOCK} do"
    return triton_obstacle(device, k)


def quantize(
    x: Tensor,
    channel_scale: Tensor | None,
    first: Tensor,
    order: Tensor,
    second: Tensor,
    bits: int,
    symmetric: bool,
) -> RowCodes:
    """As the definition's, with int8 codes."""
    parts = block_rotation(x, channel_scale, first, order, second, bits, symmetric)
    return RowCodes.of(parts, symmetric)
