"""adaLN and row codes in Triton: a program holds whole rows in registers, reads x once and writes int8."""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..ahead import Build
from ..triton_functions import empty_row_codes, loadable, row_codes, row_constants
from ..triton_rotation import (
    ROTATION_TYPES,
    box,
    matrices,
    rotated,
    rotated_constants,
    square,
    store_rotated,
)


@triton.jit
def _adaln_quantize(
    x_ptr, shift_ptr, scale_ptr, channel_scale_ptr, codes_ptr, row_scale_ptr, zero_ptr,
    x_stride, shift_stride, scale_stride, m, t, eps,
    K: tl.constexpr, TOP: tl.constexpr, SYMMETRIC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x [m, K], t rows per sample; shift, scale [m / t, K]; channel_scale [K] or None; ROWS rows per program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < m)[:, None] & (column < K)[None, :]  # [ROWS, BLOCK]
    x = tl.load(x_ptr + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0)
    x = x.to(tl.float32)
    centred = tl.where(inside, x - (tl.sum(x, axis=1) / K)[:, None], 0.0)
    deviation = tl.sqrt_rn(tl.sum(centred * centred, axis=1) / K + eps)
    n = centred / deviation[:, None]
    sample = (row // t)[:, None]
    scale = tl.load(scale_ptr + sample * scale_stride + column[None, :], mask=inside, other=0.0)
    shift = tl.load(shift_ptr + sample * shift_stride + column[None, :], mask=inside, other=0.0)
    y = n * (1.0 + scale.to(tl.float32)) + shift.to(tl.float32)
    if channel_scale_ptr is not None:
        s = tl.load(channel_scale_ptr + column, mask=column < K, other=1.0).to(tl.float32)
        y = y / s[None, :]
    codes, row_scale, zero = row_codes(y, TOP, SYMMETRIC)
    tl.store(codes_ptr + row[:, None] * K + column[None, :], codes, mask=inside)
    tl.store(row_scale_ptr + row, row_scale, mask=row < m)
    if not SYMMETRIC:
        tl.store(zero_ptr + row, zero, mask=row < m)


@triton.jit
def _adaln_rotate_quantize(
    x_ptr, shift_ptr, scale_ptr, channel_scale_ptr, signs_ptr, first_ptr, second_ptr, third_ptr,
    codes_ptr, row_scale_ptr, zero_ptr, x_stride, shift_stride, scale_stride, m, t, eps, norm,
    K: tl.constexpr, TOP: tl.constexpr, SYMMETRIC: tl.constexpr, ROWS: tl.constexpr,
    N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """As above with a rotation by three factors of orders N1, N2, N3, each padded to A, B, C; one row at a time."""
    column, channel = box(N1, N2, N3, A, B, C)
    second, third = square(second_ptr, B), square(third_ptr, C)
    for r in range(ROWS):
        row = tl.program_id(0).to(tl.int64) * ROWS + r
        inside = channel & (row < m)
        x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
        centred = tl.where(channel, x - tl.sum(x) / K, 0.0)
        n = centred / tl.sqrt_rn(tl.sum(centred * centred) / K + eps)
        sample = row // t
        scale = tl.load(scale_ptr + sample * scale_stride + column, mask=inside, other=0.0)
        shift = tl.load(shift_ptr + sample * shift_stride + column, mask=inside, other=0.0)
        y = n * (1.0 + scale.to(tl.float32)) + shift.to(tl.float32)
        if channel_scale_ptr is not None:
            y = y / tl.load(channel_scale_ptr + column, mask=channel, other=1.0).to(tl.float32)
        y = y * tl.load(signs_ptr + column, mask=channel, other=0.0).to(tl.float32)
        y = rotated(y, channel, first_ptr, second, third, norm, N1, A, B, C, UPCAST)
        store_rotated(
            y, column, inside, row, m, codes_ptr, row_scale_ptr, zero_ptr, K, TOP, SYMMETRIC, A, B, C
        )  # fmt: skip


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
    """As the custom op."""
    b, t, c = x.shape
    m = b * t
    x = loadable(x.reshape(m, c))
    shift, scale = loadable(shift), loadable(scale)
    channel_scale = None if channel_scale is None else loadable(channel_scale)
    codes, row_scale, zero = empty_row_codes(m, c, symmetric, x.device)
    strides = (x.stride(0), shift.stride(0), scale.stride(0))
    if not m:
        return codes, row_scale, zero
    if signs is None:
        constants = row_constants(c, bits, symmetric)
        _adaln_quantize[(triton.cdiv(m, constants["ROWS"]),)](
            x, shift, scale, channel_scale, codes, row_scale, zero, *strides, m, t, eps, **constants
        )  # fmt: skip
        return codes, row_scale, zero
    constants = rotated_constants(c, bits, symmetric)
    _adaln_rotate_quantize[(triton.cdiv(m, constants["ROWS"]),)](
        x, shift, scale, channel_scale, loadable(signs), *matrices(c, x.device), codes, row_scale, zero,
        *strides, m, t, eps, c**-0.5, **constants,
    )  # fmt: skip
    return codes, row_scale, zero


TYPES = {
    "x_ptr": "*bf16",
    "shift_ptr": "*bf16",
    "scale_ptr": "*bf16",
    "channel_scale_ptr": "*fp32",
    "codes_ptr": "*i8",
    "row_scale_ptr": "*fp32",
    "zero_ptr": "*fp32",
    "x_stride": "i32:16",
    "shift_stride": "i32:16",
    "scale_stride": "i32:16",
    "m": "i32",
    "t": "i32:16",
    "eps": "fp32",
}
ROTATED_TYPES = TYPES | ROTATION_TYPES


def _rotated(name: str, c: int, symmetric: bool = True) -> Build:
    constants = rotated_constants(c, 8, symmetric)
    return Build(name, _adaln_rotate_quantize, ROTATED_TYPES, constants, "half")


def _streamed(stream: str) -> Build:
    types = TYPES | dict.fromkeys(("x_ptr", "shift_ptr", "scale_ptr"), f"*{stream}")
    return Build(f"1152 channels, {stream}", _adaln_quantize, types, row_constants(1152, 8, True))


BUILDS = (
    Build("1152 channels", _adaln_quantize, TYPES, row_constants(1152, 8, True)),
    Build("1152 channels, asymmetric", _adaln_quantize, TYPES, row_constants(1152, 8, False)),
    _streamed("fp16"),
    _streamed("fp32"),
    _rotated("1152 channels, rotated", 1152),
    _rotated("1152 channels, rotated, asymmetric", 1152, symmetric=False),
    _rotated("384 channels, rotated by two factors", 384),
)
