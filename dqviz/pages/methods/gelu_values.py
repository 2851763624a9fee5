"""The values after the GELU as a histogram: how many are negative, how many bins they get, before and after the shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quant.errors import BadInput
from quant.schema import parse_bits

from ...plots import histogram
from ...plots.arrays import short
from ..exports import Source
from ..view import Column, Section, cell, plot, table
from .learned import drawn, label_of, picked
from .migration import factors_of
from .opened import BADGES, Opened, View
from .post_gelu import kept_as, shifted
from .ranks import layer_of, layer_pick
from .selection import Selection

VIEW = View("gelu-values", "Values after the GELU", 27, None, keys=("layer", "of_step"), learned="post_gelu")  # fmt: skip
LEDE = "Most values crowd just below zero, and one grid has to hold for all steps. Shifted to the middle of their channels, with the wide channels divided, they spread over more of its bins."
HEIGHT = 300
CELLS = 200
ALL = "all"


@dataclass(frozen=True)
class Spread:
    """Values on a grid over all steps."""

    name: str
    values: np.ndarray  # of the steps that are looked at
    low: float  # of all steps
    high: float

    @property
    def below(self) -> float:
        """Share of the values below zero."""
        return float((self.values < 0).mean())

    @property
    def bins_below(self) -> float:
        """Share of the grid's bins below zero."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        return -low / (high - low) if high > low else 0.0

    def step(self, bits: int) -> float:
        """Between two levels of so many bits."""
        return (max(self.high, 0.0) - min(self.low, 0.0)) / (2**bits - 1)


def section(opened: Opened, chosen: Selection) -> Section:
    """One layer at one step or all: as recorded, and after what is stored for it."""
    found = opened.learned
    assert found is not None
    data = found.last("post_gelu")
    layer = layer_of(data, chosen)
    picks = [layer_pick(data, layer)]
    captured = opened.captured
    if captured is None or layer not in {e.name for e in captured.seen.inputs}:
        note = "The values themselves come from a capture, and this study has none of this layer."
        return drawn(VIEW.title, LEDE, [], [], picks=picks, note=note, capture=True)
    rows, steps, _ = captured.seen.rows(layer)
    every = sorted({int(k) for k in steps})
    of = chosen.one_of("of_step", (ALL, *map(str, every)), ALL)
    own = data[layer]
    here = rows if of == ALL else rows[steps == int(of)]
    spreads = [_spread("as recorded", rows, here)]
    if own.get("gate") not in (None, "plain"):
        middle = _middles(captured.seen, layer) if shifted(found, own) else 0.0
        outliers = np.array(own.get("outliers") or [], int)
        factors = factors_of(own, outliers, rows.shape[1])
        spreads.append(_spread(kept_as(found, own), (rows - middle) / factors, (here - middle) / factors))  # fmt: skip
    bits = _bits(opened)
    where = f"{label_of(layer)}, {'all steps' if of == ALL else f'step {of}'}"
    source = captured.source(f"{where}; {layer}", "simulated")
    picks.append(picked("of_step", "Step", [(ALL, "all steps"), *((str(k), f"step {k}") for k in every)], of))  # fmt: skip
    return drawn(
        VIEW.title,
        LEDE,
        [captured.badge, *([BADGES["simulated"]] if len(spreads) > 1 else [])],
        [_figure(spreads, where, source)],
        picks=picks,
        words=_words(spreads, where, bits),
        table=_table(spreads, bits, source),
    )


def _bits(opened: Opened) -> int | None:
    """Of the activations; None where they stay as they are, or layers differ."""
    try:
        return parse_bits(opened.bits).activation
    except BadInput:
        return None


def _spread(name: str, every: np.ndarray, here: np.ndarray) -> Spread:
    return Spread(name, here.ravel(), float(every.min()), float(every.max()))


def _middles(seen: Any, layer: str) -> np.ndarray:
    """Middle of every channel's range over all steps and branches, where its shift starts, [c]."""
    ends = [seen.channels(layer, s, b) for s in range(seen.steps) for b in range(seen.branches)]
    low, high = np.min([e["minimum"] for e in ends], 0), np.max([e["maximum"] for e in ends], 0)
    return (low + high) / 2


def _figure(spreads: Sequence[Spread], where: str, source: Source) -> Section:
    low, high = min(s.low for s in spreads), max(s.high for s in spreads)
    edges = np.linspace(low, max(high, low + 1e-6), CELLS + 1)
    counts = [(s.name, np.histogram(s.values, edges)[0]) for s in spreads]
    figure = histogram.figure(counts, edges, np.zeros(0), (0.0, 0.0), (0.0, 0.0), False, False)
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 1.2, "color": "var(--dq-muted)", "dash": "dot"}}  # fmt: skip
    figure["layout"]["shapes"] = [*figure["layout"]["shapes"], zero]
    return plot(
        VIEW.title,
        figure,
        alt=f"Histogram of {where}: {'; '.join(f'{s.name}, {_share(s.below)} below zero on {_share(s.bins_below)} of the bins' for s in spreads)}",
        height=HEIGHT,
        source=source,
        part="gelu-values",
        raw=[{"values": name, "from": float(a), "to": float(b), "count": int(n)} for name, own in counts for a, b, n in zip(edges, edges[1:], own)],
    )  # fmt: skip


def _share(share: float) -> str:
    return f"{short(100 * share)} %"


def _words(spreads: Sequence[Spread], where: str, bits: int | None) -> list[str]:
    first = spreads[0]
    words = [f"{where}: {_share(first.below)} of the values are negative, and a grid over all steps gives them {_share(first.bins_below)} of its bins."]  # fmt: skip
    if len(spreads) == 1:
        return [*words, "This layer is stored as it is: shift and migration would not have lowered its error."]  # fmt: skip
    after = spreads[1]
    words.append(f"{after.name[:1].upper()}{after.name[1:]}, {_share(after.below)} are negative on {_share(after.bins_below)} of the bins.")  # fmt: skip
    if bits is not None:
        change = after.step(bits) / first.step(bits)
        words.append(f"Two levels of {bits} bits are {short(first.step(bits))} apart before and {short(after.step(bits))} after, {short(100 * abs(change - 1), 2)} % {'less' if change < 1 else 'more'}.")  # fmt: skip
    return words


def _table(spreads: Sequence[Spread], bits: int | None, source: Source) -> Section:
    rows, raw = [], []
    for s in spreads:
        step = None if bits is None else s.step(bits)
        shares = [cell(_share(v)) for v in (s.below, s.bins_below)]
        rows.append({"cells": [cell(s.name), cell(f"{short(s.low)} … {short(s.high)}"), *shares, cell("–" if step is None else short(step))]})  # fmt: skip
        raw.append({"values": s.name, "low": s.low, "high": s.high, "negative": s.below, "bins_negative": s.bins_below, "level_spacing": step})  # fmt: skip
    columns = (
        Column("Values"),
        Column("Range", "", "over all steps"),
        Column("Below zero"),
        Column("Bins below zero"),
        Column("Level spacing", "", "of a grid over all steps"),
    )
    return table("Before and after, as a table", columns, rows, raw=raw, source=source, part="gelu-values-table")  # fmt: skip
