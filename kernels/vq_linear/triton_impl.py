"""Product with a codebook's weight in Triton: codes are read as they are stored, vectors gathered into registers.

The codebook, a few KiB, stays in the cache next to the core. The weight tile lies [BN, BK], whole vectors side by
side, and is transposed in the product. Rows beyond m and n read rows that exist and are not stored.
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
from ..int_linear.epilogue import finish
from ..triton_functions import (
    float_precision,
    float_product,
    launch_tiles,
    loadable,
    product_tile,
    row_pointers,
)


@triton.jit
def _codes(packed, at, count, BITS: tl.constexpr, C: tl.constexpr):
    """Codes below C, int32 [BN, W], number `at` [W] of the rows at `packed` [BN, 1]; 0 from `count` on."""
    bit = at * BITS
    byte, inside = packed + (bit >> 3)[None, :], (at < count)[None, :]
    code = tl.load(byte, mask=inside, other=0).to(tl.int32)
    if BITS & (BITS - 1) != 0:  # a code may go on in the next byte, if the row has one
        last = (count * BITS + 7) // 8 - 1
        inside = inside & ((bit >> 3) < last)[None, :]
        code |= tl.load(byte + 1, mask=inside, other=0).to(tl.int32) << 8
    if BITS < 8:
        code = (code >> (bit & 7)[None, :]) & (C - 1)
    return code


@triton.jit
def _vq_linear(
    x_ptr, row_scale_ptr, packed_ptr, codebook_ptr, codebook_scale_ptr, bias_ptr, y_ptr,
    x_stride, packed_stride, m, n, k,
    BITS: tl.constexpr, C: tl.constexpr, D: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """x [m, k], float or int8; codebook [C, D] in x's dtype; C is 2^BITS; EVEN where BK divides k."""
    i0, j0 = product_tile(m, n, BM, BN)
    i, j = i0 + tl.arange(0, BM), j0 + tl.arange(0, BN)
    at, word, element = tl.arange(0, BK), tl.arange(0, BK // D), tl.arange(0, D)
    x = row_pointers(x_ptr, i0, m, x_stride, BM) + at[None, :]
    packed = row_pointers(packed_ptr, j0, n, packed_stride, BN)
    INTEGER: tl.constexpr = x_ptr.dtype.element_ty == tl.int8
    acc = tl.zeros((BM, BN), tl.int32 if INTEGER else tl.float32)
    for k0 in range(0, k, BK):
        a = tl.load(x) if EVEN else tl.load(x, mask=(at < k - k0)[None, :], other=0.0)
        codes = _codes(packed, k0 // D + word, k // D, BITS, C)  # [BN, BK / D]
        vectors = tl.load(codebook_ptr + codes[:, :, None] * D + element[None, None, :])
        w = tl.reshape(vectors, (BN, BK))
        if INTEGER:
            acc = tl.dot(a, w.T, acc, out_dtype=tl.int32)
        else:
            acc = float_product(a, w, acc, PRECISION)
        x += BK
    out = acc.to(tl.float32)
    if row_scale_ptr is not None:
        row_scale = tl.load(row_scale_ptr + i, mask=i < m, other=0.0)
        out *= (row_scale * tl.load(codebook_scale_ptr))[:, None]
    finish(out, y_ptr, bias_ptr, None, None, 0, 0, i0, j, m, n, 1, False, BM)


def vq_linear(
    x: Tensor,
    row_scale: Tensor | None,
    packed: Tensor,
    codebook: Tensor,
    codebook_scale: Tensor | None,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """As the custom op."""
    (m, k), n = x.shape, len(packed)
    y = torch.empty((m, n), dtype=dtype, device=x.device)
    if not y.numel():
        return y
    x, packed = loadable(x), loadable(packed)
    row_scale = None if row_scale is None else row_scale.contiguous()
    codebook = codebook.to(x.dtype).contiguous()
    bias = None if bias is None else bias.float().contiguous()
    c, d = codebook.shape
    parts = (x, row_scale, packed, codebook, codebook_scale, bias, y)
    sizes = (x.stride(0), packed.stride(0), m, n, k)
    launch_tiles(_vq_linear, (*parts, *sizes), m, n, _constants(k, c, d, x.dtype))
    return y


def _constants(k: int, c: int, d: int, dtype: torch.dtype) -> dict[str, Any]:
    """Tile and launch options."""
    side = 64 if dtype == torch.float32 else 128
    block = 32 if dtype == torch.float32 else 128 if dtype == torch.int8 and d > 2 else 64
    return {
        "BITS": (c - 1).bit_length(),
        "C": c,
        "D": d,
        "EVEN": k % block == 0,
        "PRECISION": float_precision(dtype),
        "BM": side,
        "BN": side,
        "BK": block,
        "num_warps": 8,
        "num_stages": 3,
    }


def _build(name: str, c: int, d: int, dtype: torch.dtype) -> Build:
    """As for DiT-XL/2, 1152 channels, float32 in and out or bfloat16 out."""
    kind = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int8: "*i8"}[dtype]
    types = {"x_ptr": kind, "packed_ptr": "*u8", "codebook_ptr": kind, "bias_ptr": "*fp32"}
    types |= {"y_ptr": "*bf16" if dtype == torch.int8 else kind, "m": "i32"}
    types |= dict.fromkeys(("x_stride", "packed_stride", "n", "k"), "i32:16")
    if dtype == torch.int8:
        types |= {"row_scale_ptr": "*fp32", "codebook_scale_ptr": "*fp32"}
    matrix = "int8" if dtype == torch.int8 else "half"
    return Build(name, _vq_linear, types, _constants(1152, c, d, dtype), matrix)


BUILDS = (
    _build("256 vectors of 4", 256, 4, torch.bfloat16),
    _build("256 vectors of 4, float32", 256, 4, torch.float32),
    _build("256 vectors of 4, int8", 256, 4, torch.int8),
    _build("64 vectors of 2", 64, 2, torch.bfloat16),
    _build("64 vectors of 2, int8", 64, 2, torch.int8),
)
