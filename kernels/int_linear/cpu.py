"""Linear layer on 8-bit integer arithmetic of the CPU, through oneDNN's u8 x s8 -> int32 product.

Shapes as in `reference.py`. Activations go in as u8 with a common offset o = 2^(b-1), weights as s8
with a centre c_j per row, q - c in -128..127. The product gives sum_k (a - o)(q - c) exactly;
what it lacks is a correction of rank two, needed only where c differs from z or the activations
have zeros of their own:

    acc_ij = sum_k (a_ik - o)(q_jk - c_j)
             - (za_i - o) sum_k (q_jk - c_j)  -  (z_j - c_j) sum_k (a_ik - za_i)

Processors without 8-bit dot products (VNNI) add pairs of products in 16 bits and saturate there. On
those the operands must stay small: |q - c| <= 64, or activations of at most 7 bits. Which kind this
process runs on is found by multiplying the largest operands once.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..quantize_rows import RowCodes, quantize_rows
from .branch import Branch
from .reference import finished, scaled
from .weight import After, PackedWeight, Prepared

UNPREPARED = (
    "an integer product is traced whose weight is not in oneDNN's layout, which graphs cannot make; call it "
    "once before, with residency 'speed', or use --backend simulate"
)


class Operand(NamedTuple):
    """A weight ready for the integer product."""

    blocked: Tensor  # s8[k, n], oneDNN's own layout
    sums: Tensor  # float32[1, n]: sum_k (q - c)
    shift: Tensor | None  # float32[1, n]: z - c, or None if it is zero everywhere


@torch.library.custom_op("dqviz::u8s8_product", mutates_args=(), device_types="cpu")
def u8s8_product(codes: Tensor, offset: int, weight: Tensor) -> Tensor:
    """codes u8[m, k], weight s8[k, n]: (codes - offset) @ weight -> integer-valued float32[m, n].

    The weight of every product here is in oneDNN's own layout; a plain one is multiplied by the definition.
    """
    return ((codes.double() - offset) @ weight.double()).float()


@u8s8_product.register_fake
def _(codes: Tensor, offset: int, weight: Tensor) -> Tensor:
    return codes.new_empty((len(codes), weight.shape[1]), dtype=torch.float32)


def _in_layout(codes: Tensor, offset: int, weight: Tensor) -> Tensor:
    ones, zeros = _units(weight.shape[1])
    return torch.ops.onednn.qlinear_pointwise(
        codes, 1.0, offset, weight, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


# Tensors in oneDNN's layout have a dispatch key of their own, which `custom_op` knows no name for.
_LIBRARY = torch.library.Library("dqviz", "FRAGMENT")
_LIBRARY.impl("u8s8_product", _in_layout, "MkldnnCPU")


@lru_cache(maxsize=64)
def _units(n: int) -> tuple[Tensor, Tensor]:
    return torch.ones(n), torch.zeros(n, dtype=torch.int64)


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether this build of torch has the product at all."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether the largest 8-bit operands give a wrong product on this processor."""
    w = torch.full((16, 64), -128, dtype=torch.int8)
    codes = torch.full((8, 64), 255, dtype=torch.uint8)
    y = u8s8_product(codes, 0, torch.ops.onednn.qlinear_prepack(w, list(codes.shape)))
    return bool((y != -128 * 255 * 64).any())


def _centre(weight: PackedWeight, act_bits: int) -> Tensor | None:
    """int16[n, 1]: what to subtract from the codes so that no product saturates, or None."""
    return weight.centre(-64, 64) if _needs_small(act_bits) else weight.centre(-128, 127)


def _needs_small(act_bits: int) -> bool:
    """Whether weights must stay within 64 beside activations of so many bits."""
    return act_bits > 7 and saturates()


def obstacle(weight: PackedWeight, act_bits: int | None, device: torch.device) -> str | None:
    """Why the integer product cannot compute this layer exactly, or None."""
    if device.type != "cpu":
        return f"it runs on the CPU and the input is on {device.type}"
    if act_bits is None:
        return "activations are not quantized"
    if weight.scale.shape[1] > 1:
        return "scales per weight group would cut every sum into pieces"
    if not available():
        return "this build of torch lacks oneDNN's integer linear"
    if weight.in_features * 255 * 128 >= 2**31:
        return f"{weight.in_features} input features can overflow 32-bit sums"
    if _centre(weight, act_bits) is None:
        return (
            f"{weight.bits}-bit weights x {act_bits}-bit activations saturate on this CPU, "
            "which has no 8-bit dot product (7-bit activations are exact)"
        )
    return None


