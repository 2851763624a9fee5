"""The nearest vector of a codebook for every vector: the definition, in float32.

Shapes: vectors v [s, d]; codebook C [k, d]; codes a [s]; distances e [s].

    a_i = argmin_c ||C_c||^2 - 2 v_i C_c         the lowest index among equals
    e_i = ||v_i - C_(a_i)||^2

||v||^2, which is the same for all c, is left out of the search, and e is computed from the differences, where nothing
cancels. Nothing is ever larger than a chunk of distances.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 2**19  # distances at once: what a core's cache holds
CHUNK_CUDA = 2**26


def assigned(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """v float32 [s, d], C float32 [k, d] -> a uint8 [s], e float32 [s].

    Written where it belongs chunk by chunk: small results among large temporaries tear the heap into
    pieces, hundreds of megabytes of it at a wide layer.
    """
    codes = torch.empty(len(vectors), dtype=torch.uint8, device=vectors.device)
    errors = torch.empty(len(vectors), device=vectors.device)
    at = 0
    for part, gaps in gaps_of(vectors, codebook):
        found, own = least(gaps), slice(at, at + len(part))
        codes[own], at = found, own.stop
        errors[own] = (part - codebook.index_select(0, found)).square().sum(1)
    return codes, errors


def gaps_of(vectors: Tensor, codebook: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of vectors [c, d] with their squared distances [c, k], less ||v||^2."""
    held = CHUNK_CUDA if vectors.is_cuda else CHUNK
    squares = codebook.square().sum(1)
    for part in vectors.split(max(1, held // len(codebook))):
        yield part, torch.addmm(squares, part, codebook.T, alpha=-2)


def least(gaps: Tensor) -> Tensor:
    """Index of the least of every row, the first of equals; numpy's search is many times torch's on a CPU."""
    return gaps.argmin(1) if gaps.is_cuda else torch.from_numpy(gaps.numpy().argmin(1))
