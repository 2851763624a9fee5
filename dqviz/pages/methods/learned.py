"""A learning as the views of this page read it: its log, how it stands, and the section that all of them fill.

Keys of a learner's measures that views read (`quant.learning.Learner.measures`); what a learner leaves
out is not drawn:

    sites      {layer: {frozen, entropy, ranks, used, dead, changed, counts, worth}}: shares, nats; how often the
               codewords are used, most used first, means of equal groups of them; bits that codes are worth
    coherence  {layer: {kmeans, now}}: mean cosine of gradients inside a codeword
    units      [{unit, hard_before, hard_now, soft, undecided, mode}]: squared errors of a unit's output
    post_gelu  {layer: {low, high, negative, bins_negative, ranges, outliers, m, gate, errors}}: ends of the range
               per step, range per channel, outlier channels with a factor each, squared error of every way;
               what is left out of a later snapshot is as it was told before
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quant.cards import methods
from quant.errors import BadInput
from quant.schema import fingerprint

from ...plots import heatmap
from ...plots.heatmap import Scale
from ...plots.theme import Figure
from ..exports import Source
from ..view import Section, badge, plot, synthetic

BADGES = {
    "simulated": badge("simulated", "simulated", "losses of rounded numbers, while they were learned"),
    "measured": badge("measured", "measured", "counted in the codes, or taken from the full-precision model"),
    "recorded": badge("recorded", "plain", "came with dqviz: learned elsewhere, not here"),
}  # fmt: skip


@dataclass(frozen=True)
class Learned:
    """One learning of a study, as far as it has come."""

    name: str  # of the run
    label: str
    manifest: Mapping[str, Any]
    record: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]  # of its log, the head included
    finished: bool = True  # whether its run is stored
    running: bool = False
    why: str = ""  # it stopped, in the words of its job
    seconds_left: float | None = None  # of the job that it is a part of, where one says so
    kept: int = 0  # steps that the state on disk has done: from there it would go on
    described: Mapping[str, Any] = field(default_factory=dict)  # the study's model

    @property
    def steps(self) -> int:
        """That it takes in all; 0 before its log begins."""
        return int(self.lines[0]["steps"]) if self.lines else 0

    @property
    def losses(self) -> list[Mapping[str, Any]]:
        """Lines of losses, step by step."""
        return [line for line in self.lines[1:] if "losses" in line]

    @property
    def snapshots(self) -> list[Mapping[str, Any]]:
        """Lines of measures, step by step."""
        return [line for line in self.lines[1:] if "measures" in line]

    @property
    def done(self) -> int:
        """Steps that are done, as far as the log says."""
        return int(self.losses[-1]["step"]) + 1 if self.losses else 0

    @property
    def state(self) -> str:
        """How it stands, in words."""
        if self.running:
            return "running"
        return "done" if self.finished or (self.steps and self.done == self.steps) else "stopped"

    @property
    def told_apart(self) -> str:
        """Its name with the options that it was asked for."""
        return ", ".join([self.name, *(f"{k}={v}" for k, v in (self.manifest.get("options") or {}).items())])  # fmt: skip

    def option(self, name: str) -> Any:
        """An option as it was asked for, alone or by a preset, or its default; None where the method has no such."""
        given = self.manifest.get("options") or {}
        card = methods().get(str(self.manifest.get("method")))
        if card is None:
            return given.get(name)
        with suppress(BadInput):  # a preset that an earlier version had
            given = card.expanded(given)
        return {**{option.name: option.default for option in card.options}, **given}.get(name)

    def has(self, key: str) -> bool:
        """Whether its measures hold a key, `sites`, or `sites.frozen` for any layer; an empty key is its losses."""
        name, _, part = key.partition(".")
        held = (line["measures"].get(name) for line in reversed(self.snapshots))
        return not key or any(m and (not part or any(own.get(part) is not None for own in m.values())) for m in held)  # fmt: skip

    def last(self, key: str) -> Any:
        """The latest measures of a key; of what is told by layer, the latest of every number."""
        held = [found for line in self.snapshots if (found := line["measures"].get(key))]
        if not isinstance(held[-1], Mapping):
            return held[-1]
        merged: dict[str, dict[str, Any]] = {}
        for found in held:
            for layer, own in found.items():
                merged.setdefault(layer, {}).update(own)
        return merged

    def badge(self, evidence: str) -> dict[str, str]:
        """Of numbers of that kind; of a study that came along they are recorded."""
        recorded = evidence == "measured" and self.record.get("evidence") == "recorded"
        return BADGES["recorded" if recorded else evidence]

    def source(self, study: str, evidence: str, note: str = "") -> Source:
        """For exported files."""
        said = (self.badge(evidence)["text"], *filter(None, [synthetic(self.described)]))
        note = note or f"{self.label}, {self.done} of {self.steps} steps"
        return Source(f"{study}-{self.name}", fingerprint(dict(self.manifest)), said, note)


def label_of(layer: str) -> str:
    """`block 3 · attn1.to_q`."""
    found = re.search(r"\.(\d+)\.(.+)$", layer)
    return f"block {found[1]} · {found[2]}" if found else layer


def block_of(layer: str) -> str:
    """`block 3`; a layer outside the blocks is its own."""
    return label_of(layer).partition(" · ")[0]


def grid_of(
    values: Mapping[str, float | None],
    title: str,
    scale: Scale,
    height: int,
    part: str,
    alt: str,
    source: Source,
    layer: str,
) -> Section:
    """Values of all layers as a map: a row per block, a column per layer of it; a click chooses one.

    Args:
        values: by layer; None is a gap.
        title: what the colours mean.
        scale: of the colours.
        height: pixels at least.
        part: for the names of files.
        alt: the figure in words.
        source: of the values.
        layer: the chosen one, which is framed.
    """  # fmt: skip
    blocks = list(dict.fromkeys(block_of(n) for n in values))
    kinds = list(dict.fromkeys(_kind(n) for n in values))
    cells: list[list[str | None]] = [[None] * len(kinds) for _ in blocks]
    numbers = np.full((len(blocks), len(kinds)), np.nan)
    for name, value in values.items():
        at = blocks.index(block_of(name)), kinds.index(_kind(name))
        cells[at[0]][at[1]] = name
        numbers[at] = np.nan if value is None else value
    figure = heatmap.sites(numbers, blocks, blocks, kinds, scale, title)
    figure["layout"]["xaxis"] |= {"type": "category", "tickangle": 0 if len(kinds) < 5 else -35, "automargin": True}  # fmt: skip
    figure["layout"]["margin"] = {"l": 4, "r": 4, "t": 8, "b": 8}
    if layer in values:
        row, column = blocks.index(block_of(layer)), kinds.index(_kind(layer))
        frame = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
        line = {"width": 2.5, "color": "var(--run-2)"}
        figure["layout"]["shapes"] = [*figure["layout"]["shapes"], {"type": "rect", **frame, "line": line}]  # fmt: skip
    raw = [{"layer": n, "value": v} for n, v in values.items()]
    tall = max(height, heatmap.height(len(blocks)) + 40)
    small = {"xaxis": {**figure["layout"]["xaxis"], "tickangle": -90 if len(kinds) > 3 else 0}}
    made = plot(title, figure, alt=alt, height=tall, source=source, part=part, raw=raw, narrow=small)  # fmt: skip
    return {**made, "click": {"key": "layer", "cells": cells}}


def from_0_to_100(figure: Figure) -> None:
    """Colours of a map of percent: not those of its own least and most, or next to nothing looks like all."""
    shown, legend = figure["data"]
    shown |= {"zmin": 0, "zmax": 100}
    legend["marker"] |= {"color": [0], "cmin": 0, "cmax": 100}


def _kind(layer: str) -> str:
    return label_of(layer).rpartition(" · ")[2]


def picked(key: str, label: str, options: Sequence[tuple[str, str]], value: str) -> dict[str, Any]:
    """A choice of a view: few options are buttons, many a list."""
    return {"key": key, "label": label, "options": list(options), "value": value, "list": len(options) > 4}  # fmt: skip


def drawn(
    title: str,
    lede: str,
    badges: Sequence[Mapping[str, str]],
    figures: Sequence[Section],
    *,
    picks: Sequence[Mapping[str, Any]] = (),
    facts: Sequence[tuple[str, str, str]] = (),
    words: Sequence[str] = (),
    table: Section | None = None,
    beside: bool = False,
    **more: Any,
) -> Section:
    """A view of a learning.

    Args:
        title: of the view.
        lede: what it shows.
        badges: kinds of evidence.
        figures: plots; one with `click` {key, values} sets a choice where it is clicked.
        picks: choices (`picked`).
        facts: term, value, remark.
        words: sentences that say what is to be seen.
        table: the same numbers.
        beside: whether figures stand beside one another where there is room.
        more: further keys for the drawer.
    """
    return {
        "kind": "learned",
        "title": title,
        "lede": lede,
        "badges": list(badges),
        "figures": list(figures),
        "picks": list(picks),
        "facts": [list(f) for f in facts],
        "words": list(words),
        "table": table,
        "beside": beside,
        **more,
    }
