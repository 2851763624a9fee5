"""What an allocation decides, as values: a format for every weight, and one for every activation in every window.

    minimise    sum_i loss_i(c_i)
    subject to  sum_i use_ir(c_i) + sum_(i,j) table_ijr(c_i, c_j)  <=  budget_r    for every budget r

Items i, their choices c_i (bits, say), and resources r in the unit that their name says: `bits` is bits
times numbers, `size_bytes`, `seconds`. Most resources add up over items. A resource that two items take together has a
`Pair`: products of integers need a weight and an input of at most 8 bits both (`quant.latency`).

Losses are expected to add up; that is an assumption of the integer program of MixDQ and ViDiT-Q-MP
(https://arxiv.org/abs/2405.17873, https://arxiv.org/abs/2406.02540), not a fact: plans are verified by drawing.

Budgets of whole numbers are kept exactly, others to one part in 10^12: no sum of floats is known better.

Nothing here knows of models, torch or scipy.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Literal, NamedTuple, TypeVar

from .errors import BadInput, unknown

Label = int | str  # of a choice: its bits, or a name
Operand = Literal["weight", "activation"]
Status = Literal["optimal", "time limit", "heuristic"]
_Named = TypeVar("_Named", bound=Hashable)


class Key(NamedTuple):
    """Which decision: a site's weight, or its input in one window of steps."""

    site: str
    operand: Operand = "weight"
    window: int | None = None  # None for weights, which are stored once

    def __str__(self) -> str:
        where = "" if self.window is None else f" in window {self.window}"
        return f"{self.site} {self.operand}{where}"

    def at(self, label: Label) -> str:
        """`blocks.0.attn1.to_q w8`, `blocks.0.attn1.to_q a4 in window 2`."""
        where = "" if self.window is None else f" in window {self.window}"
        return f"{self.site} {self.operand[0]}{label}{where}"


@dataclass(frozen=True)
class Choice:
    """One way to decide an item."""

    label: Label
    loss: float  # expected, at least 0
    uses: Mapping[str, float] = field(default_factory=dict)  # resources, at least 0


