"""A split keeps the average over all groups, and the scan tries the released ones."""

from __future__ import annotations

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.allocation import Choice, Item, Key, Problem
from quant.errors import BadInput
from quant.group_budgets import SCAN, candidates, group_budgets, scan

positive = st.floats(0.01, 100)


@given(positive, positive, positive, positive)
def test_two_groups_are_the_formula_of_the_paper(content, quality, average, k):
    found = group_budgets({"content": content, "quality": quality}, average, {"content": k})
    r = content / quality
    assert found["quality"] == pytest.approx(average * (1 + r) / (1 + k * r))
    assert found["content"] == pytest.approx(k * found["quality"])


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=5), positive)
def test_any_number_of_groups_keeps_the_average(groups, average):
    sizes = {f"g{n}": p for n, (p, _) in enumerate(groups)}
    ratios = {f"g{n}": k for n, (_, k) in enumerate(groups)}
    found = group_budgets(sizes, average, ratios)
    mean = sum(sizes[g] * found[g] for g in sizes) / sum(sizes.values())
    assert mean == pytest.approx(average)
    base = {found[g] / ratios[g] for g in sizes}
    assert max(base) == pytest.approx(min(base))


def test_the_released_ranges():
    weights, activations = scan(5.0, "weight"), scan(8.0, "activation")
    assert len(weights) == 100
    assert len(activations) == 200
    assert weights[0] == (5.0, pytest.approx(0.46))
    assert weights[-1] == (pytest.approx(4.7), pytest.approx(1.36))
    assert activations[-1] == (pytest.approx(7.7), pytest.approx(1.09))
    assert SCAN["weight"][2] == 10


def four(loss=lambda b: 4.0**-b):
    """Two sites of 100 weights in either group."""
    items = tuple(
        Item(
            Key(n),
            tuple(Choice(b, (1 + k) * loss(b), {"bits": 100.0 * b}) for b in range(2, 9)),
        )
        for k, n in enumerate(("c0", "c1", "q0", "q1"))
    )
    groups = {"content": [Key("c0"), Key("c1")], "quality": [Key("q0"), Key("q1")]}
    return Problem(items), groups, {"content": 200.0, "quality": 200.0}


def tried(problem, groups, sizes, **options):
    asked = {"content": "content", "target": 5.0, **options}
    target = asked.pop("target")
    splits = scan(target, "weight", split=asked["content"] is not None)
    limits = {"resource": "bits", "units": sizes, "gap": 1e-4, "seconds": 10.0}
    return list(candidates(problem, groups, sizes, splits, **limits, **asked))


def test_every_group_is_solved_within_its_own_budget():
    found = tried(*four())
    assert len(found) == 100
    for candidate in found:
        assert candidate.refused is None
        for group, allocation in candidate.allocations.items():
            assert allocation.used["bits"] <= 200 * candidate.bits[group]
            assert {k.site[0] for k in allocation.chosen} == {group[0]}
        total = sum(a.used["bits"] for a in candidate.allocations.values())
        assert total <= 400 * candidate.target * (1 + 1e-12)


def test_without_a_content_group_only_the_average_is_scanned():
    problem, _, _ = four()
    groups = {"visual": [item.key for item in problem.items]}
    found = tried(problem, groups, {"visual": 400.0}, content=None)
    assert [c.k for c in found] == [1.0] * 10
    assert [c.bits["visual"] for c in found] == [c.target for c in found]
    assert found[0].target == 5
    assert found[-1].target == pytest.approx(4.7)


def test_what_cannot_be_split():
    problem, groups, sizes = four()
    with pytest.raises(BadInput, match="unknown group 'contents'"):
        tried(problem, groups, sizes, content="contents")
    with pytest.raises(BadInput, match="q1 weight is in no group"):
        tried(problem, {**groups, "quality": [Key("q0")]}, sizes)
    with pytest.raises(BadInput, match="c0 weight is in the groups content and quality"):
        tried(problem, {**groups, "quality": [Key("c0"), Key("q0"), Key("q1")]}, sizes)
    tied = Problem(problem.items, ties=(frozenset({Key("c0"), Key("q0")}),))
    with pytest.raises(BadInput, match="c0 weight and q0 weight belong together"):
        tried(tied, groups, sizes)
    with pytest.raises(BadInput, match=r"target 0\.3"):
        scan(0.3, "weight")
    with pytest.raises(BadInput, match="size of g is nan"):
        group_budgets({"g": nan}, 4.0, {})


def test_a_split_out_of_reach_says_so_and_the_others_go_on():
    found = tried(*four(), target=2.2)
    assert any(c.refused is not None and "out of reach" in c.refused for c in found)
    assert any(c.refused is None for c in found)
