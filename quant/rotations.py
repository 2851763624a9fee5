"""Block rotations found greedily: outliers are spread inside blocks, dealt out to blocks, spread again.

DuQuant, Lin et al., NeurIPS 2024, https://arxiv.org/abs/2406.01721; as TR-DQ's released code uses it.

Shapes: X [n, i] calibration rows; b channels of a block, m = i / b blocks; B, E, R0 [b, b]; P [i].

    E  = I - 2 v v^T,  v = (e1 - u) / ||e1 - u||,  u = b^(-1/2) 1     first row and column are u
    R0 = E blkdiag(1, Q)                        Q: a random rotation of b - 1 channels
    B  = prod_j S_j R0 S_j                      S_j swaps channel 1 with that of the largest entry left
    P  : channels by max_n |X| in falling order, dealt to the blocks 0, 1, .. m-1, m-1, .. 1, 0, 0, ..
    R  = (I_m (x) B1) P (I_m (x) B2)            B1 from X, P from X B1, B2 from X B1 P

The product stops where max(X) - min(X) was smallest, before the first factor if need be: a rotation
never makes it worse. Ours: the search ends when PATIENCE factors brought nothing; it looks at sampled
rows of all samples and branches (the code: at the first sample); products are accumulated in float64.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .transforms import BlockRotation, block_of, in_blocks

BLOCK = 128
FACTORS = 256  # of a product, at most
PATIENCE = 16
ROWS = 2048  # that are looked at, at most


def reflection(b: int) -> Tensor:
    """E, float64 [b, b]."""
    v = torch.full((b,), -(b**-0.5), dtype=torch.float64)
    v[0] += 1
    length = v.square().sum().clamp(min=1e-30)
    return torch.eye(b, dtype=torch.float64) - 2 * torch.outer(v, v) / length


def base_rotation(b: int, generator: torch.Generator) -> Tensor:
    """R0, float64 [b, b]."""
    gaussian = torch.randn(b - 1, b - 1, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    rest = torch.eye(b, dtype=torch.float64)
    rest[1:, 1:] = q * r.diagonal().sign()
    return reflection(b) @ rest


def greedy_rotation(x: Tensor, b: int, generator: torch.Generator) -> tuple[Tensor, list[float]]:
    """B, float32 [b, b], and max - min of x [n, i] after 0, 1, .. factors, as far as was looked."""
    left = x.reshape(-1, b).float()
    peaks, steps, best = [_spread(left)], [], 0
    base = base_rotation(b, generator) if b > 1 else torch.eye(1, dtype=torch.float64)
    while len(peaks) <= FACTORS and len(peaks) - best <= PATIENCE:
        column = int(left.abs().amax(0).argmax())
        swapped = torch.arange(b)
        swapped[[0, column]] = swapped[[column, 0]]
        steps.append(base[swapped][:, swapped])  # S R0 S
        left = left @ steps[-1].float()
        peaks.append(_spread(left))
        best = len(steps) if peaks[-1] < peaks[best] else best
    product = torch.eye(b, dtype=torch.float64)
    for step in steps[:best]:
        product = product @ step
    return product.float(), peaks


def _spread(x: Tensor) -> float:
    return float(x.amax() - x.amin())


def zigzag(absmax: Tensor, blocks: int) -> Tensor:
    """P, int64 [i]: channels by absmax [i], dealt to `blocks` back and forth; falling in each block."""
    falling = absmax.argsort(descending=True, stable=True).reshape(-1, blocks)  # [b, m]
    falling[1::2] = falling[1::2].flip(1)
    return falling.T.reshape(-1)


def generator_of(seed: int, name: str) -> torch.Generator:
    """Random numbers of the rotations of one input."""
    mixed = hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7]
    return torch.Generator().manual_seed(int.from_bytes(mixed, "little"))


def block_rotation(rows: Tensor, seed: int, name: str, most: int = BLOCK) -> BlockRotation:
    """R for rows [n, i]; its random part comes from the seed and the name of the input."""
    generator = generator_of(seed, name)
    b = block_of(rows.shape[1], most)
    x = rows[:ROWS].float()
    first, _ = greedy_rotation(x, b, generator)
    x = in_blocks(x, first)
    order = zigzag(x.abs().amax(0), x.shape[1] // b)
    second, _ = greedy_rotation(x[:, order], b, generator)
    return BlockRotation(first, order, second)
