"""Flicker that was added: how much the error changes from frame to frame, back and forth.

    e_t = b_t - a_t,   a, b clamped to [0, 1]
    F_n = sqrt(mean over t, pixels, channels of (e_{t-1} - 2 e_t + e_{t+1})^2) / sqrt(6)

Shapes: a, b [n, f, h, w, 3], f >= 3. An error that stays, or that grows evenly, is no flicker and
gives 0; one that is drawn anew in every frame with standard deviation s gives s (the squares of
1, -2, 1 add up to 6). The measure is ours: PSNR of single frames cannot tell the two apart, eyes can.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..pixels import clamped, frame_differences, root_mean_square
from . import MetricCard

CARD = MetricCard(
    key="flicker", title="Added flicker", unit="", better="lower", needs="images", clips=True
)


def measure(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """Flicker of the error per clip, float64[n], in units of the pixel range."""
    error = clamped(candidate) - clamped(reference)
    return root_mean_square(frame_differences(error, order=2)) / np.sqrt(6)
