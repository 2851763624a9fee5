"""Errors between pictures and between clips: what several metrics are made of.

Shapes: pictures [n, h, w, 3], clips [n, f, h, w, 3], in [0, 1]; values are clamped to that first.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from .errors import BadInput

PICTURES = 4  # axes of pictures [n, h, w, 3]; clips [n, f, h, w, 3] have one more
SIGMA = 1.5
RADIUS = 5  # an 11 x 11 window
C1, C2 = 0.01**2, 0.03**2


def clamped(images: Tensor) -> Tensor:
    """In float64, clamped to [0, 1]."""
    return images.double().clamp(0, 1)


def mean_squared_error(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """Over everything but the first axis, float64[n]."""
    if reference.dim() > PICTURES:  # one clip at a time: in float64 they are large
        clips = zip(reference, candidate, strict=True)
        return np.concatenate(
            [mean_squared_error(a.flatten()[None], b.flatten()[None]) for a, b in clips]
        )
    difference = clamped(reference) - clamped(candidate)
    return difference.square().flatten(1).mean(dim=1).numpy()  # [n]


def decibels(mse: np.ndarray) -> np.ndarray:
    """PSNR of a mean squared error at peak 1; infinite where it is 0."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(mse)


def structural_similarity(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """SSIM (Wang et al. 2004, eq. 13 and 15; see `quant/metrics/ssim.py`) over all but the first axis, float64[n]."""
    height, width = reference.shape[-3:-1]
    if min(height, width) <= 2 * RADIUS:
        raise BadInput(f"SSIM needs pictures of at least 11 x 11 pixels, not {height} x {width}")
    x, y = clamped(reference).numpy(), clamped(candidate).numpy()
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    var_x = _local_mean(x * x) - mean_x**2
    var_y = _local_mean(y * y) - mean_y**2
    cov = _local_mean(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + C1) * (2 * cov + C2)) / (
        (mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)
    )
    return similarity.reshape(len(x), -1).mean(axis=1)  # [n]


def _local_mean(x: np.ndarray) -> np.ndarray:
    """Gaussian-weighted mean of every window inside the picture, [..., h - 10, w - 10, c]."""
    smooth = gaussian_filter(x, SIGMA, radius=RADIUS, axes=(-3, -2))
    return smooth[..., RADIUS:-RADIUS, RADIUS:-RADIUS, :]


def frame_differences(clips: Tensor, order: int) -> Tensor:
    """Differences of neighbouring frames, taken `order` times: [n, f - order, h, w, 3]."""
    if clips.shape[1] <= order:
        raise BadInput(f"this needs clips of at least {order + 1} frames, not {clips.shape[1]}")
    return torch.diff(clips, n=order, dim=1)


def root_mean_square(values: Tensor) -> np.ndarray:
    """Over everything but the first axis, float64[n]."""
    return values.square().flatten(1).mean(dim=1).sqrt().numpy()
