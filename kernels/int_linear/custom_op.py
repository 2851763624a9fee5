"""`torch.ops.dqviz.int_linear`, the product with what comes after it: the version ``triton``.

On CUDA tensors it launches the Triton kernel, which is imported then; on CPU tensors it says what the kernel
computes. Its arguments are tensors: row codes in int8, or rows as they are, and an `Operand`, which is made of the
stored integers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dispatch import triton_obstacle
from ..quantize_rows import RowCodes
from ..quantize_rows import custom_op as row_op
from .branch import Branch, with_branch
from .operand import GROUPS, codes_of, from_nibbles, groups_fit, operand
from .reference import finished
from .weight import After, GatedResidual, PackedWeight, Prepared

EXACT = 256  # largest whole number below which all are bfloat16


@torch.library.custom_op("dqviz::int_linear", mutates_args=(), device_types="cpu")
def int_linear(
    codes: Tensor,
    row_scale: Tensor | None,
    row_zero: Tensor | None,
    data: Tensor,
    scale: Tensor,
    sums: Tensor,
    shift: Tensor | None,
    bias: Tensor | None,
    gate: Tensor | None,
    residual: Tensor | None,
    group: int,
    gelu: bool,
    dtype: torch.dtype,
    branch: Tensor | None = None,
    up: Tensor | None = None,
) -> Tensor:
    """codes int8 [m, k], row_scale, row_zero [m, 1]; data .. shift, group as in `Operand`; y [m, n] in `dtype`.

    With int32, y is the integer sums before scales and all else. Without row_scale, codes are rows float [m, k].
    branch [m, r] and up [n, r] are both factors of a `Branch`.
    """
    k = codes.shape[1]
    q = (from_nibbles(data, k) if data.dtype == torch.uint8 else data).double()  # [n, k]
    a = codes.double() if row_zero is None else codes.double() - row_zero.double()  # [m, k]
    s = 1.0 if row_scale is None else row_scale
    if group:
        d = scale.T.repeat_interleave(group, 1)[:, :k]  # [n, k]
        z = 0 if shift is None else shift.T.repeat_interleave(group, 1)[:, :k]
        y = (a @ ((q - z) * d).T) * s
    else:
        acc = a @ q.T  # [m, n]
        if shift is not None:
            acc -= a.sum(1, keepdim=True) * shift
        if dtype == torch.int32:
            return acc.to(torch.int32)
        y = acc * s * scale
    y = y if bias is None else y + bias
    y = with_branch(y, None if branch is None or up is None else Branch(branch, up)).float()
    return finished(y, after_of(gate, residual, gelu), dtype).contiguous()


@int_linear.register_kernel("cuda")
def _(*operands: Any) -> Tensor:
    from .triton_impl import int_linear

    with torch.cuda.device_of(operands[0]):  # Triton launches on the current device
        return int_linear(*operands)


@int_linear.register_fake
def _(*operands: Any) -> Tensor:
    codes, data, dtype = operands[0], operands[3], operands[12]
    return codes.new_empty((len(codes), len(data)), dtype=dtype)


def obstacle(weight: PackedWeight, act_bits: int | None, device: torch.device) -> str | None:
    """What prevents the Triton version for this weight and device, or None."""
    if act_bits is None and float(weight.integers().abs().amax()) > EXACT:
        return f"codes less zeros beyond {EXACT} are not exact in 16 bits"
    if act_bits is not None and weight.in_features * 255 * 255 >= 2**31:
        return f"{weight.in_features} input features can overflow 32-bit sums"
    if weight.scale.shape[1] > 1:
        if weight.group_size not in GROUPS:
            return f"weight groups of {weight.group_size} have no Triton version, those of 64 and 128 do"
        if not groups_fit(weight):
            return (
                "weights in groups whose codes less zeros leave -128..127 do not fit 8-bit operands"
            )
    return triton_obstacle(device, 0 if act_bits is None else weight.in_features)


def linear(
    x: Tensor,
    weight: Prepared,
    bias: Tensor | None,
    act_bits: int | None,
    act_symmetric: bool,
    after: After,
    dtype: torch.dtype,
    branch: Branch | None = None,
) -> Tensor:
    """x float[m, k] -> y [m, n]."""
    if act_bits is None:
        return _product(x, None, None, weight, bias, after, dtype, branch)
    parts = row_op.quantize_rows(x, act_bits, act_symmetric)
    return multiply(RowCodes.of(parts, act_symmetric), weight, bias, act_bits, after, dtype, branch)


def multiply(
    rows: RowCodes,
    weight: Prepared,
    bias: Tensor | None,
    act_bits: int,
    after: After,
    dtype: torch.dtype,
    branch: Branch | None = None,
) -> Tensor:
    """rows of any scales [m, k], in int8 or as the definition makes them -> y [m, n]."""
    codes, zero = rows.codes, rows.zero
    if codes.dtype != torch.int8:
        half = 0 if zero is None else 2 ** (act_bits - 1)
        codes = (codes - half).to(torch.int8)
        zero = None if zero is None else zero - half
    return _product(codes, rows.scale, zero, weight, bias, after, dtype, branch)


def accumulate(x: Tensor, weight: Prepared, act_bits: int, act_symmetric: bool) -> Tensor:
    """acc int64[m, n], exact."""
    return linear(x, weight, None, act_bits, act_symmetric, None, torch.int32).to(torch.int64)


def _product(
    rows: Tensor,
    scale: Tensor | None,
    zero: Tensor | None,
    weight: Prepared,
    bias: Tensor | None,
    after: After,
    dtype: torch.dtype,
    branch: Branch | None,
) -> Tensor:
    own = weight.form("triton", operand, codes_of)
    gated = isinstance(after, GatedResidual)
    gate, residual = (after.gate, after.residual) if gated else (None, None)
    gelu, parts = after == "gelu", branch or (None, None)
    return int_linear(
        rows, scale, zero, *own[:4], bias, gate, residual, own.group, gelu, dtype, *parts
    )


def after_of(gate: Tensor | None, residual: Tensor | None, gelu: bool) -> After:
    """What comes after a product, from the arguments of a custom op."""
    if gate is not None and residual is not None:
        return GatedResidual(gate, residual)
    return "gelu" if gelu else None
