"""Paired metrics: one file each, listed by their cards without importing them.

A metric file states `CARD = MetricCard(...)` with literal arguments and

    measure(reference, candidate) -> float64[n]     one value per sample

over pictures [n, h, w, 3] or clips [n, f, h, w, 3] in [0, 1], or latents [n, c, (f,) h, w], as its
card's `needs` says; one that says `clips` is given clips alone. A value that is not finite stands for
"no number" (for PSNR: the pictures are identical). It may also have

    pooled(reference, candidate) -> {name: number or None}
    per_frame(reference, candidate) -> float64[n, f]       of clips, and then also
    over_frames(values [n, f]) -> float64[n]               what `measure` makes of them

for what is not a mean over samples. Writing the file is all it takes to join every evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from ..card_files import CardFiles


@dataclass(frozen=True)
class MetricCard:
    """What a metric says about itself."""

    key: str  # also its name in JSON
    title: str
    unit: str
    better: Literal["higher", "lower"]
    needs: Literal["images", "latents"]
    clips: bool = False  # whether it is of clips alone: pictures have no such number


_FILES = CardFiles(__name__, Path(__file__).parent, MetricCard, "metric")


def list_metrics() -> dict[str, MetricCard]:
    """Every metric's card by key; imports none of them."""
    return _FILES.cards


def load_metric(key: str) -> ModuleType:
    """Import the module of one metric."""
    return _FILES.load(key)
