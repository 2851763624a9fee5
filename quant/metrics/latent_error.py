"""Relative error of the final latents: the primary paired metric.

    e_n = ||q_n - z_n|| / ||z_n||

Shapes: z, q [n, c, h, w]. It sees what the decoder may hide, has no peak and no clamping, and is 0,
not infinite, for identical latents.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from . import MetricCard

CARD = MetricCard(
    key="latent_rel_error", title="Relative latent error", unit="", better="lower", needs="latents"
)


def measure(reference: Tensor, candidate: Tensor) -> np.ndarray:
    """Relative L2 error per sample, float64[n]; NaN where the reference is all zero and the candidate is not."""
    norm = reference.double().flatten(1).norm(dim=1).numpy()  # [n]
    error = (candidate.double() - reference.double()).flatten(1).norm(dim=1).numpy()  # [n]
    undefined = np.where(error > 0, np.nan, 0.0)
    return np.divide(error, norm, out=undefined, where=norm > 0)