def corrected(weight: PackedWeight, act_bits: int, act_symmetric: bool) -> bool:
    """Whether the product needs the correction, which costs one more pass over the output."""
    centre = _centre(weight, act_bits)
    assert centre is not None, "obstacle() comes first"
    return not act_symmetric or not torch.equal(centre, weight.zeros())


def linear(
    x: Tensor,
    weight: Prepared,
    bias: Tensor | None,
    act_bits: int,
    act_symmetric: bool,
    after: After,
    dtype: torch.dtype,
    branch: Branch | None = None,
) -> Tensor:
    """x float[m, k] -> y [m, n]."""
    rows = quantize_rows(x, act_bits, act_symmetric, backend="simulate")
    return multiply(rows, weight, bias, act_bits, after, dtype, branch)


def multiply(
    rows: RowCodes,
    weight: Prepared,
    bias: Tensor | None,
    act_bits: int,
    after: After,
    dtype: torch.dtype,
    branch: Branch | None = None,
) -> Tensor:
    """rows of any scales [m, k] -> y [m, n]."""
    acc = _accumulated(rows, weight, act_bits)
    return finished(scaled(acc, rows.scale, weight.weight.scale, bias), after, dtype, branch)


def accumulate(x: Tensor, weight: Prepared, act_bits: int, act_symmetric: bool) -> Tensor:
    """acc int64[m, n]; RuntimeError beyond 2^24, where oneDNN's float32 output may have rounded them."""
    rows = quantize_rows(x, act_bits, act_symmetric, backend="simulate")
    acc = _accumulated(rows, weight, act_bits)
    if acc.numel() and float(acc.abs().amax()) >= 2**24:
        raise RuntimeError(
            "integer sums beyond 2^24 cannot be read exactly; use fewer input features"
        )
    return acc.to(torch.int64)


def _accumulated(rows: RowCodes, weight: Prepared, act_bits: int) -> Tensor:
    small = weight.fact(f"small for {act_bits} bits", partial(_needs_small, act_bits))
    key = "s8 within 64" if small else "s8"
    if torch.compiler.is_compiling() and key not in weight.forms:
        raise RuntimeError(UNPREPARED)
    operand = weight.form(key, lambda w: _operand(w, act_bits), _codes)
    offset = 2 ** (act_bits - 1)
    codes, zero = rows.codes, rows.zero  # [m, k], [m, 1]
    if codes.dtype == torch.int8:
        codes = codes.to(torch.float32)
        if zero is not None:
            codes, zero = codes + offset, zero + offset
    if zero is None:
        acc = u8s8_product((codes + offset).to(torch.uint8), offset, operand.blocked)
        if operand.shift is not None:
            acc.addmm_(codes.sum(dim=1, keepdim=True), operand.shift, alpha=-1)
        return acc
    acc = u8s8_product(codes.to(torch.uint8), offset, operand.blocked)
    left, right = zero - offset, operand.sums  # [m, 1], [1, n]
    if operand.shift is not None:
        sums = codes.sum(dim=1, keepdim=True) - zero * codes.shape[1]  # [m, 1]
        left = torch.cat([left, sums], dim=1)  # [m, 2]
        right = torch.cat([right, operand.shift])  # [2, n]
    return acc.addmm_(left, right, alpha=-1)


def _operand(weight: PackedWeight, act_bits: int) -> Operand:
    centre = _centre(weight, act_bits)
    assert centre is not None, "obstacle() comes first"
    integers = weight.codes().to(torch.int16).sub_(centre)  # [n, k]
    shift = (weight.zeros() - centre).to(torch.float32).view(1, -1)
    return Operand(
        blocked=torch.ops.onednn.qlinear_prepack(integers.to(torch.int8), None),
        sums=integers.sum(dim=1, dtype=torch.float32).view(1, -1),
        shift=shift if bool(shift.any()) else None,
    )


def _codes(operand: Operand, weight: PackedWeight) -> Tensor:
    """The stored codes u8[n, k] that an operand of the weight was made of."""
    centre = weight.zeros()  # [n, 1]
    if operand.shift is not None:
        centre = centre - operand.shift.view(-1, 1).to(torch.int16)
    integers = operand.blocked.to_dense().t().contiguous().to(torch.int16)  # [n, k]
    return integers.add_(centre).to(torch.uint8)
