"""Drift of the frame differences: is the motion still the same?

    d_t = x_{t+1} - x_t
    D_n = ||d(b) - d(a)|| / ||d(a)||

Shapes: a, b [n, f, h, w, 3] clamped to [0, 1], f >= 2. 0 where every change from one frame to the next
is kept, 1 where the candidate stands still, more where it moves otherwise. What is added to all frames
alike does not count: that is what PSNR is for. NaN where the reference does not move and the candidate
does.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..pixels import clamped, frame_differences, root_mean_square
from . import MetricCard

CARD = MetricCard(
    key="frame_drift",
    title="Drift of frame differences",
    unit="",
    better="lower",
    needs="images",
    clips=True,
)


def measure(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """Relative error of the differences per clip, float64[n]."""
    moved, moves = (frame_differences(clamped(x), order=1) for x in (reference, candidate))
    motion, error = root_mean_square(moved), root_mean_square(moves - moved)
    undefined = np.where(error > 0, np.nan, 0.0)
    return np.divide(error, motion, out=undefined, where=motion > 0)
