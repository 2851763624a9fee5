"""Small allocation problems, and their answer by trying every combination in fractions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from quant.allocation import Choice, Item, Key, Pair, Problem

COMBINATIONS = 20_000


def total(problem: Problem, chosen: Mapping[Key, object], resource: str) -> Fraction:
    """What a plan takes, exactly."""
    found = Fraction(0)
    for item in problem.items:
        (choice,) = (c for c in item.choices if c.label == chosen[item.key])
        found += Fraction(choice.uses.get(resource, 0.0))
    for pair in problem.pairs:
        if pair.resource == resource:
            found += Fraction(pair.table[chosen[pair.first], chosen[pair.second]])
    return found


def loss_of(problem: Problem, chosen: Mapping[Key, object]) -> Fraction:
    return sum(
        (
            Fraction(c.loss)
            for item in problem.items
            for c in item.choices
            if c.label == chosen[item.key]
        ),
        Fraction(0),
    )


def allowed(problem: Problem, chosen: Mapping[Key, object]) -> bool:
    """Pins and ties."""
    return all(chosen[k] == v for k, v in problem.pins.items()) and all(
        len({chosen[k] for k in tie}) <= 1 for tie in problem.ties
    )


def fits(problem: Problem, chosen: Mapping[Key, object], budgets: Mapping[str, float]) -> bool:
    """The exact sums, rounded once; whole numbers exactly, others to one part in 10^12."""
    for r, b in budgets.items():
        uses = [c.uses.get(r, 0.0) for item in problem.items for c in item.choices]
        uses += [use for pair in problem.pairs if pair.resource == r for use in pair.table.values()]
        slack = 0.0 if all(use == int(use) for use in uses) else 1e-12
        if float(total(problem, chosen, r)) > b * (1 + slack):
            return False
    return True


def plans(problem: Problem) -> list[dict[Key, object]]:
    """Every combination of choices that pins and ties allow."""
    keys = [item.key for item in problem.items]
    offered = [
        [problem.pins[i.key]] if i.key in problem.pins else list(i.labels) for i in problem.items
    ]
    ways = (dict(zip(keys, way, strict=True)) for way in itertools.product(*offered))
    return [way for way in ways if allowed(problem, way)]


def least_loss(problem: Problem, budgets: Mapping[str, float]) -> Fraction | None:
    """None when nothing fits."""
    losses = [loss_of(problem, p) for p in plans(problem) if fits(problem, p, budgets)]
    return min(losses, default=None)


numbers = st.one_of(
    st.integers(0, 20).map(float), st.floats(0, 10), st.floats(-10, 4).map(lambda e: 10.0**e)
)


@st.composite
def problems(draw: st.DrawFn, pairs: bool = True) -> Problem:
    """Weights and activations in up to two windows, with pins, ties and seconds that two take together."""
    sites = draw(st.integers(1, 4))
    windows = draw(st.integers(0, 2))
    items, joined, room = [], [], COMBINATIONS
    for s in range(sites):
        keys = [Key(f"s{s}"), *(Key(f"s{s}", "activation", w) for w in range(windows))]
        for key in keys:
            most = min(5, room)
            labels = range(2, 2 + draw(st.integers(1, most)))
            room //= len(labels)
            items.append(
                Item(
                    key,
                    tuple(
                        Choice(
                            label, draw(numbers), {"bits": draw(numbers), "bytes": draw(numbers)}
                        )
                        for label in labels
                    ),
                )
            )
    by_key = {item.key: item for item in items}
    if pairs:
        for item in items:
            if item.key.operand == "activation" and draw(st.booleans()):
                weight = by_key[Key(item.key.site)]
                ways = itertools.product(weight.labels, item.labels)
                table = {way: draw(numbers) for way in ways}
                joined.append(Pair(weight.key, item.key, "bytes", table))
    ties = []
    weights = [i for i in items if i.key.operand == "weight"]
    inputs = [i for i in items if i.key.operand == "activation"]
    for alike in (weights, inputs):
        if len(alike) >= 2 and draw(st.booleans()):
            ties.append(frozenset(i.key for i in alike[: draw(st.integers(2, len(alike)))]))
    pins = {}
    for item in items:
        tied = any(item.key in tie for tie in ties)
        if not tied and draw(st.integers(0, 4)) == 0:
            pins[item.key] = draw(st.sampled_from(item.labels))
    return Problem(tuple(items), tuple(joined), pins, tuple(ties))


@st.composite
def budgeted(draw: st.DrawFn, pairs: bool = True) -> tuple[Problem, dict[str, float]]:
    """A problem with budgets about what its plans take: often exactly, seldom out of reach."""
    problem = draw(problems(pairs=pairs))
    every = plans(problem)
    one = every[draw(st.integers(0, len(every) - 1))]
    names = draw(st.sampled_from([("bits",), ("bytes",), ("bits", "bytes")]))
    share = st.sampled_from([0.7, 1.0, 1.0, 1.05, 1.5])
    return problem, {n: float(total(problem, one, n)) * draw(share) for n in names}


def random_case(seed: int) -> tuple[Problem, dict[str, float]]:
    """Two to five sites with inputs in up to two windows: some thousand combinations, two budgets, a pin, a tie."""
    rng = np.random.default_rng(seed)
    sites, windows = (int(n) for n in rng.choice([(2, 1), (2, 2), (3, 1), (4, 0), (4, 2), (5, 0)]))
    keys = [
        key
        for s in range(sites)
        for key in (Key(f"s{s}"), *(Key(f"s{s}", "activation", w) for w in range(windows)))
    ]
    most = min(7, max(2, int(COMBINATIONS ** (1 / len(keys)))))
    items = []
    for key in keys:
        labels = range(2, 2 + int(rng.integers(max(2, most - 2), most + 1)))
        scale, size = 10 ** rng.uniform(-3, 3), float(rng.integers(1, 9)) * 1024
        choices = (
            Choice(
                b,
                scale * 4.0**-b * float(rng.uniform(0.3, 3)),
                {"bits": b * size, "seconds": 1e-6 * size * float(rng.uniform(0.5, 1.5))},
            )
            for b in labels
        )
        items.append(Item(key, tuple(choices)))
    by_key = {item.key: item for item in items}
    pairs = tuple(
        Pair(
            Key(key.site),
            key,
            "seconds",
            {
                way: float(rng.uniform(0, 1e-2))
                for way in itertools.product(by_key[Key(key.site)].labels, by_key[key].labels)
            },
        )
        for key in keys
        if key.operand == "activation"
    )
    ties = (frozenset({Key("s0"), Key("s1")}),) if rng.integers(2) else ()
    pins = {keys[-1]: items[-1].labels[-1]} if rng.integers(2) and windows else {}
    problem = Problem(tuple(items), pairs, pins, ties)
    _, uses = enumerated(problem, ("bits", "seconds"))
    bounds = {n: float(np.quantile(u, rng.uniform(0.02, 0.7))) for n, u in uses.items()}
    return problem, bounds


def enumerated(
    problem: Problem, resources: tuple[str, ...]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Loss and uses of every combination that pins and ties allow, as floats: for more than `plans` can try."""
    place = {item.key: n for n, item in enumerate(problem.items)}
    grid = np.indices([len(i.choices) for i in problem.items]).reshape(len(place), -1)
    for key, label in problem.pins.items():
        grid = grid[:, grid[place[key]] == problem.items[place[key]].labels.index(label)]
    for tie in problem.ties:
        first, *others = (place[k] for k in tie)
        of = [np.array([c.label for c in problem.items[n].choices]) for n in (first, *others)]
        for n, labels in zip(others, of[1:], strict=True):
            grid = grid[:, of[0][grid[first]] == labels[grid[n]]]
    loss = np.zeros(grid.shape[1])
    uses = {name: np.zeros(grid.shape[1]) for name in resources}
    for row, item in zip(grid, problem.items, strict=True):
        loss += np.array([c.loss for c in item.choices])[row]
        for name in resources:
            uses[name] += np.array([c.uses.get(name, 0.0) for c in item.choices])[row]
    for pair in problem.pairs:
        one, other = (problem.items[place[k]] for k in (pair.first, pair.second))
        table = np.array([[pair.table[a, b] for b in other.labels] for a in one.labels])
        uses[pair.resource] += table[grid[place[one.key]], grid[place[other.key]]]
    return loss, uses
