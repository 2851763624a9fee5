"""`torch.ops.dqviz.gelu_quantize`: the version ``triton``. On CPU tensors it is the definition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..quantize_rows import RowCodes
from ..quantize_rows.custom_op import as_int8, empty_codes
from . import reference


@torch.library.custom_op("dqviz::gelu_quantize", mutates_args=(), device_types="cpu")
def gelu_quantize(
    x: Tensor,
    bits: int,
    symmetric: bool,
    shift: Tensor | None,
    migration: Tensor | None,
    signs: Tensor | None,
    scale: Tensor | None,
    zero: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """x [m, c] -> codes int8 [m, c], scale float32 [m, 1], zero the same ([0, 1] if symmetric).

    int8 has no nan: where a row has one, its code is 0 and the row's scale is nan, a static one too.
    """
    if scale is None:
        return as_int8(reference.values(x, shift, migration, signs), bits, symmetric)
    rows = reference.quantize_statically(x, bits, scale, zero, shift, migration)
    codes, half = rows.codes, 0 if rows.zero is None else 2 ** (bits - 1)
    zeros = codes.new_empty((0, 1)) if rows.zero is None else rows.zero - half
    faulty = codes.isnan()
    scale = torch.where(faulty.any(1, keepdim=True), torch.nan, rows.scale)
    return (codes - half).masked_fill_(faulty, 0.0).to(torch.int8), scale, zeros


@gelu_quantize.register_kernel("cuda")
def _(*operands: Any) -> tuple[Tensor, Tensor, Tensor]:
    from .triton_impl import gelu_quantize

    with torch.cuda.device_of(operands[0]):  # Triton launches on the current device
        return gelu_quantize(*operands)


@gelu_quantize.register_fake
def _(x: Tensor, bits: int, symmetric: bool, *operands: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty_codes(x, len(x), symmetric)


def quantize(
    x: Tensor,
    bits: int,
    symmetric: bool,
    shift: Tensor | None,
    migration: Tensor | None,
    signs: Tensor | None,
) -> RowCodes:
    """As the definition's, with int8 codes."""
    parts = gelu_quantize(x, bits, symmetric, shift, migration, signs, None, None)
    return RowCodes.of(parts, symmetric)


def quantize_statically(
    x: Tensor,
    bits: int,
    scale: Tensor,
    zero: Tensor | None,
    shift: Tensor | None,
    migration: Tensor | None,
) -> RowCodes:
    """As the definition's, with int8 codes."""
    parts = gelu_quantize(x, bits, zero is None, shift, migration, None, scale, zero)
    return RowCodes.of(parts, zero is None)
