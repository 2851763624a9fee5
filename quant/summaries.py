"""One number per step and branch out of an input's statistics: what heatmaps show. No torch.

Shapes: S steps, B branches, c channels; x are the input's values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from .seen_layout import HALF, LOWEST_OCTAVE

SMALLEST = 2.0**LOWEST_OCTAVE  # what histograms call zero


class Statistic(NamedTuple):
    """How a statistic is called and what it means, for people."""

    title: str
    unit: str  # empty for a plain ratio
    words: str


STATISTICS: dict[str, Statistic] = {
    "incoherence": Statistic(
        "Incoherence",
        "max |x| / mean |x|",
        "How far the largest value stands above the ordinary one. One scale must cover both, so a high value wastes bits.",
    ),
    "range": Statistic(
        "Range", "activation units", "Largest minus smallest value: what the integers must span."
    ),
    "absmax": Statistic(
        "Largest magnitude", "activation units", "The largest |x| over all rows and channels."
    ),
    "mean": Statistic(
        "Mean",
        "activation units",
        "The average value; far from zero, a symmetric format wastes half its range.",
    ),
    "std": Statistic(
        "Standard deviation", "activation units", "How widely the values spread about their mean."
    ),
    "asymmetry": Statistic(
        "Asymmetry",
        "-1 to 1",
        "(max + min) / (max - min): 0 when both signs reach equally far, 1 when nothing is negative.",
    ),
    "share_negative": Statistic(
        "Share of negative values",
        "0 to 1",
        "Of the sampled rows; 0 or 1 wastes half of a symmetric format.",
    ),
    "kurtosis": Statistic(
        "Kurtosis", "3 for a Gaussian", "How heavy the tails are, over the sampled rows."
    ),
    "channel_imbalance": Statistic(
        "Channel imbalance",
        "largest / median",
        "The largest channel's |x| over the median channel's: what a channel scale can mend.",
    ),
    "drift": Statistic(
        "Drift",
        "relative change per step",
        "How much the channels' largest |x| changed since the step before: what one static scale for all steps misses.",
    ),
    "row_spread": Statistic(
        "Row spread",
        "largest / median",
        "The largest sampled row's |x| over the median row's: what a scale per row gains over one per tensor.",
    ),
}


def summarize(fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every statistic from the fields of one input, each [S, B] float32; NaN where it is undefined.

    Args:
        fields: `minimum maximum mean second_moment` [S, B, c], `mean_abs` [S, B],
            `histogram` [S, B, BINS], `moments` [S, B, 4], `row_absmax` [S, B, k].
    """
    low, high = fields["minimum"].min(-1), fields["maximum"].max(-1)  # [S, B]
    channels = np.maximum(np.abs(fields["minimum"]), np.abs(fields["maximum"]))  # [S, B, c]
    absmax, span = channels.max(-1), high - low
    mean = fields["mean"].mean(-1, dtype=np.float64)
    variance = fields["second_moment"].mean(-1, dtype=np.float64) - mean**2
    counts = fields["histogram"]
    found = {
        "incoherence": _ratio(absmax, fields["mean_abs"]),
        "range": span,
        "absmax": absmax,
        "mean": mean,
        "std": np.sqrt(np.maximum(variance, 0)),
        "asymmetry": _ratio(high + low, span, 0.0),
        "share_negative": _ratio(counts[..., :HALF].sum(-1), counts.sum(-1), np.nan),
        "kurtosis": _kurtosis(fields["moments"], counts.sum(-1)),
        "channel_imbalance": absmax / np.maximum(np.median(channels, axis=-1), SMALLEST),
        "drift": _drift(channels),
        "row_spread": fields["row_absmax"].max(-1)
        / np.maximum(np.median(fields["row_absmax"], axis=-1), SMALLEST),
    }
    return {key: np.asarray(value, np.float32) for key, value in found.items()}


def _ratio(a: np.ndarray, b: np.ndarray, otherwise: float = 1.0) -> np.ndarray:
    """a / b, and `otherwise` where b is 0."""
    return np.where(b > 0, a / np.where(b > 0, b, 1), otherwise)


def _kurtosis(moments: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Fourth central moment over the squared variance, from sums of x, x^2, x^3, x^4."""
    m1, m2, m3, m4 = np.moveaxis(moments / np.maximum(n, 1)[..., None], -1, 0)
    variance = m2 - m1**2
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    return _ratio(fourth, np.maximum(variance, 0) ** 2, np.nan)


def _drift(channels: np.ndarray) -> np.ndarray:
    """sum_c |a_t - a_(t-1)| / sum_c a_(t-1) per step; the first step has none."""
    change = np.abs(np.diff(channels, axis=0)).sum(-1, dtype=np.float64)
    found = np.full(channels.shape[:2], np.nan)
    found[1:] = _ratio(change, channels[:-1].sum(-1, dtype=np.float64), np.nan)
    return found
