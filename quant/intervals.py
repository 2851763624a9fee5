"""Bootstrap intervals, and what may be claimed from paired samples.

Efron 1979, "Bootstrap methods: another look at the jackknife", https://doi.org/10.1214/aos/1176344552
(percentile interval); Hall 1989, "Antithetic resampling for the bootstrap",
https://doi.org/10.1093/biomet/76.4.713

Values are sorted and every resample is used with its mirror image (rank r becomes n - 1 - r). Two
symmetries then hold exactly, so that no conclusion depends on how a table was written down: the
order of the samples does not matter, and the interval of b - a is that of a - b, reflected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from .errors import BadInput
from .schema import Value

RESAMPLES = 10_000
LEVEL = 0.95
SMOKE_SAMPLES = 16  # below this nothing is said
CLAIM_SAMPLES = 64  # from here on a difference may be published
_Z = 1.959963984540054  # two-sided 95 % point of the normal distribution
_CHUNK = 2**21  # index entries held at once

Claim = Literal["a better", "b better", "no difference shown", "too few samples"]
Strength = Literal["none", "smoke", "claim"]


class Interval(Value):
    """A mean with its 95 % interval; `lo` and `hi` are null for a single value."""

    mean: float
    lo: float | None
    hi: float | None
    n: int


class PairedDifference(Value):
    """What the same samples say about two runs a and b; differences are a - b in the metric's unit."""

    diff: Interval | None  # over the pairs whose difference is finite; None when there is none
    win_rate: float  # share of samples on which a is better; a tie counts half
    worst_decile: float | None  # 10 % of the samples are at least this bad for a
    n: int  # pairs
    unbounded: int  # pairs in which one side alone is identical to the reference: not in `diff`
    enough: bool  # at least SMOKE_SAMPLES
    strength: Strength
    claim: Claim


def bootstrap(
    values: Sequence[float] | np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of float[n] with its percentile bootstrap interval; the same values give the same interval."""
    x = np.sort(np.asarray(values, dtype=np.float64))
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise BadInput(
            f"a mean with an interval needs at least one value, all finite; got {list(x[:4])}"
        )
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean=mean, lo=None, hi=None, n=1)
    tail = (1 - LEVEL) / 2
    lo, hi = np.quantile(_resampled_means(x, resamples, seed), [tail, 1 - tail])
    return Interval(mean=mean, lo=float(lo), hi=float(hi), n=len(x))


def proportion(successes: int, n: int) -> Interval:
    """A share with its Wilson score interval, which stays honest at 0 and 1 where the bootstrap has no width.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference",
    https://doi.org/10.1080/01621459.1927.10502953
    """
    if not 0 <= successes <= n or n == 0:
        raise BadInput(f"a share needs 0 <= successes <= n and n > 0; got {successes} of {n}")
    z2 = _Z**2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * (share * (1 - share) / n + z2 / (4 * n**2)) ** 0.5
    return Interval(mean=share, lo=max(0.0, centre - half), hi=min(1.0, centre + half), n=n)


def _resampled_means(x: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of resamples of sorted x[n], each with its mirror image, float64[resamples]."""
    rng = np.random.default_rng(seed)
    mirror = x[::-1]
    means: list[np.ndarray] = []
    left = resamples // 2
    while left > 0:
        rows = min(left, max(1, _CHUNK // len(x)))
        ranks = rng.integers(len(x), size=(rows, len(x)))  # [rows, n]
        means += [x[ranks].mean(axis=1), mirror[ranks].mean(axis=1)]
        left -= rows
    return np.concatenate(means)


def paired_difference(
    a: Sequence[float | None] | np.ndarray,
    b: Sequence[float | None] | np.ndarray,
    better: Literal["higher", "lower"] = "higher",
    seed: int = 0,
) -> PairedDifference:
    """Compare two runs sample by sample.

    `None` (or infinity) is what a metric without a number for identical pictures gives, i.e. a
    perfect value. Two of them differ by 0; one alone is a difference without a size: it counts in
    the win rate, is left out of the mean, and forbids a claim for the other side.

    Args:
        a: values of the first run, one per sample.
        b: values of the second run, in the same order.
        better: direction of the metric.
        seed: of the bootstrap.
    """
    first, second = _perfect_for_none(a, better), _perfect_for_none(b, better)
    if first.shape != second.shape or len(first) == 0:
        raise BadInput(
            f"paired runs need the same samples, at least one; got {len(first)} and {len(second)}"
        )
    both_perfect = np.isinf(first) & (first == second)
    difference = np.subtract(first, second, out=np.zeros_like(first), where=~both_perfect)
    gain = difference if better == "higher" else -difference  # positive: a is better
    bounded = np.isfinite(difference)
    interval = bootstrap(difference[bounded], seed=seed) if bounded.any() else None
    worst = None
    if bounded.any():
        worst = float(np.quantile(difference[bounded], 0.1 if better == "higher" else 0.9))
    n = len(gain)
    strength: Strength = (
        "claim" if n >= CLAIM_SAMPLES else "smoke" if n >= SMOKE_SAMPLES else "none"
    )
    return PairedDifference(
        diff=interval,
        win_rate=float(((gain > 0) + 0.5 * (gain == 0)).mean()),
        worst_decile=worst,
        n=n,
        unbounded=int((~bounded).sum()),
        enough=n >= SMOKE_SAMPLES,
        strength=strength,
        claim=_claim(interval, gain[~bounded], n, better),
    )


def _perfect_for_none(values: Sequence[float | None] | np.ndarray, better: str) -> np.ndarray:
    perfect = np.inf if better == "higher" else -np.inf
    x = np.array([perfect if v is None else v for v in values], dtype=np.float64)
    if np.isnan(x).any() or np.isinf(x[x != perfect]).any():
        raise BadInput(
            f"value {int(np.flatnonzero(~np.isfinite(x) & (x != perfect))[0])} of a paired run is not a number"
        )
    return x


def _claim(interval: Interval | None, unbounded_gains: np.ndarray, n: int, better: str) -> Claim:
    """The direction in which the interval excludes 0, unless an unbounded difference points the other way."""
    if n < SMOKE_SAMPLES:
        return "too few samples"
    up = down = interval is None  # only unbounded differences: they alone decide
    if interval is not None and interval.lo is not None and interval.hi is not None:
        up, down = interval.lo > 0, interval.hi < 0
        if better == "lower":
            up, down = down, up
    if up and (unbounded_gains > 0).all():
        return "a better"
    if down and (unbounded_gains < 0).all():
        return "b better"
    return "no difference shown"
