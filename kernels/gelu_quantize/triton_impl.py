"""GELU and codes in Triton: a program holds whole rows in registers, reads x once and writes int8."""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..ahead import Build
from ..triton_functions import (
    clipped,
    empty_row_codes,
    gelu_tanh,
    loadable,
    nearest,
    row_codes,
    row_constants,
    whole_int8,
)
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
def _gelu_quantize(
    x_ptr, shift_ptr, migration_ptr, static_scale_ptr, static_zero_ptr, codes_ptr, scale_ptr, zero_ptr, x_stride, m,
    K: tl.constexpr, TOP: tl.constexpr, SYMMETRIC: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x [m, K]; shift, migration [K] or None; static scale and zero [1] or None; ROWS rows per program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    inside = (row < m)[:, None] & (column < K)[None, :]  # [ROWS, BLOCK]
    x = tl.load(x_ptr + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0)
    g = gelu_tanh(x.to(tl.float32))
    if static_scale_ptr is not None:
        s = tl.load(static_scale_ptr)
        if migration_ptr is not None:
            by = tl.load(migration_ptr + column, mask=column < K, other=1.0).to(tl.float32)
            g = tl.div_rn(g, tl.broadcast_to(by[None, :], g.shape))
        q = nearest(tl.div_rn(g, tl.broadcast_to(s, g.shape)))
        if shift_ptr is not None:
            v = tl.load(shift_ptr + column, mask=column < K, other=0.0).to(tl.float32)
            if migration_ptr is not None:
                v = tl.div_rn(v, by)
            q = q - nearest(tl.div_rn(v, tl.broadcast_to(s, v.shape)))[None, :]
        faulty = tl.max(tl.where(q == q, 0, 1), axis=1)  # before the clipping, which drops nan
        scale = tl.where(faulty > 0, float("nan"), tl.broadcast_to(s, (ROWS,)))
        zero = tl.zeros((ROWS,), tl.float32)
        if static_zero_ptr is not None:
            z = tl.load(static_zero_ptr)
            q += z
            zero += z - (TOP + 1) // 2
        codes = whole_int8(clipped(q, TOP, SYMMETRIC))
    else:
        if shift_ptr is not None:
            g -= tl.load(shift_ptr + column, mask=column < K, other=0.0).to(tl.float32)[None, :]
        if migration_ptr is not None:
            g /= tl.load(migration_ptr + column, mask=column < K, other=1.0).to(tl.float32)[None, :]
        codes, scale, zero = row_codes(tl.where(inside, g, 0.0), TOP, SYMMETRIC)
    tl.store(codes_ptr + row[:, None] * K + column[None, :], codes, mask=inside)
    tl.store(scale_ptr + row, scale, mask=row < m)
    if not SYMMETRIC:
        tl.store(zero_ptr + row, zero, mask=row < m)


@triton.jit
def _gelu_rotate_quantize(
    x_ptr, shift_ptr, migration_ptr, signs_ptr, first_ptr, second_ptr, third_ptr,
    codes_ptr, row_scale_ptr, zero_ptr, x_stride, m, norm,
    K: tl.constexpr, TOP: tl.constexpr, SYMMETRIC: tl.constexpr, ROWS: tl.constexpr,
    N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """On ranges of the rows alone, with a rotation by three factors of orders N1, N2, N3, each padded to A, B, C."""
    column, channel = box(N1, N2, N3, A, B, C)
    second, third = square(second_ptr, B), square(third_ptr, C)
    for r in range(ROWS):
        row = tl.program_id(0).to(tl.int64) * ROWS + r
        inside = channel & (row < m)
        x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0)
        y = gelu_tanh(x.to(tl.float32))
        if shift_ptr is not None:
            y -= tl.load(shift_ptr + column, mask=channel, other=0.0).to(tl.float32)
        if migration_ptr is not None:
            y /= tl.load(migration_ptr + column, mask=channel, other=1.0).to(tl.float32)
        y = y * tl.load(signs_ptr + column, mask=channel, other=0.0).to(tl.float32)
        y = rotated(y, channel, first_ptr, second, third, norm, N1, A, B, C, UPCAST)
        store_rotated(
            y, column, inside, row, m, codes_ptr, row_scale_ptr, zero_ptr, K, TOP, SYMMETRIC, A, B, C
        )  # fmt: skip


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
    """As the custom op."""
    m, c = x.shape
    x = loadable(x)
    shift = None if shift is None else loadable(shift)
    migration = None if migration is None else loadable(migration)
    scale = None if scale is None else scale.float()
    zero = None if zero is None else zero.float()
    codes, row_scale, row_zero = empty_row_codes(m, c, symmetric, x.device)
    if m and signs is not None:
        constants = rotated_constants(c, bits, symmetric)
        _gelu_rotate_quantize[(triton.cdiv(m, constants["ROWS"]),)](
            x, shift, migration, loadable(signs), *matrices(c, x.device),
            codes, row_scale, row_zero, x.stride(0), m, c**-0.5, **constants,
        )  # fmt: skip
    elif m:
        constants = row_constants(c, bits, symmetric)
        _gelu_quantize[(triton.cdiv(m, constants["ROWS"]),)](
            x, shift, migration, scale, zero, codes, row_scale, row_zero, x.stride(0), m, **constants
        )  # fmt: skip
    return codes, row_scale, row_zero


TYPES = {
    "x_ptr": "*bf16",
    "codes_ptr": "*i8",
    "scale_ptr": "*fp32",
    "zero_ptr": "*fp32",
    "x_stride": "i32:16",
    "m": "i32",
}
STATIC = {
    **TYPES,
    "shift_ptr": "*fp32",
    "migration_ptr": "*fp32",
    "static_scale_ptr": "*fp32",
    "static_zero_ptr": "*fp32",
}
ROTATED = {
    "x_ptr": "*bf16",
    "migration_ptr": "*fp32",
    "codes_ptr": "*i8",
    "row_scale_ptr": "*fp32",
    "zero_ptr": "*fp32",
    "x_stride": "i32:16",
    "m": "i32",
    **ROTATION_TYPES,
}
BUILDS = (
    Build("4608 channels", _gelu_quantize, TYPES, row_constants(4608, 8, True)),
    Build("4608 channels, static, shifted and migrated", _gelu_quantize, STATIC, row_constants(4608, 8, False)),
    *(
        Build(f"4608 channels, {stream}", _gelu_quantize, TYPES | {"x_ptr": f"*{stream}"}, row_constants(4608, 8, True))
        for stream in ("fp16", "fp32")
    ),
    Build("4608 channels, divided and rotated", _gelu_rotate_quantize, ROTATED, rotated_constants(4608, 8, True), "half"),
    Build("1536 channels, rotated, asymmetric", _gelu_rotate_quantize, ROTATED, rotated_constants(1536, 8, False), "half"),
)  # fmt: skip
