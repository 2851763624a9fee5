"""The low-rank branch of a quantized site while it runs: from its stored factors to what a product takes.

Shapes: rows [m, i], the transformed input; down [r, i], up [o, r]; h = rows down^T [m, r].

`kernels.int_linear` adds h up^T to the product it stands beside. h itself is an ordinary product: kernels that make
codes read a row at a time, in which `down` would be read anew for every row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.int_linear import Branch


def branch_of(rows: Tensor, down: Tensor, up: Tensor, kind: torch.dtype) -> Branch:
    """With h in `kind`; `up` stays as it is stored."""
    return Branch(F.linear(rows.to(kind), down.to(kind)), up)


def multiplied_in(stream: torch.dtype, backend: str) -> torch.dtype:
    """Of rows that are not quantized, in a model that runs in `stream`.

    A GPU's kernels take 16 bits as they come; the definition, and all else, is float32.
    """
    return stream if backend == "triton" and stream.itemsize == 2 else torch.float32
