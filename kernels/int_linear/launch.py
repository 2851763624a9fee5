"""What launches of the product kernels have in common: y, and what comes after the product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..triton_functions import launch_tiles, loadable


def launched(
    kernel: Any,
    rows: Tensor,
    own: tuple[Tensor | None, ...],
    data: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
    constants: Mapping[str, Any],
) -> Tensor:
    """y [m, n] in `dtype` of a kernel on rows [m, k] and data [n, any].

    Kernels take pointers to rows, `own`, bias, gate, residual and y; strides of rows, data, gate and residual; m, n,
    k and the rows of a sample.
    """
    (m, k), n = rows.shape, len(data)
    y = torch.empty((m, n), dtype=dtype, device=rows.device)
    if not y.numel():
        return y
    bias = None if bias is None else bias.contiguous()
    gate, residual = (None if t is None else loadable(t) for t in (gate, residual))
    strides = (0 if t is None else t.stride(0) for t in (rows, data, gate, residual))
    sizes = (m, n, k, 1 if gate is None else m // len(gate))
    launch_tiles(kernel, (rows, *own, bias, gate, residual, y, *strides, *sizes), m, n, constants)
    return y
