"""`torch.ops.dqviz.adaln_quantize`: the version ``triton``. On CPU tensors it is the definition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..quantize_rows import RowCodes
from ..quantize_rows.custom_op import as_int8, empty_codes
from . import reference


@torch.library.custom_op("dqviz::adaln_quantize", mutates_args=(), device_types="cpu")
def adaln_quantize(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    channel_scale: Tensor | None,
    signs: Tensor | None,
    bits: int,
    symmetric: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """x [b, t, c] -> codes int8 [b t, c], scale float32 [b t, 1], zero the same ([0, 1] if symmetric)."""
    return as_int8(reference.values(x, shift, scale, channel_scale, signs, eps), bits, symmetric)


@adaln_quantize.register_kernel("cuda")
def _(*operands: Any) -> tuple[Tensor, Tensor, Tensor]:
    from .triton_impl import adaln_quantize

    with torch.cuda.device_of(operands[0]):  # Triton launches on the current device
        return adaln_quantize(*operands)


@adaln_quantize.register_fake
def _(*operands: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, *_, symmetric, _ = operands
    return empty_codes(x, x.shape[0] * x.shape[1], symmetric)


def quantize(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    channel_scale: Tensor | None,
    signs: Tensor | None,
    bits: int,
    symmetric: bool,
    eps: float,
) -> RowCodes:
    """As the definition's, with int8 codes."""
    parts = adaln_quantize(x, shift, scale, channel_scale, signs, bits, symmetric, eps)
    return RowCodes.of(parts, symmetric)
