"""Distances between two sets of pictures that need not be pairs: Frechet distance and KID.

Heusel et al. 2017, "GANs trained by a two time-scale update rule", https://arxiv.org/abs/1706.08500

    d^2 = ||m_1 - m_2||^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))                               (eq. 6)

Binkowski et al. 2018, "Demystifying MMD GANs", https://arxiv.org/abs/1801.01401

    k(x, y) = (x.y / d + 1)^3,    KID = unbiased MMD^2 under k                      (section 4)

Shapes: features x [n, d], means m [d], covariances S [d, d].

Both are taken on features of a small shipped classifier and on pooled latents, not on Inception
features, so the numbers carry the label "own features, not FID" and compare with nothing published.
The Frechet distance of finite sets is biased upwards by about tr(S) / n and more; below
`SMALLEST_SET` samples it says nothing and is not given.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from .errors import BadInput
from .schema import Value

LABEL = "own features, not FID"
SMALLEST_SET = 512
POOLED_SIDE = 4  # latents are averaged down to 4 x 4, so that n exceeds the dimension


class Kid(Value):
    """KID as a mean over seeded subsets, with their standard deviation."""

    mean: float
    std: float
    subsets: int
    subset_size: int


class Distance(Value):
    """Both distances between two sets on one kind of features."""

    label: str = LABEL
    frechet: float
    kid: Kid
    n: tuple[int, int]
    dimensions: int


def too_few(n_first: int, n_second: int) -> str | None:
    """Why two sets of these sizes get no distance, or None where they do."""
    if min(n_first, n_second) >= SMALLEST_SET:
        return None
    return f"needs at least {SMALLEST_SET} samples on both sides, has {n_first} and {n_second}"


def distance(first: Tensor, second: Tensor, seed: int = 0) -> Distance:
    """Frechet distance and KID between feature sets [n1, d] and [n2, d]; refuses small sets."""
    reason = too_few(len(first), len(second))
    if reason is not None:
        raise BadInput(f"Frechet distance and KID: {reason}")
    return Distance(
        frechet=frechet_distance(first, second),
        kid=kid(first, second, seed=seed),
        n=(len(first), len(second)),
        dimensions=first.shape[1],
    )


def latent_features(latents: Tensor) -> Tensor:
    """VAE latents [n, c, h, w] or [n, c, frames, h, w] -> [n, d]: frames averaged, planes averaged down to 4 x 4."""
    planes = latents.float() if latents.dim() == 4 else latents.float().mean(dim=2)  # [n, c, h, w]
    if min(planes.shape[-2:]) > POOLED_SIDE:
        planes = adaptive_avg_pool2d(planes, POOLED_SIDE)
    return planes.flatten(1)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Frechet distance of the two Gaussians fitted to features [n1, d] and [n2, d] (eq. 6).

    With centred data A, B scaled so that S_1 = A^T A and S_2 = B^T B, the root's trace is the sum of
    the singular values of A B^T. No matrix square root is taken, so singular and nearly singular
    covariances are no special case.
    """
    a, b = _features(first, second)
    centred_a, centred_b = _centred(a), _centred(b)
    root_trace = np.linalg.svd(
        _rows_reduced(centred_a) @ _rows_reduced(centred_b).T, compute_uv=False
    ).sum()
    value = (
        ((a.mean(0) - b.mean(0)) ** 2).sum()
        + (centred_a**2).sum()
        + (centred_b**2).sum()
        - 2 * root_trace
    )
    return max(float(value), 0.0)  # rounding may leave -1e-12 for equal sets


def _centred(x: np.ndarray) -> np.ndarray:
    """x [n, d] without its mean, scaled so that the covariance is its Gram matrix."""
    return (x - x.mean(0)) / np.sqrt(len(x) - 1)


def _rows_reduced(x: np.ndarray) -> np.ndarray:
    """A matrix [min(n, d), d] with the same Gram matrix as x [n, d]."""
    return np.linalg.qr(x).R


def kid(
    first: Tensor, second: Tensor, *, subsets: int = 50, subset_size: int = 256, seed: int = 0
) -> Kid:
    """Kernel distance of features [n1, d] and [n2, d], averaged over seeded subsets; may be negative, being unbiased."""
    a, b = _features(first, second)
    size = min(subset_size, len(a), len(b))
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        x = a[rng.choice(len(a), size, replace=False)]
        y = b[rng.choice(len(b), size, replace=False)]
        values.append(_unbiased_mmd(x, y))
    return Kid(
        mean=float(np.mean(values)), std=float(np.std(values)), subsets=subsets, subset_size=size
    )


def _unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD^2 of x [m, d] and y [m, d]: the diagonals are left out."""
    m = len(x)
    within_x, within_y, between = _kernel(x, x), _kernel(y, y), _kernel(x, y)  # [m, m]
    off_diagonal = within_x.sum() - np.trace(within_x) + within_y.sum() - np.trace(within_y)
    return float(off_diagonal / (m * (m - 1)) - 2 * between.mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k of all rows of x [m, d] with all rows of y [m, d], [m, m]."""
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # a power is many times slower


def _features(first: Tensor, second: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in float64, checked: finite, two rows at least, of one width."""
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1]:
        raise BadInput(
            f"feature sets must be [n, d] of one width; got {list(first.shape)} and {list(second.shape)}"
        )
    if min(len(first), len(second)) < 2:
        raise BadInput(f"feature sets need two rows at least; got {len(first)} and {len(second)}")
    if not bool(torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise BadInput(
            "a feature set holds NaN or infinity; the pictures it was taken from are broken"
        )
    return first.double().cpu().numpy(), second.double().cpu().numpy()
