"""Product of floating-point rows with a quantized weight in Triton: integers become floats in registers.

Whole numbers up to 256 are exact in 16 bits, so scales come after the sums and no weight is rounded a second time. Tiles
lie as in `triton_impl.py`.
"""

# The type checker takes calls between kernels for calls that never return.
# pyright: reportGeneralTypeIssues=false
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ahead import Build
from ..triton_functions import (
    float_precision,
    float_product,
    loadable,
    product_tile,
    row_pointers,
)
from .epilogue import finish, with_branch
from .launch import STRIDES, Ends, branch_constants, launched


@triton.jit
def _weight_only(
    x_ptr, data_ptr, scale_ptr, shift_ptr, bias_ptr, branch_ptr, up_ptr, gate_ptr, residual_ptr, y_ptr,
    x_stride, data_stride, branch_stride, up_stride, gate_stride, residual_stride, m, n, k, t, r,
    NIBBLES: tl.constexpr, GELU: tl.constexpr, EVEN: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BRANCH: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """x [m, k]; one scale for each weight row, or for GROUP channels of it; EVEN where 128 divides k."""
    i0, j0 = product_tile(m, n, BM, BN)
    j = j0 + tl.arange(0, BN)
    BK: tl.constexpr = 64
    STEP: tl.constexpr = 128 if NIBBLES else 64
    at = tl.arange(0, BK)
    x = row_pointers(x_ptr, i0, m, x_stride, BM) + at[None, :]
    data = row_pointers(data_ptr, j0, n, data_stride, BN) + at[None, :]
    own = j % n  # of columns that exist
    total = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, k, STEP):
        for half in tl.static_range(STEP // BK):
            first = k0 + half * BK
            inside = (at < k - first)[None, :]
            a = tl.load(x + half * BK) if EVEN else tl.load(x + half * BK, mask=inside, other=0.0)
            if NIBBLES:
                pair = tl.load(data)
                q = (pair >> 4) if half else ((pair << 4).to(tl.int8) >> 4)
            else:
                q = tl.load(data) if EVEN else tl.load(data, mask=inside, other=0)
            # beyond k rows are zero, so that scale and shift do not count
            group = tl.minimum(first, k - 1) // GROUP * n + own if GROUP else own
            q = q.to(tl.int32)  # from int8 at once takes more instructions
            if shift_ptr is not None:
                q -= tl.load(shift_ptr + group).to(tl.int32)[:, None]
            w = q.to(tl.float32).to(a.dtype)
            if GROUP:
                part = float_product(a, w, tl.zeros((BM, BN), tl.float32), PRECISION)
                total += part * tl.load(scale_ptr + group)[None, :]
            else:
                total = float_product(a, w, total, PRECISION)
        x += STEP
        data += BK
    if not GROUP:
        total *= tl.load(scale_ptr + own)[None, :]
    total = with_branch(
        total, branch_ptr, up_ptr, branch_stride, up_stride, i0, j0, m, n, r, BRANCH, BM, BN, BR
    )
    finish(
        total, y_ptr, bias_ptr, gate_ptr, residual_ptr, gate_stride, residual_stride, i0, j, m, n, t, GELU, BM
    )  # fmt: skip


def weight_only(
    x: Tensor,
    data: Tensor,
    scale: Tensor,
    shift: Tensor | None,
    group: int,
    gelu: bool,
    ends: Ends,
) -> Tensor:
    """x float[m, k] -> y [m, n]; the rest as of the custom op."""
    x = loadable(x)
    packed, gated, zeros = data.dtype == torch.uint8, ends.gate is not None, shift is not None
    constants = _constants(x.shape[1], packed, group, gelu, gated, zeros, x.dtype)
    own = data.view(torch.int8), scale, shift
    return launched(_weight_only, x, own, data, ends, constants)


def _constants(
    k: int, packed: bool, group: int, gelu: bool, gated: bool, zeros: bool, dtype: torch.dtype
) -> dict[str, Any]:
    """Tile and launch options; `zeros`: whether the weight has some that lie beside its integers.

    Nibbles, sums of a group, a gate and a residual take registers. Float32, in three parts, takes most: other tiles
    than these spill on some GPU.
    """
    if dtype == torch.float32:
        rows = 16 if packed else 32
        columns = 128 if packed and zeros and not group else 64
    else:
        rows, columns = 128, 64 if packed or gated or group else 128
    return {
        "NIBBLES": packed,
        "GELU": gelu,
        "EVEN": k % 128 == 0,
        "GROUP": group,
        "PRECISION": float_precision(dtype),
        "BM": rows,
        "BN": columns,
        "num_warps": 8,
        "num_stages": 3,
    }


def _build(
    name: str,
    *,
    packed: bool = True,
    group: int = 0,
    gated: bool = False,
    zeros: bool = False,
    rank: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> Build:
    """As for DiT-XL/2, 1152 channels, bfloat16 out."""
    kind = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}[dtype]
    types = {
        "x_ptr": kind,
        "data_ptr": "*i8",
        "scale_ptr": "*fp32",
        "bias_ptr": "*fp32",
        "y_ptr": "*bf16",
    }
    types |= {"gate_ptr": "*bf16", "residual_ptr": "*bf16"} if gated else {}
    types |= {"shift_ptr": "*i8" if group else "*i32"} if zeros else {}
    types |= {"branch_ptr": kind, "up_ptr": "*fp16"} if rank else {}
    types |= dict.fromkeys((*STRIDES, "x_stride", "data_stride", "n", "k", "t", "r"), "i32:16")
    types |= {"m": "i32"}
    constants = _constants(1152, packed, group, False, gated, zeros, dtype)
    constants |= branch_constants(rank, dtype)
    return Build(name, _weight_only, types, constants, "half")


BUILDS = (
    _build("w8a16", packed=False),
    _build("w4a16"),
    _build("w4a16, gate and residual", gated=True),
    _build("w4a16, branch of rank 32", rank=32),
    _build("w4a16, branch of rank 32, gate and residual", gated=True, rank=32),
    _build("w4a16, asymmetric", zeros=True),
    _build("w4a16, groups of 128", group=128),
    _build("w4a16, groups of 64, asymmetric", group=64, zeros=True),
    _build("w4a32", dtype=torch.float32),
    _build("w4a32, branch of rank 32", rank=32, dtype=torch.float32),
    _build("w4a32, asymmetric", zeros=True, dtype=torch.float32),
    _build("w4a32, groups of 64, asymmetric", group=64, zeros=True, dtype=torch.float32),
)
