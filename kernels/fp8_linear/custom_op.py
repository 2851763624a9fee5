"""`torch.ops.dqviz.fp8_linear`, the product of 8-bit floats with what comes after it: the version ``triton``.

On CUDA tensors it launches the Triton kernel, which is imported then; on CPU tensors it says what the kernel
computes, with sums in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..int_linear.custom_op import after_of
from ..int_linear.reference import finished
from ..int_linear.weight import After, GatedResidual
from ..quantize_rows import RowCodes, quantize_rows_fp8
from ..quantize_rows.custom_op import float8_obstacle
from .weight import Float8Weight

__all__ = ["float8_obstacle", "fp8_linear", "linear", "multiply"]


@torch.library.custom_op("dqviz::fp8_linear", mutates_args=(), device_types="cpu")
def fp8_linear(
    codes: Tensor,
    row_scale: Tensor,
    data: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    residual: Tensor | None,
    gelu: bool,
    dtype: torch.dtype,
) -> Tensor:
    """codes, data float8_e4m3fn [m, k], [n, k]; row_scale [m, 1]; scale [n, 1]; bias [n]; y [m, n] in `dtype`."""
    y = (codes.double() @ data.double().T) * row_scale * scale.T  # [m, n]
    y = (y if bias is None else y + bias).float()
    return finished(y, after_of(gate, residual, gelu), dtype).contiguous()


@fp8_linear.register_kernel("cuda")
def _(*operands: Any) -> Tensor:
    from .triton_impl import fp8_linear

    with torch.cuda.device_of(operands[0]):  # Triton launches on the current device
        return fp8_linear(*operands)


@fp8_linear.register_fake
def _(*operands: Any) -> Tensor:
    codes, _, data, *_, dtype = operands
    return codes.new_empty((len(codes), len(data)), dtype=dtype)


def linear(
    x: Tensor, weight: Float8Weight, bias: Tensor | None, after: After, dtype: torch.dtype
) -> Tensor:
    """x float[m, k] -> y [m, n]."""
    return multiply(quantize_rows_fp8(x, backend="triton"), weight, bias, after, dtype)


def multiply(
    rows: RowCodes, weight: Float8Weight, bias: Tensor | None, after: After, dtype: torch.dtype
) -> Tensor:
    """rows of any scales [m, k] -> y [m, n]."""
    gated = isinstance(after, GatedResidual)
    gate, residual = (after.gate, after.residual) if gated else (None, None)
    parts = (rows.codes, rows.scale, weight.codes, weight.scale)
    return fp8_linear(*parts, bias, gate, residual, after == "gelu", dtype)
