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
from torch import Tensor

from ..pixels import structural_similarity
from . import MetricCard

CARD = MetricCard(key="ssim", title="SSIM", unit="", better="higher", needs="images")


def measure(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """Mean SSIM per sample (eq. 13, averaged over the picture: eq. 15), float64[n]."""
    return structural_similarity(reference, candidate)
