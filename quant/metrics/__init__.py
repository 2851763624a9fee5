"""Paired metrics: one file each, listed by their cards without importing them.

A metric file states `CARD = MetricCard(...)` with literal arguments and

    measure(reference, candidate) -> float64[n]     one value per sample

over pictures [n, h, w, 3] in [0, 1] or latents [n, c, h, w], as its card's `needs` says. A value
that is not finite stands for "no number" (for PSNR: the pictures are identical). It may also have

    pooled(reference, candidate) -> {name: number or None}

for what is not a mean over samples. Writing the file is all it takes to join every evaluation.
"""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal

from ..errors import DQVizError, unknown


@dataclass(frozen=True)
class MetricCard:
    """What a metric says about itself."""

    key: str  # also its name in JSON
    title: str
    unit: str
    better: Literal["higher", "lower"]
    needs: Literal["images", "latents"]


def _read_card(path: Path) -> MetricCard | None:
    """The card in one source file, or None where there is none."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CARD":
            call = node.value
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "MetricCard":
                return MetricCard(**{str(k.arg): ast.literal_eval(k.value) for k in call.keywords})
    return None


@cache
def _files() -> dict[str, tuple[str, MetricCard]]:
    """Module name and card by metric key."""
    found: dict[str, tuple[str, MetricCard]] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        card = _read_card(path)
        if card is not None and card.key in found:
            raise DQVizError(f"two metrics are called '{card.key}'; the second is in {path.name}")
        if card is not None:
            found[card.key] = (path.stem, card)
    return found


def list_metrics() -> dict[str, MetricCard]:
    """Every metric's card by key; imports none of them."""
    return {key: card for key, (_, card) in _files().items()}


def load_metric(key: str) -> ModuleType:
    """Import the module of one metric."""
    if key not in _files():
        raise unknown("metric", key, _files())
    return importlib.import_module(f".{_files()[key][0]}", __package__)
