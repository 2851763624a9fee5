"""`torch.ops.dqviz.vq_linear`, the product straight from packed codes: the version ``triton``.

On CUDA tensors it launches the Triton kernel, which is imported then; on CPU tensors it says what the kernel
computes: the definition with its codebook rounded to x's dtype, in which the matrix unit multiplies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import triton_obstacle
from . import reference
from .weight import VectorWeight

LARGEST_VECTOR = 32  # elements; a tile of the kernel holds whole vectors


@torch.library.custom_op("dqviz::vq_linear", mutates_args=(), device_types="cpu")
def vq_linear(x: Tensor, packed: Tensor, codebook: Tensor, bias: Tensor | None) -> Tensor:
    """x float[m, k]; packed, codebook as in `VectorWeight`; bias [n]; y [m, n] in x's dtype."""
    return reference.linear(x, VectorWeight(packed, codebook.to(x.dtype), x.shape[1]), bias)


@vq_linear.register_kernel("cuda")
def _(x: Tensor, *operands: Tensor | None) -> Tensor:
    from .triton_impl import vq_linear

    with torch.cuda.device_of(x):  # Triton launches on the current device
        return vq_linear(x, *operands)


@vq_linear.register_fake
def _(x: Tensor, packed: Tensor, *others: Tensor | None) -> Tensor:
    return x.new_empty((len(x), len(packed)))


def obstacle(weight: VectorWeight, device: torch.device) -> str | None:
    """What prevents the Triton version for this weight and device, or None."""
    d = weight.codebook.shape[1]
    if d > LARGEST_VECTOR or d & (d - 1):
        return f"vectors of {d} have no Triton version, those of a power of two up to {LARGEST_VECTOR} do"
    return triton_obstacle(device)


def linear(x: Tensor, weight: VectorWeight, bias: Tensor | None) -> Tensor:
    """x float[m, k] -> y [m, n] in x's dtype."""
    return vq_linear(x, weight.packed, weight.codebook, bias)
