"""Weight bits that nobody solved for, at the bytes of a budget: what a solved plan is held against.

Every plan gives each layer one of the table's widths, and its weights take no more bytes than were asked for.

    uniform              the same width everywhere
    random               widths drawn, then random layers moved by one width until nothing more fits
    greedy by error      from the least width: always the layer of the largest relative weight error takes one more
    greedy by incoherence
                         one width below the budget's; layers of the most incoherent inputs (the largest psi
                         over the steps) take the most bits, as far as the bytes go: ViDiT-Q's released shortcut
                         (https://arxiv.org/abs/2406.02540)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Widths = dict[str, int]  # of every layer


class Bytes:
    """What layers take at every width."""

    def __init__(self, of: Mapping[str, Mapping[int, int]]) -> None:
        self._of = of
        self.names = tuple(of)
        self.widths = tuple(sorted(next(iter(of.values()))))

    def __call__(self, plan: Mapping[str, int]) -> int:
        return sum(self._of[name][width] for name, width in plan.items())

    def uniform(self, width: int) -> Widths:
        """The same width everywhere."""
        return dict.fromkeys(self.names, width)

    def moved(self, plan: Widths, name: str, by: int) -> Widths | None:
        """One layer one width up or down; None where there is none."""
        at = self.widths.index(plan[name]) + by
        return plan | {name: self.widths[at]} if 0 <= at < len(self.widths) else None


def random(bytes_of: Bytes, budget: int, seed: int) -> Widths:
    """Drawn, and filled up to the budget."""
    rng = np.random.default_rng(seed)
    plan = {name: int(rng.choice(bytes_of.widths)) for name in bytes_of.names}
    while bytes_of(plan) > budget:
        plan = bytes_of.moved(plan, str(rng.choice(bytes_of.names)), -1) or plan
    for name in rng.permutation(bytes_of.names):
        more = bytes_of.moved(plan, str(name), +1)
        if more is not None and bytes_of(more) <= budget:
            plan = more
    return plan


def greedy_by_error(
    bytes_of: Bytes, budget: int, errors: Mapping[str, Mapping[int, float]]
) -> Widths:
    """Always the worst layer first; one that cannot take more is left alone from then on."""
    plan, open_ = bytes_of.uniform(bytes_of.widths[0]), set(bytes_of.names)
    while open_:
        worst = max(sorted(open_), key=lambda name: errors[name][plan[name]])
        more = bytes_of.moved(plan, worst, +1)
        if more is None or bytes_of(more) > budget:
            open_.remove(worst)
        else:
            plan = more
    return plan


def greedy_by_incoherence(
    bytes_of: Bytes, budget: int, width: int, incoherence: Mapping[str, float]
) -> Widths:
    """The most incoherent inputs first, on top of a width that leaves bytes over."""
    below = bytes_of.widths[max(0, bytes_of.widths.index(width) - 1)]
    plan = bytes_of.uniform(below)
    for name in _falling(incoherence, bytes_of.names):
        more = plan | {name: bytes_of.widths[-1]}
        if bytes_of(more) <= budget:
            plan = more
    return plan


def _falling(values: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: (-values[name], name))
