"""Integer product and what comes after it in Triton: int32 sums in registers, one store of y.

Weights lie [n, k] with k dense and are transposed in the product, which costs nothing and spares the shuffles of a
transposed load. Nibbles are left in the high half of a byte, 16 times too large, and the sum is shifted back at the end.
Rows beyond m and n read rows that exist and are not stored.
"""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ahead import Build
from ..triton_functions import loadable, product_tile, row_pointers
from . import tiles, weight_only
from .epilogue import finish, with_branch
from .launch import STRIDES, Ends, branch_constants, launched


@triton.jit
def _per_channel(
    codes_ptr, row_scale_ptr, row_zero_ptr, row_sums_ptr, data_ptr, scale_ptr, sums_ptr, shift_ptr,
    bias_ptr, branch_ptr, up_ptr, gate_ptr, residual_ptr, y_ptr,
    codes_stride, data_stride, branch_stride, up_stride, gate_stride, residual_stride, m, n, k, t, r,
    NIBBLES: tl.constexpr, GELU: tl.constexpr, EVEN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BRANCH: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """One scale for each weight row; EVEN where BK divides k. BK is 128 for nibbles."""
    i0, j0 = product_tile(m, n, BM, BN)
    i, j = i0 + tl.arange(0, BM), j0 + tl.arange(0, BN)
    HALF: tl.constexpr = BK // 2 if NIBBLES else BK
    at = tl.arange(0, HALF)
    codes = row_pointers(codes_ptr, i0, m, codes_stride, BM) + at[None, :]
    data = row_pointers(data_ptr, j0, n, data_stride, BN) + at[None, :]
    acc = tl.zeros((BM, BN), tl.int32)
    for k0 in range(0, k, BK):
        left = k - k0
        if NIBBLES:
            pair = tl.load(data)
            a = tl.load(codes) if EVEN else tl.load(codes, mask=(at < left)[None, :], other=0)
            acc = tl.dot(a, (pair << 4).to(tl.int8).T, acc, out_dtype=tl.int32)
            inside = (at < left - HALF)[None, :]
            a = tl.load(codes + HALF) if EVEN else tl.load(codes + HALF, mask=inside, other=0)
            acc = tl.dot(a, (pair & -16).to(tl.int8).T, acc, out_dtype=tl.int32)
        else:
            inside = (at < left)[None, :]
            a = tl.load(codes) if EVEN else tl.load(codes, mask=inside, other=0)
            w = tl.load(data) if EVEN else tl.load(data, mask=inside, other=0)
            acc = tl.dot(a, w.T, acc, out_dtype=tl.int32)
        codes += BK
        data += HALF
    if NIBBLES:
        acc = acc >> 4
    if row_zero_ptr is not None:
        zero = tl.load(row_zero_ptr + i, mask=i < m, other=0.0).to(tl.int32)
        acc -= zero[:, None] * tl.load(sums_ptr + j, mask=j < n, other=0)[None, :]
    if shift_ptr is not None:
        sums = tl.load(row_sums_ptr + i, mask=i < m, other=0)
        acc -= sums[:, None] * tl.load(shift_ptr + j, mask=j < n, other=0)[None, :]
    if y_ptr.dtype.element_ty == tl.int32:
        inside = (i < m)[:, None] & (j < n)[None, :]
        tl.store(y_ptr + i.to(tl.int64)[:, None] * n + j[None, :], acc, mask=inside)
    else:
        row_scale = tl.load(row_scale_ptr + i, mask=i < m, other=0.0)
        scale = tl.load(scale_ptr + j, mask=j < n, other=0.0)
        y = acc.to(tl.float32) * row_scale[:, None] * scale[None, :]
        y = with_branch(
            y, branch_ptr, up_ptr, branch_stride, up_stride, i0, j0, m, n, r, BRANCH, BM, BN, BR
        )
        finish(
            y, y_ptr, bias_ptr, gate_ptr, residual_ptr, gate_stride, residual_stride, i0, j, m, n, t, GELU, BM
        )  # fmt: skip


@triton.jit
def _in_groups(
    codes_ptr, row_scale_ptr, row_zero_ptr, data_ptr, scale_ptr, sums_ptr, shift_ptr,
    bias_ptr, branch_ptr, up_ptr, gate_ptr, residual_ptr, y_ptr,
    codes_stride, data_stride, branch_stride, up_stride, gate_stride, residual_stride, m, n, k, t, r,
    NIBBLES: tl.constexpr, GELU: tl.constexpr, EVEN: tl.constexpr, GROUP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BRANCH: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """A scale for GROUP channels of each weight row: int32 within a group, float32 across groups."""
    i0, j0 = product_tile(m, n, BM, BN)
    i, j = i0 + tl.arange(0, BM), j0 + tl.arange(0, BN)
    BK: tl.constexpr = 64 if NIBBLES else GROUP
    STEP: tl.constexpr = 128 if NIBBLES else GROUP
    at = tl.arange(0, BK)
    codes = row_pointers(codes_ptr, i0, m, codes_stride, BM) + at[None, :]
    data = row_pointers(data_ptr, j0, n, data_stride, BN) + at[None, :]
    scales = scale_ptr + j % n
    groups = tl.cdiv(k, GROUP)
    total = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, k, STEP):
        left, g = k - k0, k0 // GROUP
        inside = (at < left)[None, :]
        a = tl.load(codes) if EVEN else tl.load(codes, mask=inside, other=0)
        scale = tl.load(scales + g * n)
        if NIBBLES:
            pair = tl.load(data)
            beyond = (at < left - BK)[None, :]
            b = tl.load(codes + BK) if EVEN else tl.load(codes + BK, mask=beyond, other=0)
            second = tl.minimum((k0 + BK) // GROUP, groups - 1)
            if shift_ptr is not None:
                low = ((pair << 4).to(tl.int8) >> 4) - tl.load(shift_ptr + g * n + j % n)[:, None]
                high = (pair >> 4) - tl.load(shift_ptr + second * n + j % n)[:, None]
                FACTOR: tl.constexpr = 1.0
            else:
                low, high = (pair << 4).to(tl.int8), pair & -16
                FACTOR: tl.constexpr = 0.0625
            part = tl.dot(a, low.to(tl.int8).T, out_dtype=tl.int32)
            if GROUP == 64:
                total += part.to(tl.float32) * (scale * FACTOR)[None, :]
                part = tl.dot(b, high.to(tl.int8).T, out_dtype=tl.int32)
                scale = tl.load(scales + second * n)
            else:
                part = tl.dot(b, high.to(tl.int8).T, part, out_dtype=tl.int32)
            total += part.to(tl.float32) * (scale * FACTOR)[None, :]
        else:
            w = tl.load(data) if EVEN else tl.load(data, mask=inside, other=0)
            part = tl.dot(a, w.T, out_dtype=tl.int32)
            total += part.to(tl.float32) * scale[None, :]
        codes += STEP
        data += BK
    if row_zero_ptr is not None:
        zero = tl.load(row_zero_ptr + i, mask=i < m, other=0.0)
        total -= zero[:, None] * tl.load(sums_ptr + j, mask=j < n, other=0.0)[None, :]
    y = total * tl.load(row_scale_ptr + i, mask=i < m, other=0.0)[:, None]
    y = with_branch(
        y, branch_ptr, up_ptr, branch_stride, up_stride, i0, j0, m, n, r, BRANCH, BM, BN, BR
    )
    finish(
        y, y_ptr, bias_ptr, gate_ptr, residual_ptr, gate_stride, residual_stride, i0, j, m, n, t, GELU, BM
    )  # fmt: skip


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
    tile: Mapping[str, Any] | None = None,
) -> Tensor:
    """As the custom op. `tile` replaces constants of the launch; None: those of `tiles`."""
    ends = Ends(bias, gate, residual, branch, up, dtype)
    if row_scale is None:
        return weight_only.weight_only(codes, data, scale, shift, group, gelu, ends)
    (m, k), n = codes.shape, len(data)
    packed = data.dtype == torch.uint8
    codes, row_scale = loadable(codes), row_scale.contiguous()
    row_zero = None if row_zero is None else row_zero.contiguous()
    gated = max((t.element_size() for t in (gate, residual) if t is not None), default=0)
    whole = branch is not None and branch.dtype == torch.float32
    if tile is None and (whole or gated > 2):
        tile = {}  # tiles are measured with those in 16 bit, which take fewer registers
    elif tile is None:
        after = tiles.after(gelu, gate, branch)
        tile = tiles.tile(
            "int_linear", codes.device, m, k, n, packed=packed, group=group, after=after
        )
    constants = {**_constants(k, packed, group, gelu, gated, whole), **tile}
    weight = data.view(torch.int8), scale, sums, shift
    if group:
        return launched(_in_groups, codes, (row_scale, row_zero, *weight), data, ends, constants)
    row_sums = None
    if shift is not None:
        row_sums = codes.sum(1, dtype=torch.int32)
        if row_zero is not None:
            row_sums = row_sums - k * row_zero.flatten().to(torch.int32)
    own = row_scale, row_zero, row_sums, *weight
    return launched(_per_channel, codes, own, data, ends, constants)


def _constants(
    k: int, packed: bool, group: int, gelu: bool, gated: int, whole: bool
) -> dict[str, Any]:
    """Tile and launch options; `gated`: bytes of an element of gate or residual, 0 without; `whole`: a branch in float32.

    A gate and a residual take registers, and get a narrower tile; those in 32 bit spill from four warps.
    """
    narrow = gated or group or whole
    few = 0 < gated <= 2 and not group
    constants = {
        "NIBBLES": packed,
        "GELU": gelu,
        "EVEN": k % 128 == 0,
        "BM": 128,
        "BN": 64 if narrow else 128,
        "num_warps": 4 if few else 8,
        "num_stages": 4 if few else 3,
    }
    return constants | ({"GROUP": group} if group else {"BK": 128})


def _build(
    name: str,
    *,
    packed: bool = False,
    group: int = 0,
    gelu: bool = False,
    gated: bool = False,
    zeros: bool = False,
    rank: int = 0,
    stream: str = "bf16",
) -> Build:
    """As for DiT-XL/2, 1152 channels; `stream` is the type of outputs, gates, residuals and rows of a branch."""
    types = {
        "codes_ptr": "*i8",
        "row_scale_ptr": "*fp32",
        "data_ptr": "*i8",
        "scale_ptr": "*fp32",
        "sums_ptr": "*fp32" if group else "*i32",
        "bias_ptr": "*fp32",
        "y_ptr": f"*{stream}",
    }
    types |= dict.fromkeys(("gate_ptr", "residual_ptr"), f"*{stream}") if gated else {}
    if zeros:
        types |= {"row_zero_ptr": "*fp32", "shift_ptr": "*i8" if group else "*i32"}
        types |= {} if group else {"row_sums_ptr": "*i32"}
    types |= {"branch_ptr": f"*{stream}", "up_ptr": "*fp16"} if rank else {}
    types |= dict.fromkeys((*STRIDES, "codes_stride", "data_stride", "n", "k", "t", "r"), "i32:16")
    types |= {"m": "i32"}
    kernel = _in_groups if group else _per_channel
    width = (4 if stream == "fp32" else 2) if gated else 0
    whole = stream == "fp32"
    constants = _constants(1152, packed, group, gelu, width, bool(rank) and whole)
    constants |= branch_constants(rank, torch.float32 if whole else torch.bfloat16)
    return Build(name, kernel, types, constants, "int8")


BUILDS = (
    _build("w8a8"),
    _build("w8a8, GELU", gelu=True),
    _build("w8a8, gate and residual", gated=True),
    _build("w8a8, gate and residual, fp16", gated=True, stream="fp16"),
    _build("w8a8, gate and residual, fp32", gated=True, stream="fp32"),
    _build("w8a8, branch of rank 32", rank=32),
    _build("w8a8, branch of rank 32, gate and residual", rank=32, gated=True),
    _build("w8a8, branch of rank 32, fp32", rank=32, stream="fp32"),
    _build("w8a8, branch of rank 32, gate and residual, fp32", rank=32, gated=True, stream="fp32"),
    _build("w8a8, asymmetric both", zeros=True),
    _build("w8a8, groups of 128", group=128),
    _build("w8a8, groups of 64", group=64),
    _build("w4a8", packed=True),
    _build("w4a8, gate and residual", packed=True, gated=True),
    _build("w4a8, branch of rank 32", packed=True, rank=32),
    _build("w4a8, branch of rank 32, gate and residual", packed=True, rank=32, gated=True),
    _build("w4a8, groups of 64, branch of rank 32", packed=True, group=64, rank=32),
    _build("w4a8, groups of 128", packed=True, group=128),
    _build("w4a8, groups of 64", packed=True, group=64),
    _build("w4a8, groups of 128, asymmetric both", packed=True, group=128, zeros=True),
    *weight_only.BUILDS,
)
