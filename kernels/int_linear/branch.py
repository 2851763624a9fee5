"""A product of two thin matrices beside the quantized one, in floating point.

Shapes: x [m, k]; down [r, k]; h = x down^T [m, r]; up [n, r]; y [m, n].

    y + h up^T                                   before GELU, or gate and residual

(The low-rank branch of SVDQuant, arXiv 2411.05007.) Who quantized x makes h of it: the product reads codes alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Branch(NamedTuple):
    """Both factors of what is added to a product."""

    rows: Tensor  # h, float [m, r]
    up: Tensor  # float [n, r]


def with_branch(y: Tensor, branch: Branch | None) -> Tensor:
    """y float [m, n] with the branch added in y's dtype."""
    return y if branch is None else y + F.linear(branch.rows.to(y.dtype), branch.up.to(y.dtype))


def check_branch(branch: Branch | None, m: int, n: int) -> None:
    """Raise ValueError, naming the part, unless it fits a product [m, n]."""
    if branch is None:
        return
    r = branch.up.shape[-1]
    for name, t, size in (("rows", branch.rows, m), ("up", branch.up, n)):
        if tuple(t.shape) != (size, r) or r == 0 or not t.is_floating_point():
            raise ValueError(
                f"{name} of the branch is {t.dtype} of shape {tuple(t.shape)}; needs floating point ({size}, r), "
                "with one rank r > 0 for both"
            )
