"""Peak signal-to-noise ratio of pictures, in decibels.

    mse_n = mean over pixels and channels of (a_n - b_n)^2,   a, b clamped to [0, 1]
    PSNR_n = -10 log10 mse_n                                   (peak 1)

Shapes: a, b [n, h, w, 3]. Taken on the float pictures, before any rounding to 8 bits: rounding
would cap a near-lossless run at about 59 dB. Identical pictures have no PSNR: the value is
infinite here and null in JSON.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..pixels import decibels, mean_squared_error
from . import MetricCard

CARD = MetricCard(key="psnr_db", title="PSNR", unit="dB", better="higher", needs="images")


def measure(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """PSNR per sample, float64[n]."""
    return decibels(mean_squared_error(reference, candidate))


def pooled(reference: Tensor, candidate: Tensor) -> dict[str, float | None]:
    """Decibels of the squared error averaged over all samples, which the worst pictures dominate."""
    value = float(decibels(mean_squared_error(reference, candidate).mean()))
    return {"of_mean_mse": value if np.isfinite(value) else None}
