"""What a sum of cells' costs is worth: predictions held against plans that were drawn.

    log measured ~ g(log cost),    g never falls: isotonic regression of the plans that were verified

measured is the typical loss of a plan, the geometric mean over its samples: rounding turns a sample now and then into another
picture, which costs a hundred times what it costs the others, and a plain mean over few samples tells how many of
those there were. Interactions between layers, saturation and the tier's own unit are in g; that a cheaper sum is a better plan is all
that is assumed. Between verified plans g is straight, beyond them it goes on in proportion (slope 1).

The interval of a prediction has three parts:

    cost    its interval over the samples (a bootstrap of the mean), taken through g
    plans   what verified plans are away from what the others say of them, |log measured - log predicted| of plan i
            without plan i. Of n such distances the ceil((n + 1) 0.95)-th smallest, or the largest (Barber et al. 2021,
            the jackknife+, arXiv 1905.02928, in its plain form)
    samples the mean of log measured over other samples: half its bootstrap interval, the median over the plans

The ends of the first move by the root of the sum of squares of the others. Beyond the costs that were drawn nothing was held
against g: there one end goes on with slope 0 and the other with slope 2, and `within` says so.

`coverage` is the share of plans whose measured loss is in the interval that the others give it, and is told beside it: with
few plans it says more than the 95 %. Verified plans are near solved ones (`quant.random_plans`). A plan that was solved is not
quite one of them: those whose cost was underestimated are over-represented. So plans are verified by themselves, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, exp, hypot, log

import numpy as np

from .errors import BadInput
from .intervals import LEVEL, bootstrap
from .schema import Value

FEWEST = 12  # plans to calibrate with
FEW_SAMPLES = 4  # of a plan: below that its typical loss is hardly known
_LEAST = 1e-12  # losses below count as this: a logarithm is taken


class Verified(Value):
    """A plan that was drawn."""

    cost: float  # sum over its cells
    measured: float  # relative latent loss, geometric mean over the samples
    per_sample: tuple[float, ...] = ()  # of the measured loss


class Prediction(Value):
    """What a plan is expected to lose, typically; `lo` and `hi` are null where there is no calibration."""

    mean: float
    lo: float | None = None
    hi: float | None = None


class Calibration(Value):
    """Verified plans of one table."""

    plans: tuple[Verified, ...]

    def check(self) -> None:
        """BadInput where there are too few."""
        if len(self.plans) < FEWEST:
            raise BadInput(
                f"{len(self.plans)} verified plans are too few to calibrate with; {FEWEST} or more work"
            )

    def mean(self, cost: float) -> float:
        """g of a cost; never falls with it."""
        return _Curve(self.plans)(cost)

    def within(self, cost: float) -> bool:
        """Whether plans of less and of more cost were drawn."""
        costs = [plan.cost for plan in self.plans]
        return min(costs) <= cost <= max(costs)

    def predict(self, cost: float, costs: Sequence[float] | np.ndarray | None = None) -> Prediction:
        """Of a plan with this cost, and these in every sample."""
        return _predicted(self.plans, cost, costs)

    @property
    def coverage(self) -> float:
        """Share of the plans whose measured loss is in the interval that the others give."""
        hits = 0
        for n, plan in enumerate(self.plans):
            found = _predicted(_without(self.plans, n), plan.cost, None)
            hits += (found.lo or 0.0) <= plan.measured <= (found.hi or 0.0)
        return hits / len(self.plans)

    @property
    def factor(self) -> float:
        """By what a prediction is moved to both sides."""
        return exp(_away(self.plans))


def _predicted(
    plans: Sequence[Verified], cost: float, costs: Sequence[float] | np.ndarray | None
) -> Prediction:
    curve, away = _Curve(plans), exp(_away(plans))
    low = high = cost
    if costs is not None and len(costs) > 1:
        interval = bootstrap(costs)
        low, high = min(cost, interval.lo or cost), max(cost, interval.hi or cost)
    return Prediction(mean=curve(cost), lo=curve(low, (2, 0)) / away, hi=curve(high, (0, 2)) * away)


def _without(plans: Sequence[Verified], n: int) -> list[Verified]:
    return [*plans[:n], *plans[n + 1 :]]


def _away(plans: Sequence[Verified]) -> float:
    """What the ends of an interval move by, in logarithms."""
    return hypot(_distance(plans), _of_samples(plans))


def _of_samples(plans: Sequence[Verified]) -> float:
    """By how much the typical loss on other samples is off; 0 where samples are not told, or one."""
    halves = [_half(plan.per_sample) for plan in plans if len(plan.per_sample) > 1]
    return float(np.median(halves)) if halves else 0.0


@lru_cache(maxsize=1024)
def _half(losses: tuple[float, ...]) -> float:
    """Half the interval of the mean logarithm."""
    found = bootstrap([_log(loss) for loss in losses])
    assert found.lo is not None
    assert found.hi is not None
    return (found.hi - found.lo) / 2


def _distance(plans: Sequence[Verified]) -> float:
    """How far plans are from what the others say of them, in logarithms."""
    each = sorted(
        abs(_log(plan.measured) - _log(_Curve(_without(plans, n))(plan.cost)))
        for n, plan in enumerate(plans)
    )
    return each[min(len(each), ceil((len(each) + 1) * LEVEL)) - 1]


class _Curve:
    """g, through the plans in the order of their cost."""

    def __init__(self, plans: Sequence[Verified]) -> None:
        from scipy.optimize import isotonic_regression

        costs: dict[float, list[float]] = {}
        for plan in plans:
            costs.setdefault(_log(plan.cost), []).append(_log(plan.measured))
        self._x = np.array(sorted(costs))
        means = [float(np.mean(costs[x])) for x in self._x]
        counts = [len(costs[x]) for x in self._x]
        self._y = isotonic_regression(means, weights=counts).x

    def __call__(self, cost: float, slopes: tuple[float, float] = (1, 1)) -> float:
        """g; below and above the costs that were drawn it goes on with these slopes."""
        x, first, last = _log(cost), self._x[0], self._x[-1]
        inside = float(np.interp(x, self._x, self._y))
        return exp(inside + slopes[0] * min(0.0, x - first) + slopes[1] * max(0.0, x - last))


def _log(value: float) -> float:
    return log(max(value, _LEAST))