@dataclass(frozen=True)
class Item:
    """One decision and what it may be. Choices that cannot be are absent; `illegal` says why.

    Raises BadInput when there is no choice, when one is named twice, and for numbers that are not finite or negative.
    """

    key: Key
    choices: tuple[Choice, ...]
    illegal: Mapping[Label, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.choices:
            reasons = "; ".join(f"{label}: {why}" for label, why in self.illegal.items())
            raise BadInput(f"{self.key} has no choice that is possible. {reasons}".rstrip(". "))
        twice = _repeated(c.label for c in self.choices)
        if twice is not None:
            raise BadInput(f"{self.key.at(twice)} is offered twice; each choice once")
        for choice in self.choices:
            _check_number(choice.loss, f"loss of {self.key.at(choice.label)}")
            for name, use in choice.uses.items():
                _check_number(use, f"{name} of {self.key.at(choice.label)}")

    @property
    def labels(self) -> tuple[Label, ...]:
        """Of what is possible, as they were given."""
        return tuple(choice.label for choice in self.choices)


@dataclass(frozen=True)
class Pair:
    """What two items take together of one resource, for any two of their choices.

    An item is first in all of its pairs, or second in all: weights first, activations second.
    """

    first: Key
    second: Key
    resource: str
    table: Mapping[tuple[Label, Label], float]

    def __post_init__(self) -> None:
        for (one, other), use in self.table.items():
            _check_number(
                use, f"{self.resource} of {self.first.at(one)} with {self.second.at(other)}"
            )


@dataclass(frozen=True)
class Problem:
    """Items with pairs, what is pinned, and which items take the same choice.

    Raises BadInput for keys that are not there or twice, pins that are not possible, ties without a common
    choice or with two different pins, and pairs without a number for two possible choices.
    """

    items: tuple[Item, ...]
    pairs: tuple[Pair, ...] = ()
    pins: Mapping[Key, Label] = field(default_factory=dict)
    ties: tuple[frozenset[Key], ...] = ()

    def __post_init__(self) -> None:
        items = {item.key: item for item in self.items}
        twice = _repeated(item.key for item in self.items)
        if twice is not None:
            raise BadInput(f"{twice} is decided twice; each item once")
        named = [*self.pins, *(k for tie in self.ties for k in tie)]
        named += [k for pair in self.pairs for k in (pair.first, pair.second)]
        for key in named:
            if key not in items:
                raise unknown("item", key, map(str, items))
        for key, label in self.pins.items():
            _check_pin(items[key], label)
        both = {p.first for p in self.pairs} & {p.second for p in self.pairs}
        if both:
            raise BadInput(
                f"{min(both, key=str)} is first in one pair and second in another; weights come first"
            )
        for pair in self.pairs:
            _check_pair(pair, items[pair.first], items[pair.second])
        self.sets()

    @property
    def resources(self) -> tuple[str, ...]:
        """Names of all that is taken, in order of appearance."""
        linear = (name for item in self.items for c in item.choices for name in c.uses)
        return tuple(dict.fromkeys([*linear, *(pair.resource for pair in self.pairs)]))

    def unpinned(self, keys: Collection[Key]) -> Problem:
        """The same without the pins of these items."""
        return replace(self, pins={k: label for k, label in self.pins.items() if k not in keys})

    def only(self, keys: Collection[Key]) -> Problem:
        """These items alone; BadInput for a tie or a pair with an item outside."""
        kept = set(keys)
        joined = [*self.ties, *(frozenset((p.first, p.second)) for p in self.pairs)]
        for keys_together in joined:
            if keys_together & kept and not keys_together <= kept:
                inside, outside = min(keys_together & kept), min(keys_together - kept)
                raise BadInput(
                    f"{inside} and {outside} belong together; put both into the same group"
                )
        return Problem(
            items=tuple(item for item in self.items if item.key in kept),
            pairs=tuple(pair for pair in self.pairs if pair.first in kept),
            pins={k: label for k, label in self.pins.items() if k in kept},
            ties=tuple(tie for tie in self.ties if tie & kept),
        )

    def sets(self) -> list[tuple[tuple[Item, ...], tuple[Label, ...]]]:
        """Items that are decided together, with the choices that all of them have, pins applied.

        In the order of the items. Ties that share an item are one.
        """
        position = {item.key: n for n, item in enumerate(self.items)}
        root = {key: key for key in position}

        def head(key: Key) -> Key:
            while root[key] != key:
                key = root[key]
            return key

        for tie in self.ties:
            heads = {head(key) for key in tie}
            root.update(dict.fromkeys(heads, min(heads, key=position.__getitem__)))
        together: dict[Key, list[Item]] = {}
        for item in self.items:
            together.setdefault(head(item.key), []).append(item)
        return [(tuple(items), self._common(items)) for items in together.values()]

    def _common(self, items: list[Item]) -> tuple[Label, ...]:
        common = items[0].labels
        for item in items[1:]:
            offered = set(item.labels)
            common = tuple(label for label in common if label in offered)
        if not common:
            offers = "; ".join(f"{i.key}: {', '.join(map(str, i.labels))}" for i in items)
            raise BadInput(f"tied items have no choice in common ({offers}); untie them")
        pins = {self.pins[i.key]: i.key for i in items if i.key in self.pins}
        if len(pins) > 1:
            (one, key), (other, second) = list(pins.items())[:2]
            raise BadInput(
                f"{key.at(one)} and {second.at(other)} are pinned, but tied; pin them alike"
            )
        for label, key in pins.items():
            if label not in common:
                raise BadInput(
                    f"{key.at(label)} is pinned, but items tied to it have only "
                    f"{', '.join(map(str, common))} in common; pin one of these"
                )
        return tuple(pins) or common


@dataclass(frozen=True)
class Allocation:
    """What was decided, and how good it is known to be."""

    chosen: Mapping[Key, Label]
    loss: float
    used: Mapping[str, float]  # every resource
    bound: float  # no choices within the budgets have a smaller loss than this
    binding: tuple[str, ...]  # budgets that a step to a smaller loss would exceed
    seconds: float
    status: Status

    @property
    def gap(self) -> float:
        """How much of the loss might be avoidable at most: 0 is proven best, 0.01 is one percent."""
        return max(0.0, (self.loss - self.bound) / self.loss) if self.loss > 0 else 0.0


def check_budgets(problem: Problem, budgets: Mapping[str, float]) -> None:
    """BadInput for budgets of resources that nothing takes, and for numbers that are none."""
    resources = problem.resources
    for name, bound in budgets.items():
        if name not in resources:
            raise unknown("budget", name, resources, f"They are: {', '.join(resources)}")
        _check_number(bound, f"budget {name}")


def _check_number(value: float, what: str) -> None:
    if not isfinite(value) or value < 0:
        raise BadInput(f"{what} is {value:g}; a finite number of at least 0 works")


def _check_pin(item: Item, label: Label) -> None:
    if label not in item.labels:
        why = f" ({item.illegal[label]})" if label in item.illegal else ""
        raise BadInput(
            f"{item.key.at(label)} is pinned, but not possible{why}; "
            f"possible: {', '.join(map(str, item.labels))}"
        )


def _check_pair(pair: Pair, first: Item, second: Item) -> None:
    for one in first.labels:
        for other in second.labels:
            if (one, other) not in pair.table:
                raise BadInput(
                    f"{pair.resource} of {pair.first.at(one)} with {pair.second.at(other)} is not known"
                )


def _repeated(values: Iterable[_Named]) -> _Named | None:
    """The first value that comes a second time."""
    seen: set[_Named] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
