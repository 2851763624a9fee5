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
from functools import lru_cache

import torch
from torch import Tensor

from .effort import GroupShape, Work
from .transforms import BlockRotation, block_of, in_blocks

BLOCK = 128
FACTORS = 256  # of a product, at most
PATIENCE = 16
ROWS = 2048  # that are looked at, at most
LOOKED, KEPT = 25, 9  # factors of a search as it went on dit-emoji, for predictions


def reflection(b: int) -> Tensor:
    """E, float64 [b, b]."""
    v = torch.full((b,), -(b**-0.5), dtype=torch.float64)
    v[0] += 1
    length = v.square().sum().clamp(min=1e-30)
    return torch.eye(b, dtype=torch.float64) - 2 * torch.outer(v, v) / length


def base_rotation(b: int, generator: torch.Generator) -> Tensor:
    """R0, float64 [b, b]; of a single channel, nothing is rotated."""
    if b == 1:
        return torch.eye(1, dtype=torch.float64)
    gaussian = torch.randn(b - 1, b - 1, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    rest = torch.eye(b, dtype=torch.float64)
    rest[1:, 1:] = q * r.diagonal().sign()
    return reflection(b) @ rest


def greedy_rotation(x: Tensor, b: int, generator: torch.Generator) -> tuple[Tensor, list[float]]:
    """B, float32 [b, b], and max - min of x [n, i] after 0, 1, .. factors, as far as was looked."""
    return _from_base(x, base_rotation(b, generator))


def _from_base(x: Tensor, base: Tensor) -> tuple[Tensor, list[float]]:
    """The same from R0, float64 [b, b]."""
    left, rounded = x.reshape(-1, len(base)).float(), base.float()
    column, peak = _peak(left)
    peaks, columns, best = [peak], [], 0
    while len(peaks) <= FACTORS and len(peaks) - best <= PATIENCE:
        columns.append(column)
        left = left @ _exchanged(rounded, column)
        column, peak = _peak(left)
        peaks.append(peak)
        best = len(columns) if peak < peaks[best] else best
    product = torch.eye(len(base), dtype=torch.float64)
    for chosen in columns[:best]:
        product = product @ _exchanged(base, chosen)
    return product.float(), peaks


def _exchanged(base: Tensor, column: int) -> Tensor:
    """S R0 S: the first row and column exchanged with another."""
    step = base.clone()
    step[0], step[column] = base[column], base[0]
    first = step[:, 0].clone()
    step[:, 0] = step[:, column]
    step[:, column] = first
    return step


def _peak(x: Tensor) -> tuple[int, float]:
    """The column of the entry of x [n, b] that is largest in magnitude, and max - min."""
    high, low = x.amax(0), x.amin(0)  # [b]
    column = int(torch.maximum(-low, high).argmax())
    return column, float(high.amax() - low.amin())


def zigzag(absmax: Tensor, blocks: int) -> Tensor:
    """P, int64 [i]: channels by absmax [i], dealt to `blocks` back and forth; falling in each block."""
    falling = absmax.argsort(descending=True, stable=True).reshape(-1, blocks)  # [b, m]
    falling[1::2] = falling[1::2].flip(1)
    return falling.T.reshape(-1)


def generator_of(seed: int, name: str) -> torch.Generator:
    """Random numbers of the rotations of one input."""
    mixed = hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7]
    return torch.Generator().manual_seed(int.from_bytes(mixed, "little"))


@lru_cache(maxsize=64)
def _bases(b: int, seed: int, name: str) -> tuple[Tensor, Tensor]:
    """R0 of B1 and of B2: the same for every window and scale of an input, so they are drawn once."""
    generator = generator_of(seed, name)
    return base_rotation(b, generator), base_rotation(b, generator)


def block_rotation(rows: Tensor, seed: int, name: str, most: int = BLOCK) -> BlockRotation:
    """R for rows [n, i]; its random part comes from the seed and the name of the input."""
    b = block_of(rows.shape[1], most)
    one, two = _bases(b, seed, name)
    x = rows[:ROWS].float()
    first, _ = _from_base(x, one)
    x = in_blocks(x, first)
    order = zigzag(x.abs().amax(0), x.shape[1] // b)
    second, _ = _from_base(x[:, order], two)
    return BlockRotation(first, order, second)


def searching(shape: GroupShape, most: int, windows: int) -> Work:
    """What `block_rotation` takes in each of some windows that share the rows, about."""
    b = block_of(shape.width, most)
    rows = min(shape.rows, ROWS * windows) * shape.width
    return Work(
        macs=(2 * LOOKED + 1) * rows * b + 2 * KEPT * b**3 * windows,
        numbers=2 * LOOKED * 2 * rows,
        calls=2 * (LOOKED * 16 + KEPT * 8) * windows,
    )
