"""PSNR frame by frame: the convention of papers on video, and the frame that suffered most.

    mse_nt = mean over pixels and channels of (a_nt - b_nt)^2,   a, b clamped to [0, 1]
    F_n    = mean over frames t of -10 log10 mse_nt              (peak 1)

Shapes: a, b [n, f, h, w, 3]. `psnr_db` of a clip takes the logarithm of the error of all frames
together, so it is never above F (Jensen). A frame that is identical has no decibels and is left out of
the mean; of clips that are identical the value is infinite here and null in JSON.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..pixels import decibels, mean_squared_error
from . import MetricCard

CARD = MetricCard(
    key="frame_psnr_db",
    title="PSNR, mean of frames",
    unit="dB",
    better="higher",
    needs="images",
    clips=True,
)


def per_frame(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """PSNR of every frame, float64[n, f]; infinite where two frames are identical."""
    clips = zip(reference, candidate, strict=True)
    return np.stack([decibels(mean_squared_error(a, b)) for a, b in clips])


def over_frames(values: np.ndarray) -> np.ndarray:
    """Mean over the frames [n, f] that have a number, float64[n]."""
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=1)
    return np.divide(total, known.sum(axis=1), out=np.full(len(values), np.inf), where=known.any(1))


def measure(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """Mean over the frames, float64[n]."""
    return over_frames(per_frame(reference, candidate))


def pooled(reference: Tensor, candidate: Tensor) -> dict[str, float | None]:
    """The lowest PSNR of any frame of any clip."""
    lowest = float(per_frame(reference, candidate).min())
    return {"worst_frame": lowest if np.isfinite(lowest) else None}
