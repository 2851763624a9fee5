"""What all figures share: run colours, axes, margins, and where plotly.js lies on disk.

A colour is written `var(--run-1)`: the page puts in the value of its own stylesheet, so that a run
has one colour everywhere, in light and in dark.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

RUN_COLOURS = 7  # --run-0 (full precision) to --run-6 in dqviz.css
SYMBOLS = ("circle", "circle", "square", "diamond", "triangle-up", "x", "star")

Figure = dict[str, Any]


def run_colour(index: int) -> str:
    """Colour of run `index`; runs beyond the palette begin it again, without full precision's."""
    return f"var(--run-{colour_number(index)})"


def colour_number(index: int) -> int:
    """Place of run `index` in the palette."""
    return 0 if index == 0 else (index - 1) % (RUN_COLOURS - 1) + 1


def run_symbol(index: int) -> str:
    """Marker of run `index`, so that colour is never the only difference."""
    return SYMBOLS[colour_number(index)]


def layout(**own: Any) -> Figure:
    """The common layout with `own` over it."""
    return {
        "margin": {"l": 64, "r": 16, "t": 8, "b": 44},
        "hovermode": "closest",
        "dragmode": False,
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        **own,
    }


def axis(title: str, **own: Any) -> Figure:
    """An axis with its title; `own` adds to it."""
    return {"title": {"text": title, "standoff": 8}, "fixedrange": True, "zeroline": False, **own}


def plain(text: str) -> str:
    """Text for a figure: plotly.js reads a few tags in labels, names from files shall not be any."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def vendor_folder() -> Path:
    """The folder of the plotly package that holds plotly.min.js."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the package 'plotly' is not installed; pip install plotly")
    return Path(spec.submodule_search_locations[0]) / "package_data"
