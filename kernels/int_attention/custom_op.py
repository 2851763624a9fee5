"""`torch.ops.dqviz.int_attention`: the version ``triton``. On CPU tensors it is the definition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dispatch import triton_obstacle
from . import reference

LARGEST_HEAD = 128  # channels of a head whose tiles fit into the registers of a program


@torch.library.custom_op("dqviz::int_attention", mutates_args=(), device_types="cpu")
def int_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [b, h, t, d], k [b, h, t', d], v [b or 2 b, h, t', d] -> y [b or 2 b, t, h, d], heads side by side."""
    return reference.attention(q, k, v).transpose(1, 2).contiguous()


@int_attention.register_kernel("cuda")
def _(*operands: Any) -> Tensor:
    from .triton_impl import int_attention

    with torch.cuda.device_of(operands[0]):  # Triton launches on the current device
        return int_attention(*operands)


@int_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return v.new_empty((v.shape[0], q.shape[2], q.shape[1], q.shape[3]))


def obstacle(q: Tensor) -> str | None:
    """What prevents the kernel on heads like those of q, or None."""
    if q.shape[3] > LARGEST_HEAD:
        return f"heads of {q.shape[3]} channels; a program holds {LARGEST_HEAD} at most"
    if q.dtype == torch.float64:
        return "float64; programs compute in float32 at most"
    return triton_obstacle(q.device)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As the definition's; its memory has the heads of a token side by side."""
    return int_attention(q, k, v).transpose(1, 2)
