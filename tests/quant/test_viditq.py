"""V5, V6, V10 of the specification, and the options of the method."""

from __future__ import annotations

import pytest
import torch

from quant.balancing import STATISTICS, Candidate, output_error, static_statistic, transform_of
from quant.errors import BadInput
from quant.methods.viditq import ALPHAS, Options, quantize_group
from quant.rounding import WeightCodes, round_to_nearest
from quant.transforms import to_weight

from . import heavy

SEEDS = range(5)
CHANNELS = 192


def errors_of(kind: str, seed: int) -> float:
    """Output error of the W4A8 layer with one kind of transform, alpha searched."""
    x = heavy.activations(CHANNELS, 64, 6, seed)
    seen = heavy.statistics(x)
    group = heavy.group(CHANNELS, (96,), heavy.plan(4, 8), seed)
    made = quantize_group(group, seen, Options(transform=kind), seed)[0]  # type: ignore[arg-type]
    return output_error(group, seen.rows, seen.row_steps, made.channel_scale, made.signs)


def test_v5_scale_and_rotation_beat_either_and_both_beat_plain():
    mean = {
        k: sum(errors_of(k, s) for s in SEEDS) / len(SEEDS)
        for k in ("plain", "scale", "rotate", "both")
    }
    assert mean["both"] <= min(mean["scale"], mean["rotate"])
    assert max(mean["scale"], mean["rotate"]) <= mean["plain"]


@pytest.mark.parametrize("seed", SEEDS)
def test_choosing_is_never_worse_than_any_one_kind_on_calibration_rows(seed):
    chosen = errors_of("choose", seed)
    assert chosen <= min(errors_of(k, seed) for k in ("plain", "scale", "rotate", "both")) * (
        1 + 1e-6
    )


@pytest.mark.parametrize("kind", ["scale", "both"])
@pytest.mark.parametrize("seed", SEEDS)
def test_v6_the_search_is_no_worse_than_any_fixed_alpha(kind, seed):
    x = heavy.activations(CHANNELS, 64, 6, seed)
    seen = heavy.statistics(x)
    group = heavy.group(CHANNELS, (96, 48), heavy.plan(4, 8), seed)
    found = quantize_group(group, seen, Options(transform=kind), seed)[0]
    rows, steps = seen.rows, seen.row_steps
    best = output_error(group, rows, steps, found.channel_scale, found.signs)
    for alpha in ALPHAS:
        fixed = Candidate(transform=kind, alpha=alpha, act_stat="max")
        way = transform_of(fixed, group, seen, seed)
        assert best <= output_error(group, rows, steps, *way) + 1e-12


def test_every_step_counts_alike():
    """A step with inputs a thousand times larger does not decide for the others."""
    x = heavy.activations(CHANNELS, 16, 2, 0).reshape(2, -1, CHANNELS)
    group = heavy.group(CHANNELS, (96,), heavy.plan(4, 4), 0)
    rows = torch.cat([x[0], 1000 * x[1]])
    steps = torch.tensor([7, 3]).repeat_interleave(x.shape[1])
    alone = [output_error(group, part, torch.zeros(len(part)), None, None) for part in x]
    assert output_error(group, rows, steps, None, None) == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_v10_the_weight_is_rounded_once_after_scale_and_rotation():
    x = heavy.activations(CHANNELS, 32, 4, 0)
    group = heavy.group(CHANNELS, (64,), heavy.plan(4, 8), 0)
    made = quantize_group(group, heavy.statistics(x), Options(transform="both", alpha=0.3), 0)[0]
    assert isinstance(made.weight, WeightCodes)
    folded = to_weight(group.sites[0].weight, made.channel_scale, made.signs)
    once = round_to_nearest(folded, group.sites[0].plan.weight)
    assert torch.equal(made.weight.dequantize(4), once.dequantize(4))
    scaled = round_to_nearest(
        to_weight(group.sites[0].weight, made.channel_scale, None), group.sites[0].plan.weight
    )
    twice = round_to_nearest(
        to_weight(scaled.dequantize(4), None, made.signs), group.sites[0].plan.weight
    )
    error_once = (once.dequantize(4) - folded).norm()
    assert (twice.dequantize(4) - folded).norm() > 1.3 * error_once, (
        "rounding twice is visibly worse"
    )


def test_q_k_v_share_one_transform():
    x = heavy.activations(CHANNELS, 32, 4, 0)
    group = heavy.group(CHANNELS, (64, 64, 64), heavy.plan(4, 8), 0)
    made = quantize_group(group, heavy.statistics(x), Options(transform="both"), 0)
    assert all(torch.equal(m.channel_scale, made[0].channel_scale) for m in made)
    assert all(torch.equal(m.signs, made[0].signs) for m in made)


@pytest.mark.parametrize("name", STATISTICS)
def test_channel_statistics(name):
    x = torch.zeros(3, 2, 1)
    x[:, 0, 0] = torch.tensor([4.0, 2.0, -1.0])
    expected = {
        "first": 4.0,
        "max": 4.0,
        "mean": 7 / 3,
        "ema": 0.95 * (0.95 * 4 + 0.05 * 2) + 0.05 * 1,
    }
    assert float(static_statistic(heavy.statistics(x), name)) == pytest.approx(expected[name])


def test_statistics_are_asked_for_when_they_are_needed():
    group = heavy.group(CHANNELS, (32,), heavy.plan(4, 8), 0)
    with pytest.raises(BadInput, match="calibrat"):
        quantize_group(group, None, Options(), 0)
    assert quantize_group(group, None, Options(transform="rotate"), 0)[0].signs is not None


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_is_a_share(alpha):
    with pytest.raises(BadInput, match="alpha"):
        Options.parse({"alpha": alpha}, "options of viditq")
