"""How much a sweep will take, counted from shapes and the tier's card before a model is loaded.

Per sample, with S steps, W windows, K directions, cells c whose window begins with step s_c (0 for all steps):

    weight    nothing is drawn
    layer     S evaluations, and every rounded layer once in each
    gradient  2 S evaluations: drawing, and once more to differentiate; then K S backward passes
    exact     S + sum over cells of (S - s_c); both ways that sum twice, and S for every operand and width

What a card says makes these: `passes` of the sampler, `backward` passes of every step, and `flips`, which draw each cell.
A backward pass sends gradients to inputs alone, so it multiplies as often as an evaluation. Memory and bytes are
upper bounds. Decoding and judging the pictures of flips are not counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..adapters import Site
from ..effort import Work, drawing
from ..metrics import list_metrics
from ..recording import InputShape
from . import TierCard, list_tiers
from .cells import KEPT, Bits, Cell, Row, cells_of
from .rounded import KEEP_BYTES
from .table import flat
from .task import Settings

# Passes over the input that a rounded layer rounds, and over its output and its change.
_ROUND, _CHANGE = 10, 8
_BACK = 1.5  # passes of a backward pass for each of an evaluation
# Operations of a layer and what stands about it, and of a rounded layer and its change.
_CALLS, _OF_LAYER = 30, 40
_HELD = 4  # tensors of a layer's input, and of its output, that a backward pass needs
_NUMBER = len("-1.2345678901234567e-300,")  # of JSON, at most
_TOOK = 120  # bytes of what a line of the unfinished sweep says of its cell's cost


@dataclass(frozen=True)
class Swept:
    """What is measured, as far as the effort depends on it."""

    tier: str
    sites: tuple[Site, ...]
    bits: tuple[Bits, ...]
    windows: int
    samples: int
    steps: int
    branches: int  # of guidance
    settings: Settings

    @property
    def card(self) -> TierCard:
        """Of the tier."""
        return list_tiers()[self.tier]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """In the order of the table."""
        names, whole = [s.name for s in self.sites], self.settings.whole
        return cells_of(names, self.bits, self.windows, self.card.operands, whole=whole)

    @property
    def formats(self) -> int:
        """Rounded layers of every site."""
        return len(self.card.operands) * sum(b != KEPT for b in self.bits)

    @property
    def batches(self) -> int:
        """Of samples."""
        return -(-self.samples // self.settings.batch_size)

    @property
    def ways(self) -> int:
        """Drawings of every cell, where each is drawn by itself."""
        return self.card.ways(self.settings.both_ways)

    def evaluations(self) -> int:
        """Of the network, of one sample with all its guidance branches."""
        if not self.formats:
            return 0
        each = self.card.passes * self.steps
        if self.card.flips:
            left = sum(self.steps - self._begin(c.window) for c in self.cells if c.bits != KEPT)
            each += self.ways * left + (self.formats * self.steps if self.ways == 2 else 0)
        return self.samples * each

    def backward_calls(self) -> int:
        """Backward passes, each of one batch."""
        directions = self.settings.probes if self.card.backward and self.formats else 0
        return self.batches * self.steps * directions

    def naive_evaluations(self) -> int:
        """What drawing every cell whole and by itself takes."""
        return self.ways * len(self.cells) * self.samples * self.steps

    def _begin(self, window: int | None) -> int:
        """First step of a window, as `quant.plans.windows_for` cuts them."""
        return 0 if window is None else self.steps * window // self.windows


def work(
    swept: Swept, network: Sequence[Site], shapes: Mapping[str, InputShape], frames: int
) -> Work:
    """Of all evaluations and backward passes; `network` are all sites, `shapes` of their inputs."""
    each, rounded, outputs = drawing(network, shapes, frames), Work(), 0
    for site in swept.sites:
        rows = shapes[site.input_of].tokens
        outputs += rows * site.out_features
        macs = rows * site.in_features * site.out_features
        numbers = _ROUND * rows * site.in_features + _CHANGE * rows * site.out_features
        rounded = rounded + Work(macs, numbers)
    drawn = swept.evaluations() * swept.branches
    in_batch = min(swept.samples, swept.settings.batch_size)
    calls = Work(0, 0, _CALLS * len(network))
    total = each * drawn + calls * (swept.evaluations() / in_batch)
    once = swept.samples * swept.steps * swept.branches * swept.formats
    if swept.card.at_once:
        of_layers = Work(0, 0, _OF_LAYER * len(swept.sites) * swept.formats)
        total = total + rounded * once + of_layers * (swept.batches * swept.steps)
    if swept.card.backward:
        back = each + Work(0, (_BACK - 1) * each.numbers) + Work(0, 2 * outputs * swept.formats)
        back_calls = calls + Work(0, 0, 3 * len(swept.sites) * swept.formats)
        passes = swept.samples * swept.steps * swept.branches * swept.settings.probes
        total = total + back * passes + back_calls * swept.backward_calls()
    return total


def memory_bytes(swept: Swept, network: Sequence[Site], shapes: Mapping[str, InputShape]) -> int:
    """Of rounded layers, and of what one step keeps for its backward passes where there are some."""
    weights = sum(site.in_features * site.out_features for site in swept.sites)
    kept = 1 if swept.card.flips else swept.formats  # those of one width are let go before the next
    expanded = min(4 * weights * kept, max(KEEP_BYTES, 4 * weights))
    total = weights * kept + expanded
    if swept.card.backward:
        rows = swept.branches * min(swept.samples, swept.settings.batch_size)
        tokens = {s.name: shapes[s.input_of].tokens if s.input_of in shapes else 1 for s in network}
        graph = sum(tokens[s.name] * (s.in_features + s.out_features) for s in network)
        changes = sum(tokens[s.name] * s.out_features for s in swept.sites)
        total += 4 * rows * (_HELD * graph + (swept.formats + 1) * changes)
    return total


def table_bytes(swept: Swept, clips: bool = False) -> int:
    """Of the finished table, at most."""
    metrics = _metrics(swept, clips)
    return sum(_line(swept, cell, metric) for cell in swept.cells for metric in metrics)


def unfinished_bytes(swept: Swept, clips: bool = False) -> int:
    """Of the cells and batches of a sweep that is not done, at most."""
    found = table_bytes(swept, clips) + _TOOK * len(swept.cells)
    if swept.card.at_once:
        each = swept.steps if swept.card.stepwise else 1
        found += len(swept.cells) * (_NUMBER * each * swept.samples + _TOOK * swept.batches)
    return found


def _metrics(swept: Swept, clips: bool) -> tuple[str, ...]:
    """All that there may be."""
    found = list(swept.card.metrics)
    if swept.card.flips and swept.settings.pictures:
        cards = list_metrics().values()
        found += [f"{c.key}_loss" for c in cards if c.needs == "images" and clips >= c.clips]
        found.append("log_prob_loss")
    return (*found, *(f"{m}_saved" for m in found)) if swept.ways == 2 else tuple(found)


def _line(swept: Swept, cell: Cell, metric: str) -> int:
    """Bytes of one row of the table, at most."""
    (line,) = flat(
        [Row(cell=cell, metric=metric, value=None)], {cell.site: "temporal"}, "predicted"
    )
    numbers = 4  # value, ends of its interval, noise
    numbers += swept.samples if swept.card.draws else 0
    numbers += swept.steps if swept.card.stepwise else 0
    return len(json.dumps(line, separators=(",", ":"))) + _NUMBER * numbers
