"""Cells, rows and batches: what is rounded, and what it costs. No torch in here.

A row keeps its value per sample, so that whatever adds up costs later (a plan's predicted loss) has an
interval as well. `noise` is the standard error of the value from split halves of the samples,

    noise = |mean over samples 0, 2, 4, .. - mean over samples 1, 3, 5, ..| / 2

one draw for each row; `quant.sensitivity.floor` pools it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from ..errors import BadInput
from ..intervals import bootstrap
from ..schema import BLOCK_FORMATS, Format, Sample, Value
from . import Operand

OPERANDS: tuple[Operand, ...] = ("weight", "activation")
KEPT = "16"  # bits of an operand that stays in floating point
WIDTHS = range(2, 9)

# What stands for each metric group without downloaded weights, the best first: a model has what it has.
METRICS_OF_GROUP: dict[str, tuple[str, ...]] = {
    "content": ("log_prob_loss", "ssim_loss", "latent_error"),
    "temporal": ("frame_drift", "flicker", "latent_error"),
    "visual": ("ssim_loss", "latent_error"),
    "none": ("latent_error",),
}

Bits = str | Format  # "2" to "8", "16", "fp8", "mxfp8", "mxfp4", "nvfp4", or a format as it is


class Cell(Value):
    """One thing to round."""

    site: str
    operand: Operand
    window: int | None = None  # index of the window that it is rounded in; None: in all steps
    bits: Bits

    def __str__(self) -> str:
        where = "all steps" if self.window is None else f"window {self.window}"
        return f"{self.site}, {self.operand} at {self.bits} bits in {where}"


class Row(Value):
    """What a cell costs by one metric."""

    cell: Cell
    metric: str
    value: float | None  # mean over the samples; null where none has a number
    lo: float | None = None  # 95 % bootstrap interval over the samples; null below two
    hi: float | None = None
    noise: float | None = None  # standard error from split halves; null below two samples
    per_sample: tuple[float | None, ...] = ()  # empty where a tier draws none
    per_step: tuple[float, ...] | None = (
        None  # of the window's steps, where a tier tells them apart
    )

    @classmethod
    def of(
        cls,
        cell: Cell,
        metric: str,
        values: Sequence[float] | np.ndarray,
        per_step: Sequence[float] | None = None,
    ) -> Row:
        """From a value for each sample; what is not finite has no number."""
        x = np.asarray(values, dtype=np.float64)
        finite = x[np.isfinite(x)]
        steps = None if per_step is None else tuple(float(v) for v in per_step)
        each = tuple(float(v) if np.isfinite(v) else None for v in x)
        if not len(finite):
            return cls(cell=cell, metric=metric, value=None, per_sample=each, per_step=steps)
        interval = bootstrap(finite)
        return cls(
            cell=cell,
            metric=metric,
            value=interval.mean,
            lo=interval.lo,
            hi=interval.hi,
            noise=split_half(finite),
            per_sample=each,
            per_step=steps,
        )


Found = Mapping[Cell, np.ndarray]  # float64[n, m] of a batch: m numbers of each of n samples


class Batch(Value):
    """What a tier found of some samples; null for what is not finite."""

    samples: tuple[Sample, ...]
    cells: tuple[Cell, ...]
    numbers: tuple[tuple[tuple[float | None, ...], ...], ...]  # [cells][samples][m]

    @classmethod
    def of(cls, samples: Sequence[Sample], found: Found) -> Batch:
        """From numbers by cell."""
        numbers = tuple(
            tuple(tuple(float(v) if np.isfinite(v) else None for v in row) for row in values)
            for values in found.values()
        )
        return cls(samples=tuple(samples), cells=tuple(found), numbers=numbers)


def split_half(values: np.ndarray) -> float | None:
    """Standard error of the mean of float[n] from its two halves; None below two."""
    if len(values) < 2:
        return None
    return float(abs(values[::2].mean() - values[1::2].mean()) / 2)


def format_of(bits: Bits, operand: Operand) -> Format | None:
    """The format that bits stand for, as uniform plans have it; None for 16."""
    if isinstance(bits, Format):
        return bits
    if bits == KEPT:
        return None
    if bits in ("fp8", *BLOCK_FORMATS):
        return Format.of_kind(bits)  # type: ignore[arg-type]
    if bits.isdigit() and int(bits) in WIDTHS:
        return Format(bits=int(bits), symmetric=operand == "activation")
    kinds = ", ".join(("fp8", *BLOCK_FORMATS))
    raise BadInput(
        f"bits '{bits}' of a cell are not understood; write {WIDTHS[0]} to {WIDTHS[-1]}, {KEPT} for "
        f"floating point, or {kinds}"
    )


def metric_of(group: str, there: Collection[str]) -> str:
    """The metric by which cells of a metric group (`Site.group`) are ranked, of those that a table has.

    Where it has none of the group's own, the table's first: cheap tiers have one metric for all groups.
    """
    return next((m for m in METRICS_OF_GROUP[group] if m in there), next(iter(there)))


def cells_of(
    sites: Iterable[str],
    bits: Iterable[Bits],
    windows: int,
    operands: Iterable[Operand] = OPERANDS,
    *,
    whole: bool = True,
) -> tuple[Cell, ...]:
    """Every cell in the order of a table: operand, bits, site, window; all steps come before the windows.

    Args:
        sites: in the order of the model.
        bits: in the order that they were asked for.
        windows: how many; with one there are no cells but those of all steps.
        operands: weights, activations or both.
        whole: with the cells of all steps, which plans use for weights, beside those of single windows.
    """
    sites, bits = tuple(sites), tuple(bits)
    among: list[int | None] = [None] if whole or windows == 1 else []
    among += range(windows) if windows > 1 else ()
    return tuple(
        Cell(site=site, operand=operand, window=window, bits=b)
        for operand in operands
        for b in bits
        for site in sites
        for window in among
    )
