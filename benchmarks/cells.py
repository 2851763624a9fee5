"""Cells of the tables that the result pages are made of."""

from __future__ import annotations

from typing import Any

from quant.intervals import PairedDifference, paired_difference


def difference(a: dict[str, Any], b: dict[str, Any]) -> PairedDifference:
    """a - b in dB, sample by sample."""
    return paired_difference(a["psnr_db"]["per_sample"], b["psnr_db"]["per_sample"])


def mean(value: dict[str, Any] | None, digits: int = 2) -> str:
    """`12.34 (12.00 to 12.70)`."""
    if value is None or value["mean"] is None:
        return "identical"
    said = f"{value['mean']:.{digits}f}"
    return said if value["lo"] is None else f"{said} ({value['lo']:.{digits}f} to {value['hi']:.{digits}f})"  # fmt: skip


def diff(pair: PairedDifference, digits: int = 2) -> str:
    """The same with signs."""
    if pair.diff is None:
        return "identical"
    lo, hi = pair.diff.lo, pair.diff.hi
    said = f"{pair.diff.mean:+.{digits}f}"
    return said if lo is None or hi is None else f"{said} ({lo:+.{digits}f} to {hi:+.{digits}f})"


def signed(value: float | None) -> str:
    """Two digits with a sign."""
    return "-" if value is None else f"{value:+.2f}"


def shown(pair: PairedDifference, a: str, b: str) -> str:
    """Who is better, as far as it is shown."""
    return {"a better": f"{a} better", "b better": f"{b} better"}.get(pair.claim, pair.claim)


def share(value: dict[str, Any] | None) -> str:
    """A share with its interval."""
    if value is None:
        return "-"
    return f"{value['mean']:.0%} ({value['lo']:.0%} to {value['hi']:.0%})"


def megabytes(size: int | None) -> str:
    """Of bytes."""
    return "-" if size is None else f"{size / 1e6:.2f}"
