"""Structural similarity of pictures.

Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality assessment: from error visibility to
structural similarity", https://doi.org/10.1109/TIP.2003.819861

    SSIM(x, y) = (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2))   (eq. 13)

with means m, variances s^2 and covariance s_xy under an 11 x 11 Gaussian window of sigma 1.5, and
C1 = 0.01^2, C2 = 0.03^2 at peak 1. Shapes: x, y [n, h, w, 3].

As in the paper, only windows that lie wholly inside the picture count. The paper has grey pictures;
for colour, the map is averaged over the three channels.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ..errors import BadInput
from . import MetricCard

CARD = MetricCard(key="ssim", title="SSIM", unit="", better="higher", needs="images")

SIGMA = 1.5
RADIUS = 5  # an 11 x 11 window
C1, C2 = 0.01**2, 0.03**2


def _local_mean(x: np.ndarray) -> np.ndarray:
    """Gaussian-weighted mean of every window inside the picture, [..., h - 10, w - 10, c]."""
    smooth = gaussian_filter(x, SIGMA, radius=RADIUS, axes=(-3, -2))
    return smooth[..., RADIUS:-RADIUS, RADIUS:-RADIUS, :]


def measure(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """Mean SSIM per sample (eq. 13, averaged over the picture: eq. 15), float64[n]."""
    height, width = reference.shape[-3:-1]
    if min(height, width) <= 2 * RADIUS:
        raise BadInput(f"SSIM needs pictures of at least 11 x 11 pixels, not {height} x {width}")
    x = reference.double().clamp(0, 1).numpy()
    y = candidate.double().clamp(0, 1).numpy()
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    var_x = _local_mean(x * x) - mean_x**2
    var_y = _local_mean(y * y) - mean_y**2
    cov = _local_mean(x * y) - mean_x * mean_y
    similarity = ((2 * mean_x * mean_y + C1) * (2 * cov + C2)) / (
        (mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)
    )
    return similarity.reshape(len(x), -1).mean(axis=1)  # [n]
