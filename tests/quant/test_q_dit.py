"""Group sizes under a budget, and scales that a sample's tokens share."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant.balancing import output_error
from quant.conformance import synthetic
from quant.conformance.trial import ONE, Trial
from quant.errors import BadInput
from quant.knapsack import cheapest_loss
from quant.methods import q_dit
from quant.methods.q_dit import Options, budgeted, sizes_for
from quant.rounding import rounded_rows
from quant.schema import Format, Plan

numbers = st.floats(0, 10)


@given(st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4), max_size=4), numbers)
def test_the_solver_finds_what_brute_force_finds(items, slack):
    losses = [[loss for loss, _ in item] for item in items]
    costs = [[cost for _, cost in item] for item in items]
    budget = sum(min(c) for c in costs) + slack
    found = cheapest_loss(losses, costs, budget)
    total = lambda table, picks: sum(row[k] for row, k in zip(table, picks, strict=True))  # noqa: E731
    assert total(costs, found) <= budget * (1 + 1e-6) + 1e-9
    ways = itertools.product(*(range(len(c)) for c in costs))
    best = min(total(losses, w) for w in ways if total(costs, w) <= budget)
    assert total(losses, found) <= best + 1e-6


def test_a_budget_below_the_cheapest_choices_is_refused():
    with pytest.raises(BadInput, match="budget"):
        cheapest_loss([[1.0, 2.0]], [[3.0, 4.0]], 2.0)


def three_inputs():
    """Inputs of different difficulty: groups, statistics, and an even plan."""
    pairs = []
    for seed in range(3):
        x = synthetic.activations(192, 40, 4, seed) * (1 + 5 * seed)
        group = synthetic.group(192, (48 + 24 * seed,), synthetic.plan(4, 6), seed)
        site = replace(group.sites[0], name=f"site{seed}")
        pairs.append((replace(group, input_of=f"in{seed}", sites=(site,)), synthetic.statistics(x)))
    plan = Plan(model="m", windows=ONE, sites={g.sites[0].name: g.sites[0].plan for g, _ in pairs})
    return pairs, plan


@pytest.mark.parametrize("budget", [64, 96, 128])
def test_the_allocation_is_within_the_budget_and_no_worse_than_an_even_one(budget):
    pairs, plan = three_inputs()
    options = Options(budget=budget)
    made = q_dit.planned(plan, pairs, (), options, 0)

    def judged(sizes):
        loss = scales = 0.0
        for (group, seen), size in zip(pairs, sizes, strict=True):
            tried = q_dit.with_size(group, size, options)
            loss += output_error(tried, seen.rows, seen.row_steps, None, None)
            scales += group.sites[0].weight.numel() / size
        return loss, scales

    chosen = [made.sites[g.sites[0].name].weight.group_size for g, _ in pairs]
    even = judged([budgeted(192, budget)] * 3)
    found = judged(chosen)
    assert found[0] <= even[0] * (1 + 1e-9)
    assert found[1] <= even[1] * (1 + 1e-9)
    every = [judged(sizes) for sizes in itertools.product(sizes_for(192), repeat=3)]
    best = min(loss for loss, scales in every if scales <= even[1] * (1 + 1e-9))
    assert found[0] == pytest.approx(best, rel=1e-6)


def test_sizes_divide_every_width_and_odd_widths_keep_whole_rows():
    assert sizes_for(1152) == [32, 64, 96, 128, 192, 288]
    assert budgeted(1152, 128) == 128
    assert sizes_for(100) == [100]
    assert budgeted(64, 32) == 32


def test_an_input_and_its_weights_share_the_size():
    made = Trial("q-dit", synthetic.plan(4, 8), 0, outs=(96, 48))
    sizes = {
        f.group_size for site in made.plan.sites.values() for f in (site.weight, *site.activations)
    }
    assert len(sizes) == 1
    assert "group_size" in made.notes["site0"]


def test_samples_do_not_see_each_other_but_their_tokens_do():
    made = Trial("q-dit", synthetic.plan(8, 8), 0, {"activations": "sample"})
    layer, x = made.layers["site0"], made.fresh[:2]  # [2 samples, rows, c]
    beside = torch.stack([x[0], 1000 * x[1]])
    torch.testing.assert_close(layer(x)[0], layer(beside)[0])
    loud = x.clone()
    loud[0, 0] *= 1000
    quiet = (layer(loud)[0, 1:] - layer(x)[0, 1:]).norm() / layer(x)[0, 1:].norm()
    assert float(quiet) > 0.05
    token = Trial("q-dit", synthetic.plan(8, 8), 0).layers["site0"]
    torch.testing.assert_close(token(loud)[0, 1:], token(x)[0, 1:])


@pytest.mark.parametrize("group_size", [None, 8])
def test_a_samples_scale_is_its_largest_value(group_size):
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    fmt = Format(bits=8, granularity="sample", group_size=group_size)
    rounded = rounded_rows(x, fmt, samples=2)
    for sample in range(2):
        rows = x[3 * sample : 3 * sample + 3]
        for first in range(0, 16, group_size or 16):
            part = rows[:, first : first + (group_size or 16)]
            step = part.abs().max() / 127
            expected = (part / step).round() * step
            got = rounded[3 * sample : 3 * sample + 3, first : first + (group_size or 16)]
            torch.testing.assert_close(got, expected)


def test_it_needs_a_calibration():
    with pytest.raises(BadInput, match="calibrat"):
        Trial("q-dit", synthetic.plan(4, 8), 0, seen=False)
