"""Which rows calibration looks at closely: a function of the seeds, never of how samples are batched.

For sample i at step s, tokens are put into an order that only (options' seed, sample's seed, s) decide.
The first `histogram` of them go into histograms. Of the k rows that are kept per step and branch,
row j is taken from sample (s k + j) mod n at place j div n of its order, so that few rows still
come from many samples. Both guidance branches look at the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .schema import Sample


@dataclass(frozen=True)
class Chosen:
    """The rows of one batch at one step; an index counts rows of the batch, sample by sample."""

    histogram: Tensor  # [h] index
    absmax: Tensor  # [a] index
    absmax_slots: Tensor  # [a] column of `row_absmax`
    kept: Tensor  # [r] index
    kept_slots: Tensor  # [r] place among the rows kept of this step and branch


@dataclass(frozen=True)
class RowChoice:
    """How many rows of which samples; `quota[step, branch]` rows are kept per stratum."""

    samples: tuple[Sample, ...]
    seed: int
    histogram: int  # rows per sample and branch
    absmax: int  # rows per step and branch
    quota: np.ndarray  # [steps, branches] int

    @property
    def per_stratum(self) -> int:
        """Largest quota."""
        return int(self.quota.max())

    def chosen(self, step: int, first: int, count: int, tokens: int) -> Chosen:
        """For the batch that holds samples first .. first + count - 1, each with so many tokens."""
        n = len(self.samples)
        orders = [
            self._order(sample, step, tokens) for sample in self.samples[first : first + count]
        ]
        histogram = [
            i * tokens + t for i, order in enumerate(orders) for t in order[: self.histogram]
        ]
        absmax, absmax_slots = _taken(orders, step, first, n, tokens, self.absmax)
        kept, kept_slots = _taken(orders, step, first, n, tokens, self.per_stratum)
        found = (histogram, absmax, absmax_slots, kept, kept_slots)
        return Chosen(*(torch.tensor(part, dtype=torch.int64) for part in found))

    def filled(self, tokens: int, wanted: int) -> int:
        """How many of so many wanted rows there are: fewer where the samples have few tokens."""
        return min(wanted, len(self.samples) * tokens)

    def _order(self, sample: Sample, step: int, tokens: int) -> list[int]:
        n = len(self.samples)
        most = max(self.histogram, -(-self.absmax // n), -(-self.per_stratum // n))
        digest = hashlib.sha256(f"{self.seed}/{sample.seed}/{step}".encode()).digest()[:7]
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        return torch.randperm(tokens, generator=generator)[:most].tolist()


def _taken(
    orders: Sequence[Sequence[int]], step: int, first: int, n: int, tokens: int, wanted: int
) -> tuple[list[int], list[int]]:
    """Rows of this batch among the `wanted` ones of a step, and the place that each has there."""
    rows, slots = [], []
    for j in range(wanted):
        sample, rank = (step * wanted + j) % n - first, j // n
        if 0 <= sample < len(orders) and rank < min(tokens, len(orders[sample])):
            rows.append(sample * tokens + orders[sample][rank])
            slots.append(j)
    return rows, slots


def quotas(total: int, steps: int, branches: int) -> np.ndarray:
    """Rows kept per step and branch, [steps, branches]: equally many, at most `total` together.

    With fewer rows than strata, every so many-th stratum keeps one.
    """
    strata = steps * branches
    if total >= strata:
        return np.full((steps, branches), total // strata)
    quota = np.zeros(strata, int)
    quota[np.arange(total) * strata // total] = 1
    return quota.reshape(steps, branches)
