"""`torch.ops.dqviz.vq_linear`, the product straight from packed codes: the version ``triton``.

On CUDA tensors it launches the Triton kernel, which is imported then; on CPU tensors it says what the kernel
computes. There the codebook is rounded to the dtype of x, in which the matrix unit multiplies; integers are those of
the definition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dispatch import triton_obstacle
from ..quantize_rows import RowCodes
from ..quantize_rows import custom_op as row_op
from . import reference
from .weight import VectorWeight

LARGEST_VECTOR = 32  # elements; a tile of the kernel holds whole vectors


@torch.library.custom_op("dqviz::vq_linear", mutates_args=(), device_types="cpu")
def vq_linear(
    x: Tensor,
    row_scale: Tensor | None,
    packed: Tensor,
    codebook: Tensor,
    codebook_scale: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """x float[m, k], or int8 codes with row_scale [m, 1]; packed [n, p]; bias [n]; y [m, n] in `dtype`.

    codebook [c, d], float, or int8 with its scale [1]: of the same kind as x.
    """
    weight = VectorWeight(packed, codebook.to(x.dtype).float(), x.shape[1])
    y = reference.product(x.float(), weight)
    if row_scale is not None and codebook_scale is not None:
        y = y * (row_scale * codebook_scale)
    return (y if bias is None else y + bias).to(dtype)


@vq_linear.register_kernel("cuda")
def _(*operands: Any) -> Tensor:
    from .triton_impl import vq_linear

    with torch.cuda.device_of(operands[0]):  # Triton launches on the current device
        return vq_linear(*operands)


@vq_linear.register_fake
def _(*operands: Any) -> Tensor:
    x, _, packed, *_, dtype = operands
    return x.new_empty((len(x), len(packed)), dtype=dtype)


def obstacle(
    weight: VectorWeight, act_bits: int | None, device: torch.device, act_symmetric: bool = True
) -> str | None:
    """What prevents the Triton version for this weight and device, or None."""
    d = weight.codebook.shape[1]
    if d > LARGEST_VECTOR or d & (d - 1):
        return f"vectors of {d} have no Triton version, those of a power of two up to {LARGEST_VECTOR} do"
    if act_bits is not None and not act_symmetric:
        return (
            "rows with zeros of their own have no Triton version with a codebook, symmetric ones do"
        )
    return triton_obstacle(device, 0 if act_bits is None else weight.in_features)


def linear(x: Tensor, weight: VectorWeight, bias: Tensor | None, act_bits: int | None) -> Tensor:
    """x float[m, k] -> y [m, n] in x's dtype."""
    if act_bits is None:
        codebook = weight.codebook if weight.scale is None else weight.vectors
        return vq_linear(x, None, weight.packed, codebook, None, bias, x.dtype)
    rows = RowCodes.of(row_op.quantize_rows(x, act_bits, True), True)
    return multiply(rows, weight, bias, x.dtype)


def multiply(
    rows: RowCodes, weight: VectorWeight, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """rows of integers [m, k], in int8 or as the definition makes them -> y [m, n] in `dtype`."""
    own = weight.rounded
    codes = rows.codes.to(torch.int8)
    return vq_linear(codes, rows.scale, own.packed, own.codebook, own.scale, bias, dtype)
