"""SSIM of a clip's worst frame: what the mean over the frames hides.

    W_n = min over frames t of SSIM(a_nt, b_nt)

Shapes: a, b [n, f, h, w, 3]. `ssim` of a clip is the mean over its frames; one frame that falls apart
among fifty does not show there.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..pixels import structural_similarity
from . import MetricCard

CARD = MetricCard(
    key="worst_frame_ssim",
    title="SSIM of the worst frame",
    unit="",
    better="higher",
    needs="images",
    clips=True,
)


def per_frame(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """SSIM of every frame, float64[n, f]."""
    clips = zip(reference, candidate, strict=True)  # one at a time: its windows are float64
    return np.stack([structural_similarity(a, b) for a, b in clips])


def over_frames(values: np.ndarray) -> np.ndarray:
    """The lowest of the frames [n, f], float64[n]."""
    return values.min(axis=1)


def measure(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """The lowest of the frames, float64[n]."""
    return over_frames(per_frame(reference, candidate))
