"""Ratios as bars of an SVG: what the tables of a results page say, at a glance, in light and in dark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from xml.etree import ElementTree as ET

WIDTH, LABELS, VALUE, EDGE = (
    760,
    250,
    60,
    8,
)  # pixels: of all; before the bars; after the longest; around
BAR, GAP, HEAD, SPACE = 16, 4, 24, 14  # of a bar, between bars, of a group's title, after a group
COLOURS = (
    "#0b6b62",
    "#b86538",
    "#2a78c9",
    "#8a6d00",
    "#8250c4",
    "#6b7280",
    "#a3195b",
    "#3f7d20",
    "#7a4a2b",
)
STYLE = """
svg { --ink: #17212b; --page: #ffffff; background: var(--page) }
text { font: 12px system-ui, sans-serif; fill: var(--ink); stroke: var(--page); stroke-width: 3px; paint-order: stroke }
.title { font-size: 14px; font-weight: 600 }
.group { font-weight: 600 }
.even { stroke: var(--ink); stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e6edf3; --page: #10161a }
  rect { filter: brightness(1.5) }
}
"""


class Bars(NamedTuple):
    """Ratios of one thing that was measured, by what they are of; nothing where there is none."""

    title: str
    ratios: Mapping[str, float]


def svg(title: str, groups: list[Bars]) -> str:
    """One bar for each ratio, a line at 1; equal names have equal colours. ValueError for no ratios."""
    drawn = [group for group in groups if group.ratios]
    if not drawn:
        raise ValueError("a figure needs at least one ratio")
    names = list(dict.fromkeys(name for group in drawn for name in group.ratios))
    longest = max(1.0, *(ratio for group in drawn for ratio in group.ratios.values()))
    each = (WIDTH - LABELS - VALUE) / longest
    picture = ET.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
    ET.SubElement(picture, "title").text = title
    ET.SubElement(picture, "style").text = STYLE
    _text(picture, EDGE, 20, title, "title")
    top = HEAD + SPACE + EDGE
    line = ET.SubElement(picture, "line", {"class": "even", "y1": str(top)})
    for group in drawn:
        _text(picture, EDGE, top + 12, group.title, "group")
        top += HEAD
        for name, ratio in group.ratios.items():
            _text(picture, 2 * EDGE, top + 12, name)
            box = {"x": LABELS, "y": top, "width": round(each * ratio, 1), "height": BAR}
            fill = COLOURS[names.index(name) % len(COLOURS)]
            ET.SubElement(picture, "rect", {k: str(v) for k, v in box.items()} | {"fill": fill})
            _text(picture, LABELS + each * ratio + 6, top + 12, f"{ratio:.2f}")
            top += BAR + GAP
        top += SPACE
    even = f"{LABELS + each:.1f}"
    line.attrib |= {"x1": even, "x2": even, "y2": str(top - SPACE)}
    picture.attrib |= {"viewBox": f"0 0 {WIDTH} {top}", "width": str(WIDTH), "height": str(top)}
    return ET.tostring(picture, encoding="unicode") + "\n"


def _text(parent: ET.Element, x: float, y: float, said: str, kind: str = "") -> None:
    style = {"class": kind} if kind else {}
    ET.SubElement(parent, "text", {"x": f"{x:.1f}", "y": str(y), **style}).text = said
