"""Row quantization as PyTorch knows it, `torch.ops.dqviz.quantize_rows`: the version ``triton``.

On CUDA tensors it launches the Triton kernel, which is imported then. On CPU tensors it is the definition
with the codes in int8, or in 8-bit floats, so that compiling, exporting and tracing need neither a GPU nor Triton.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dispatch import triton_obstacle
from . import reference

FLOAT8 = torch.float8_e4m3fn
FLOAT8_FROM = (8, 9)  # compute capability


@torch.library.custom_op("dqviz::quantize_rows", mutates_args=(), device_types="cpu")
def quantize_rows(
    x: Tensor, bits: int, symmetric: bool, dtype: torch.dtype = torch.int8
) -> tuple[Tensor, Tensor, Tensor]:
    """x float[m, k] -> codes int8 [m, k], scale float32 [m, 1], zero float32 [m, 1] ([0, 1] if symmetric).

    With `dtype` float8_e4m3fn, codes are of that kind; they have 8 bits and are symmetric.
    """
    if dtype == FLOAT8:
        codes, scale = reference.e4m3(x, "row")
        return codes, scale, scale.new_empty((0, 1))
    return as_int8(x, bits, symmetric)


@quantize_rows.register_kernel("cuda")
def _(*operands: Any) -> tuple[Tensor, Tensor, Tensor]:
    from .triton_impl import quantize_rows

    with torch.cuda.device_of(operands[0]):  # Triton launches on the current device
        return quantize_rows(*operands)


@quantize_rows.register_fake
def _(
    x: Tensor, bits: int, symmetric: bool, dtype: torch.dtype = torch.int8
) -> tuple[Tensor, Tensor, Tensor]:
    codes, scale, zero = empty_codes(x, len(x), symmetric)
    return codes.view(dtype), scale, zero


def float8_obstacle(device: torch.device, columns: int = 0) -> str | None:
    """What prevents kernels with 8-bit floats on rows of so many columns on a device, or None."""
    reason = triton_obstacle(device, columns)
    if reason is not None:
        return reason
    if torch.version.hip:
        return "no kernel with 8-bit floats (e4m3fn) is built for GPUs of AMD"
    found = torch.cuda.get_device_properties(device)  # which torch.compile takes for a constant
    if (found.major, found.minor) < FLOAT8_FROM:
        return f"a GPU of compute capability {found.major}.{found.minor} has no 8-bit floats, 8.9 and above do"
    return None


def as_int8(x: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The definition's codes of x [m, k] in int8: 2^(bits-1) is taken off where they have a zero."""
    if symmetric:
        codes, scale = reference.symmetric(x, bits, "row")
        return codes.to(torch.int8), scale, scale.new_empty((0, 1))
    codes, scale, zero = reference.asymmetric(x, bits, "row")
    half = 2 ** (bits - 1)
    return codes.sub_(half).to(torch.int8), scale, zero.sub_(half)


def empty_codes(x: Tensor, rows: int, symmetric: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of the right shapes for `rows` rows as wide as x, for tracing."""
    codes = x.new_empty((rows, x.shape[-1]), dtype=torch.int8)
    scale = x.new_empty((rows, 1), dtype=torch.float32)
    return codes, scale, x.new_empty((0 if symmetric else rows, 1), dtype=torch.float32)


def symmetric(x: Tensor, bits: int, granularity: str) -> tuple[Tensor, Tensor]:
    """x float[m, k] -> int8 codes [m, k], scale [m, 1]."""
    return quantize_rows(x, bits, True)[:2]


def asymmetric(x: Tensor, bits: int, granularity: str) -> tuple[Tensor, Tensor, Tensor]:
    """x float[m, k] -> int8 codes [m, k], scale [m, 1], zero [m, 1]; 2^(bits-1) is taken off both."""
    return quantize_rows(x, bits, False)


def e4m3(x: Tensor, granularity: str) -> tuple[Tensor, Tensor]:
    """x float[m, k] -> float8_e4m3fn codes [m, k], scale [m, 1]."""
    return quantize_rows(x, 8, True, FLOAT8)[:2]
