"""The assignment of k-means in Triton: a program holds some vectors, and meets one codeword after the other.

Differences are squared as they are, where nothing cancels, so the distance of the nearest so far is what is stored in the
end. A codeword replaces another that is farther, never one that is as near: the lowest index stays.
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
from ..triton_functions import loadable

HELD = 2048  # elements of vectors in a program, about


@triton.jit
def _kmeans_assign(
    vectors_ptr, codebook_ptr, codes_ptr, distances_ptr, vectors_stride, s, k,
    D: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """vectors [s, D], codebook [k, D] -> codes uint8 [s], distances [s]; BLOCK is D or the next power of two."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    element = tl.arange(0, BLOCK)
    inside = (row < s)[:, None] & (element < D)[None, :]
    v = tl.load(
        vectors_ptr + row[:, None] * vectors_stride + element[None, :], mask=inside, other=0.0
    )
    least = tl.full((ROWS,), float("inf"), tl.float32)
    code = tl.zeros((ROWS,), tl.int32)
    for c in range(k):
        word = tl.load(codebook_ptr + c * D + element, mask=element < D, other=0.0)
        off = v - word[None, :]
        gap = tl.sum(off * off, axis=1)
        # nan is nearer than any number, and the first of it stays, so that it shows in the distance
        nearer = (gap < least) | ((gap != gap) & (least == least))
        least = tl.where(nearer, gap, least)
        code = tl.where(nearer, c, code)
    tl.store(codes_ptr + row, code.to(tl.uint8), mask=row < s)
    tl.store(distances_ptr + row, least, mask=row < s)


def kmeans_assign(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """As the custom op."""
    (s, d), k = vectors.shape, len(codebook)
    vectors, codebook = loadable(vectors), codebook.contiguous()
    codes = torch.empty(s, dtype=torch.uint8, device=vectors.device)
    distances = torch.empty(s, dtype=torch.float32, device=vectors.device)
    if s:
        constants = _constants(d)
        grid = (triton.cdiv(s, constants["ROWS"]),)
        _kmeans_assign[grid](
            vectors, codebook, codes, distances, vectors.stride(0), s, k, **constants
        )
    return codes, distances


def _constants(d: int) -> dict[str, Any]:
    """Tile and launch options."""
    block = 1 << (d - 1).bit_length()
    return {"D": d, "BLOCK": block, "ROWS": max(1, HELD // block), "num_warps": 4}


def _build(d: int) -> Build:
    """For vectors of d elements."""
    types = dict.fromkeys(("vectors_ptr", "codebook_ptr", "distances_ptr"), "*fp32")
    types |= {"codes_ptr": "*u8", "vectors_stride": "i32", "s": "i32", "k": "i32"}
    return Build(f"vectors of {d}", _kmeans_assign, types, _constants(d))


BUILDS = (_build(4), _build(2))
