"""One input at one step, with what the panels about it share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...plots.arrays import short
from ...seen_file import InputEntry, SeenFile
from ..exports import Source
from ..view import badge
from .opened import Opened, stage_label
from .selection import BRANCHES, Selection, labels

OUTLIER = 5.0  # a channel is an outlier when it reaches so many times the median channel
SIMULATED = badge(
    "simulated", "simulated", "sampled rows rounded to the grid; nothing ran in a model"
)


@dataclass(frozen=True)
class At:
    """One input at one step, with what several panels need of it."""

    opened: Opened
    chosen: Selection
    entry: InputEntry
    stage: str  # the chosen stage, or "input" where this input lacks it

    @property
    def seen(self) -> SeenFile:
        """The capture."""
        return self.opened.seen

    @property
    def step(self) -> int:
        """The step that panels show."""
        return self.chosen.step

    @property
    def branch(self) -> int:
        """The branch that panels show."""
        return self.chosen.branch_index

    @cached_property
    def label(self) -> str:
        """The input as people call it."""
        return labels(self.seen)[self.seen.inputs.index(self.entry)]

    @cached_property
    def place(self) -> str:
        """Input, step, branch and stage in words."""
        branch = f", {BRANCHES[self.branch]}" if self.seen.branches > 1 else ""
        return f"{self.label}, step {self.step}{branch}, {stage_label(self.stage)}"

    @cached_property
    def histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts at the step, and edges."""
        return self.seen.histogram(self.entry.name, self.step, self.branch, self.stage)

    @cached_property
    def all_histograms(self) -> np.ndarray:
        """Counts [steps, bins]."""
        return self.seen.histogram(self.entry.name, None, self.branch, self.stage)[0]

    @cached_property
    def channels(self) -> dict[str, np.ndarray]:
        """Smallest, largest, mean and second moment per channel, at the step."""
        return self.seen.channels(self.entry.name, self.step, self.branch, self.stage)

    @cached_property
    def rows(self) -> np.ndarray:
        """Sampled rows of the step and branch, [r, c]; may be none."""
        rows, steps, branches = self.seen.rows(self.entry.name, self.stage)
        return rows[(steps == self.step) & (branches == self.branch)]

    @property
    def evidence(self) -> dict[str, str]:
        """The badge of statistics."""
        return self.opened.badge

    def source(self, *more: str) -> Source:
        """For exports of a panel."""
        return self.opened.source(f"{self.place}; {self.entry.name}", *more)

    def part(self, what: str) -> str:
        """For names of exported files."""
        return f"{self.entry.name.replace('.', '-')}-step{self.step}-{BRANCHES[self.branch]}-{self.stage}-{what}"


def sizes(channels: dict[str, np.ndarray]) -> np.ndarray:
    """Largest |x| per channel."""
    return np.maximum(np.abs(channels["minimum"]), np.abs(channels["maximum"]))


def outliers(channels: dict[str, np.ndarray]) -> np.ndarray:
    """Channels that reach OUTLIER times the median channel, the largest first."""
    size = sizes(channels)
    middle = float(np.median(size))
    order = np.argsort(-size, kind="stable")
    return order[size[order] > OUTLIER * middle] if middle > 0 else order[:0]


def percent(share: float) -> str:
    """A share to read."""
    if share <= 0:
        return "0 %"
    if share >= 0.9995:
        return "100 %"
    return f"{short(share * 100, 2 if share < 0.995 else 3)} %"
