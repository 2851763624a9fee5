"""Activations: what flows into every quantized layer at every denoising step, and what a grid makes of it.

`overview` is the map of all inputs and steps, `panels` everything about one of them. Both are
functions of a capture and a selection; of the capture's file only the slices shown are read.
"""

from __future__ import annotations

from .opened import Opened
from .overview import controls, empty, headline, overview
from .panels import about, panels
from .selection import Selection, select

TITLE = "Activations"

__all__ = [
    "TITLE",
    "Opened",
    "Selection",
    "about",
    "controls",
    "empty",
    "headline",
    "overview",
    "panels",
    "select",
]
