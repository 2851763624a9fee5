"""`torch.ops.dqviz.gelu_quantize`: the version ``triton``. On CPU tensors it is the definition."""

from __future__ import annotations

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
    scale: Tensor | None,
    zero: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """x [m, c] -> codes int8 [m, c], scale float32 [m, 1], zero the same ([0, 1] if symmetric)."""
    if scale is None:
        return as_int8(reference.values(x, shift, migration), bits, symmetric)
    rows = reference.quantize_statically(x, bits, scale, zero, shift, migration)
    codes, half = rows.codes, 0 if rows.zero is None else 2 ** (bits - 1)
    zeros = codes.new_empty((0, 1)) if rows.zero is None else rows.zero - half
    return (codes - half).to(torch.int8), rows.scale.clone(), zeros


@gelu_quantize.register_kernel("cuda")
def _(
    x: Tensor,
    bits: int,
    symmetric: bool,
    shift: Tensor | None,
    migration: Tensor | None,
    scale: Tensor | None,
    zero: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    from .triton_impl import gelu_quantize

    return gelu_quantize(x, bits, symmetric, shift, migration, scale, zero)


@gelu_quantize.register_fake
def _(
    x: Tensor,
    bits: int,
    symmetric: bool,
    shift: Tensor | None,
    migration: Tensor | None,
    scale: Tensor | None,
    zero: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_codes(x, len(x), symmetric)


def quantize(
    x: Tensor, bits: int, symmetric: bool, shift: Tensor | None, migration: Tensor | None
) -> RowCodes:
    """As the definition's, with int8 codes."""
    parts = gelu_quantize(x, bits, symmetric, shift, migration, None, None)
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
    parts = gelu_quantize(x, bits, zero is None, shift, migration, scale, zero)
    return RowCodes.of(parts, zero is None)
