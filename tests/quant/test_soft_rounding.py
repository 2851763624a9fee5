"""Learned rounding, range search and learned steps, each by what it promises."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from quant.conformance import synthetic
from quant.errors import BadInput
from quant.learned_steps import LearnedStep, Mixing
from quant.range_search import histogram, searched_grid, searched_range
from quant.rounding import grid_of
from quant.schema import Format
from quant.soft_rounding import SoftWeight, beta_at, logits_of, rectified_sigmoid, undecidedness

FORMATS = [
    Format(bits=4, symmetric=False),
    Format(bits=3, symmetric=True),
    Format(bits=4, symmetric=False, granularity="group", group_size=32),
]


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_before_the_first_step_soft_weights_are_the_clipped_ones(fmt):
    """T9, of whatever was folded into the weight."""
    w = synthetic.weight(24, 64, 0) * torch.arange(1, 65).remainder(3).add(1)
    soft = SoftWeight(w, searched_grid(w, fmt))
    grid = soft.grid
    ends = torch.tensor([0 if grid.zero is not None else 1, 2**fmt.bits - 1], dtype=torch.uint8)
    low, high = (grid.values(end.expand(24, 64)) for end in ends)
    assert torch.allclose(soft(), w.maximum(low).minimum(high), atol=1e-6)
    assert torch.equal(soft.stored().dequantize(fmt.bits), soft.hard())
    nearest = grid.values(grid.codes(w))
    assert (soft.hard() != nearest).float().mean() < 0.01, "ties alone differ"


def test_a_share_and_its_logit():
    share = torch.linspace(0, 0.999, 50)
    assert torch.allclose(rectified_sigmoid(logits_of(share)), share, atol=1e-5)
    assert float(undecidedness(torch.tensor([0.0, 1.0]), 2.0)) == 0
    assert float(undecidedness(torch.tensor([0.5]), 20.0)) == 1


def test_rounding_is_free_at_first_and_then_pressed_harder():
    betas = [beta_at(k, 100) for k in range(100)]
    assert betas[:20] == [None] * 20
    assert betas[20] == 20
    pressed = [b for b in betas if b is not None]
    assert pressed == sorted(pressed, reverse=True)
    assert 2 < pressed[-1] < 2.5


def test_learning_leaves_less_output_error_than_nearest_and_decides():
    """T6 and T7 on one layer: the hard error, never the soft one, which starts at nothing."""
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(12, 48, generator=generator)
    x = torch.randn(512, 12, generator=generator) @ mixing + 0.3 * torch.randn(
        512, 48, generator=generator
    )
    fresh = torch.randn(256, 12, generator=generator) @ mixing
    w = synthetic.weight(32, 48, 1)
    fmt = Format(bits=3, symmetric=False)
    soft = SoftWeight(w, searched_grid(w, fmt))
    before = (F.linear(fresh, soft.hard() - w)).square().mean()
    adam, soft_losses, steps = torch.optim.Adam([soft.a], lr=5e-2), [], 400
    for k in range(steps):
        rows = x[torch.randint(0, 512, (64,), generator=generator)]
        loss = F.linear(rows, soft() - w).square().sum(0).mean()
        soft_losses.append(float(loss.detach()))
        beta = beta_at(k, steps)
        if beta is not None:
            loss = loss + 0.05 * undecidedness(soft.h(), beta)
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert F.linear(fresh, soft.hard() - w).square().mean() < 0.9 * before
    assert soft.undecided() < 0.03
    left = soft().detach() - w
    gap = F.linear(fresh, left).square().mean() / F.linear(fresh, soft.hard() - w).square().mean()
    assert abs(float(gap) - 1) < 0.2
    free = soft_losses[60:80]  # before rounding is pressed
    assert sum(soft_losses[-20:]) > 2 * sum(free), "so the soft loss is no measure of success"


def test_floating_formats_have_no_up_and_down():
    w = synthetic.weight(8, 32, 0)
    with pytest.raises(BadInput, match="integers"):
        SoftWeight(w, grid_of(w, Format.of_kind("fp8")))
    with pytest.raises(BadInput, match="per row or group"):
        searched_grid(w, Format.of_kind("mxfp4"))


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_a_searched_grid_loses_less_than_the_one_that_spans_all(fmt):
    w = synthetic.weight(48, 96, 2)

    def lost(grid):
        return (grid.values(grid.codes(w)) - w).abs().pow(2.4).sum(1)

    searched, spanning = lost(searched_grid(w, fmt)), lost(grid_of(w, fmt))
    assert (searched <= spanning * 1.02).all()
    assert searched.sum() < 0.95 * spanning.sum()


def test_the_search_of_a_tensor_is_near_the_one_over_everything():
    """Against every size and every zero, on the values themselves."""
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0)).exp() - 1.2

    def lost(scale, zero):
        q = ((x / scale).round() + zero).clamp(0, 15) - zero
        return float((q * scale - x).abs().pow(2.4).sum())

    whole = float(x.max() - x.min())
    least = min(lost(whole * j / 100 / 15, z) for j in range(1, 101) for z in range(16))
    assert lost(*searched_range(x, 4)) <= 1.03 * least
    scale, zero = searched_range(x.abs(), 8, one_sided=True)
    assert zero == 0
    assert 0 < scale <= float(x.abs().max()) / 255 * 1.001


def test_a_histogram_in_parts_is_that_of_the_whole():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    for one, other in zip(histogram(x), histogram([x[:300], x[300:]]), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_ranges_of_mixed_steps_hold_in_every_step():
    """T13: the worst step loses less than with the range of any single one."""
    generator = torch.Generator().manual_seed(5)
    steps = [
        torch.randn(4000, generator=generator) * size + shift
        for size, shift in ((0.5, 2.5), (1.0, 0.0), (0.7, -2.0))
    ]

    def worst(scale, zero):
        def lost(x):
            q = ((x / scale).round() + zero).clamp(0, 255) - zero
            return float((q * scale - x).square().mean())

        return max(lost(x) for x in steps)

    mixed = worst(*searched_range(torch.cat(steps), 8))
    assert all(mixed < worst(*searched_range(x, 8)) for x in steps)


def test_a_step_is_learned_towards_less_error():
    x = torch.randn(4000, generator=torch.Generator().manual_seed(2))
    step = LearnedStep(float(x.abs().max()) / 7, 8, 4)
    adam, errors = torch.optim.Adam([step.factor], lr=1e-2), []
    for _ in range(150):
        loss = (step(x) - x).square().mean()
        errors.append(float(loss.detach()))
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert errors[-1] < 0.7 * errors[0]
    assert (step.step() > 0).all()


def test_mixing_keeps_its_share_and_repeats_with_its_seed():
    x = torch.randn(20000)
    step = LearnedStep(0.5, 8, 4)

    def drawn(seed):
        step.mixing = Mixing(torch.Generator().manual_seed(seed), 0.5)
        return step(x)

    changed = (drawn(1) != x).float().mean()
    assert 0.45 < float(changed) < 0.55
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    step.mixing = None
    assert float((step(x) != x).float().mean()) > 0.99
    step.active = False
    assert torch.equal(step(x), x)
