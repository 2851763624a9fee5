"""`torch.ops.dqviz.kmeans_assign`, the assignment of k-means as PyTorch knows it: the version ``triton``.

On CUDA tensors it launches the Triton kernel, which is imported then; on CPU tensors it is the definition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference


@torch.library.custom_op("dqviz::kmeans_assign", mutates_args=(), device_types="cpu")
def kmeans_assign(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """vectors float32 [s, d], codebook float32 [k, d] -> codes uint8 [s], squared distances float32 [s]."""
    return reference.assigned(vectors, codebook)


@kmeans_assign.register_kernel("cuda")
def _(*operands: Any) -> tuple[Tensor, Tensor]:
    from .triton_impl import kmeans_assign

    with torch.cuda.device_of(operands[0]):  # Triton launches on the current device
        return kmeans_assign(*operands)


@kmeans_assign.register_fake
def _(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    codes = vectors.new_empty(len(vectors), dtype=torch.uint8)
    return codes, vectors.new_empty(len(vectors))


def assigned(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """As the custom op."""
    return kmeans_assign(vectors, codebook)
