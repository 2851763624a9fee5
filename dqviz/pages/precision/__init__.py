"""Sensitivity and precision: what rounding each layer costs in each window of steps, and plans made of that.

`content` is everything that the page computes with, sent once: selecting, setting, undoing and adding up happen
in the browser. `solving` answers what takes a solver: a plan within budgets, at once or proven, and the curve of them.
"""

from __future__ import annotations

from .empty import empty
from .opened import Opened
from .solving import Asked, appraise, asked, average, curve, file, load, solve, suggest
from .table import content

TITLE = "Sensitivity and precision"

__all__ = [
    "TITLE",
    "Asked",
    "Opened",
    "appraise",
    "asked",
    "average",
    "content",
    "curve",
    "empty",
    "file",
    "load",
    "solve",
    "suggest",
]
