"""Bars of ratios: as long as the ratios are, the same name in the same colour, names as text."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from benchmarks.bars import LABELS, Bars, svg

NS = {"s": "http://www.w3.org/2000/svg"}


def drawn(*groups: Bars) -> ElementTree.Element:
    return ElementTree.fromstring(svg("Speed", list(groups)))


def widths(picture: ElementTree.Element) -> list[float]:
    return [float(bar.attrib["width"]) for bar in picture.findall("s:rect", NS)]


def test_bars_are_as_long_as_ratios_and_the_line_stands_at_one() -> None:
    picture = drawn(Bars("256 px", {"a": 2.0, "b": 0.5}), Bars("512 px", {"b": 1.0}))
    first, second, third = widths(picture)
    assert first == pytest.approx(2 * third, abs=0.1)
    assert second == pytest.approx(third / 2, abs=0.1)
    line = picture.find("s:line", NS)
    assert line is not None
    assert float(line.attrib["x1"]) == pytest.approx(LABELS + third, abs=0.1)


def test_a_name_keeps_its_colour_and_bars_do_not_overlap() -> None:
    picture = drawn(Bars("x", {"a": 1.0, "b": 1.0}), Bars("nothing", {}), Bars("y", {"b": 1.0}))
    bars = picture.findall("s:rect", NS)
    assert bars[1].attrib["fill"] == bars[2].attrib["fill"] != bars[0].attrib["fill"]
    for one, other in pairwise(bars):
        below = float(one.attrib["y"]) + float(one.attrib["height"])
        assert float(other.attrib["y"]) > below
    *_, height = (float(side) for side in picture.attrib["viewBox"].split())
    assert float(bars[-1].attrib["y"]) + float(bars[-1].attrib["height"]) <= height
    assert "nothing" not in "".join(picture.itertext())


def test_names_are_text() -> None:
    picture = drawn(Bars("<script>", {"a & b": 3.0}))
    assert "<script>" in list(picture.itertext())
    assert not picture.findall(".//s:script", NS)


def test_no_ratio_is_no_figure() -> None:
    with pytest.raises(ValueError, match="at least one ratio"):
        svg("Speed", [Bars("x", {})])
