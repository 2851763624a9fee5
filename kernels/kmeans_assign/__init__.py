"""The nearest vector of a codebook for every vector, and how far it is: the assignment of k-means.

Formulas are in `reference.py`. ``triton`` keeps the nearest so far in registers, and no distances in memory. Which of two
vectors that are equally near up to the last digits is taken may differ between versions; equal ones go to the lowest index.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import Op, callable_module, triton_obstacle

OP = Op(__name__, {"simulate": "reference", "triton": "custom_op"}, tolerance=1e-6)
MOST = 256  # vectors of a codebook, because codes are bytes


def kmeans_assign(
    vectors: Tensor, codebook: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """vectors float32 [s, d], codebook float32 [k, d] -> codes uint8 [s], squared distances float32 [s].

    Raises ValueError for other shapes and dtypes and beyond `MOST` vectors in a codebook, RuntimeError if
    `backend` names a version that cannot run there.
    """
    _check(vectors, codebook)
    version = OP.chosen(backend, lambda backend: triton_obstacle(vectors.device))
    return version.assigned(vectors, codebook)


def _check(vectors: Tensor, codebook: Tensor) -> None:
    for name, t in (("vectors", vectors), ("codebook", codebook)):
        if t.dim() != 2 or t.dtype != torch.float32 or t.shape[1] != vectors.shape[-1]:
            raise ValueError(
                f"{name}: {t.dtype} of shape {tuple(t.shape)}; needs float32 [any, {vectors.shape[-1]}]"
            )
    if not 1 <= len(codebook) <= MOST or not codebook.shape[1]:
        raise ValueError(
            f"codebook has {len(codebook)} vectors of {codebook.shape[1]}; needs 1 to {MOST}, of 1 element or more"
        )
    if vectors.device != codebook.device:
        raise ValueError(
            f"vectors are on {vectors.device}, the codebook on {codebook.device}; move one of them"
        )


callable_module(__name__)
