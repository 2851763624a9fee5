"""What launches of the product kernels have in common: y, and what comes after the product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..triton_functions import float_precision, launch_tiles, loadable

STRIDES = ("branch_stride", "up_stride", "gate_stride", "residual_stride")  # 0 where there is none


class Ends(NamedTuple):
    """What comes after a product, as the custom op takes it, and the dtype of y."""

    bias: Tensor | None
    gate: Tensor | None
    residual: Tensor | None
    branch: Tensor | None
    up: Tensor | None
    dtype: torch.dtype


def launched(
    kernel: Any,
    rows: Tensor,
    own: tuple[Tensor | None, ...],
    data: Tensor,
    ends: Ends,
    constants: Mapping[str, Any],
    branched: bool = True,
) -> Tensor:
    """y [m, n] of a kernel on rows [m, k] and data [n, any].

    Kernels take pointers to rows, `own`, bias, both factors of a branch, gate, residual and y; strides of rows, data,
    factors, gate and residual; m, n, k, rows of a sample and rank. What belongs to a branch only where `branched`.
    """
    (m, k), n = rows.shape, len(data)
    y = torch.empty((m, n), dtype=ends.dtype, device=rows.device)
    if not y.numel():
        return y
    bias = None if ends.bias is None else ends.bias.contiguous()
    streams = [ends.branch, ends.up] if branched else []
    streams = [None if t is None else loadable(t) for t in (*streams, ends.gate, ends.residual)]
    strides = (0 if t is None else t.stride(0) for t in (rows, data, *streams))
    sizes = [m, n, k, 1 if ends.gate is None else m // len(ends.gate)]
    if branched:
        branch = streams[0]
        rank = 0 if branch is None else branch.shape[1]
        sizes.append(rank)
        kind = None if branch is None else branch.dtype
        constants = {**constants, **branch_constants(rank, kind)}
    launch_tiles(kernel, (rows, *own, bias, *streams, y, *strides, *sizes), m, n, constants)
    return y


def branch_constants(rank: int, dtype: torch.dtype | None) -> dict[str, Any]:
    """Of `epilogue.with_branch`, for factors h in `dtype`."""
    precision = "" if dtype is None else float_precision(dtype)
    return {"BRANCH": precision, "BR": 16 if rank <= 16 else 32}
