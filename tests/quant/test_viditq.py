"""V5, V6, V10 of the specification, each beside a broken variant that fails, and the options of the method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dqviz.request import split_options
from quant import balancing
from quant.backend_report import backend_report
from quant.balancing import (
    INCOHERENT,
    STATISTICS,
    Candidate,
    incoherence_profile,
    output_error,
    static_statistic,
    to_be_balanced,
    transform_of,
)
from quant.checkpoint import save_checkpoint
from quant.conformance import synthetic
from quant.conformance.trial import ONE, Trial
from quant.errors import BadInput
from quant.group_layers import layers_of
from quant.method_options import parse_options
from quant.methods import viditq
from quant.methods.base import Group
from quant.methods.viditq import ALPHAS, CARD, Options, planned, quantize_group
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.rounding import WeightCodes, round_to_nearest
from quant.schema import Plan, parse_bits
from quant.transforms import rotation_of, to_weight

SEEDS = range(5)
CHANNELS = 192


def errors_of(kind: str, seed: int, alpha: float | str = "search") -> float:
    """Output error of the W4A8 layer with one kind of transform."""
    x = synthetic.activations(CHANNELS, 64, 6, seed)
    seen = synthetic.statistics(x)
    group = synthetic.group(CHANNELS, (96,), synthetic.plan(4, 8), seed)
    made = quantize_group(group, seen, Options(transform=kind, alpha=alpha), seed)[0]  # type: ignore[arg-type]
    return output_error(group, seen.rows, seen.row_steps, made.channel_scale, made.signs)


def test_v5_scale_and_rotation_beat_either_and_both_beat_plain():
    mean = {
        k: sum(errors_of(k, s) for s in SEEDS) / len(SEEDS)
        for k in ("plain", "scale", "rotate", "both")
    }
    assert mean["both"] <= min(mean["scale"], mean["rotate"])
    assert max(mean["scale"], mean["rotate"]) <= mean["plain"]


def test_v5_can_fail(monkeypatch):
    """A scale that is inverted makes it worse, with a rotation behind it too."""
    right = balancing.channel_scale
    monkeypatch.setattr(balancing, "channel_scale", lambda *given: 1 / right(*given))
    both, rotate = errors_of("both", 0, alpha=0.5), errors_of("rotate", 0)
    assert both > 1.2 * rotate


@pytest.mark.parametrize("seed", SEEDS)
def test_choosing_is_never_worse_than_any_one_kind_on_calibration_rows(seed):
    chosen = errors_of("choose", seed)
    assert chosen <= min(errors_of(k, seed) for k in ("plain", "scale", "rotate", "both")) * (
        1 + 1e-6
    )


def beaten_alphas(kind: str, seed: int) -> list[float]:
    """The fixed alphas that leave less error on calibration rows than what the search chose."""
    seen = synthetic.statistics(synthetic.activations(CHANNELS, 64, 6, seed))
    group = synthetic.group(CHANNELS, (96, 48), synthetic.plan(4, 8), seed)
    found = quantize_group(group, seen, Options(transform=kind), seed)[0]  # type: ignore[arg-type]
    rows, steps = seen.rows, seen.row_steps
    best = output_error(group, rows, steps, found.channel_scale, found.signs)
    better = []
    for alpha in ALPHAS:
        fixed = Candidate(transform=kind, alpha=alpha, act_stat="max")  # type: ignore[arg-type]
        way = transform_of(fixed, group, seen, seed)
        if output_error(group, rows, steps, *way) < best - 1e-12:
            better.append(alpha)
    return better


@pytest.mark.parametrize("kind", ["scale", "both"])
@pytest.mark.parametrize("seed", SEEDS)
def test_v6_the_search_is_no_worse_than_any_fixed_alpha(kind, seed):
    assert beaten_alphas(kind, seed) == []


def test_v6_can_fail_a_search_that_looks_at_the_weight_alone(monkeypatch):
    """Rows of ones hide what the activations lose."""
    right = balancing.output_error
    blind = lambda group, rows, *others: right(group, torch.ones_like(rows), *others)  # noqa: E731
    monkeypatch.setattr(balancing, "output_error", blind)
    assert beaten_alphas("scale", 0)


PER_RANGE = {"transform": "scale", "balance": "timestep_aware"}


def calibrated_error(seed: int, options: dict[str, object]) -> float:
    """Of a W4A8 layer on the rows that its scales come from, mean over steps."""
    trial = Trial("viditq", synthetic.plan(4, 8), seed, options)
    return trial.error(trial.calibrated)


def per_range_over_one(ranges: int) -> list[float]:
    """Error with a scale per range, over that with one for all steps; alpha searched in both."""
    return [
        calibrated_error(seed, {**PER_RANGE, "ranges": ranges})
        / calibrated_error(seed, {"transform": "scale"})
        for seed in SEEDS
    ]


@pytest.mark.parametrize("ranges", [2, 3])
def test_v6_a_scale_per_range_leaves_no_more_error_than_one_for_all_steps(ranges):
    assert max(per_range_over_one(ranges)) <= 1


def test_v6_per_range_can_fail_scales_in_the_wrong_range(monkeypatch):
    right = Group.calibrated
    monkeypatch.setattr(Group, "calibrated", lambda self, total: right(self, total)[::-1])
    assert max(per_range_over_one(2)) > 1.05


def test_every_range_has_integers_of_its_own_and_they_are_stored():
    """Honest sizes: two ranges hold two weights."""
    trial = Trial("viditq", synthetic.plan(4, 8), 0, {**PER_RANGE, "ranges": 2})
    layer = trial.layers["site0"]
    assert layer.transform.per_window
    assert layer.codes.shape[0] == 2
    assert not torch.equal(layer.codes[0], layer.codes[1])
    assert not torch.equal(layer.channel_scale[0], layer.channel_scale[1])
    one = Trial("viditq", synthetic.plan(4, 8), 0, {"transform": "scale"}).layers["site0"]
    assert layer.codes.numel() == 2 * one.codes.numel()
    assert len(trial.plan.windows) == 2


def test_ranges_need_one_kind_of_transform_and_a_calibration():
    with pytest.raises(BadInput, match="transform=scale"):
        Options.parse({"balance": "timestep_aware"}, "options of viditq")
    with pytest.raises(BadInput, match="run calibrate first"):
        Trial("viditq", synthetic.plan(4, 8), 0, PER_RANGE, seen=False)


def test_every_step_counts_alike():
    """A step with inputs a thousand times larger does not decide for the others."""
    x = synthetic.activations(CHANNELS, 16, 2, 0).reshape(2, -1, CHANNELS)
    group = synthetic.group(CHANNELS, (96,), synthetic.plan(4, 4), 0)
    rows = torch.cat([x[0], 1000 * x[1]])
    steps = torch.tensor([7, 3]).repeat_interleave(x.shape[1])
    alone = [output_error(group, part, torch.zeros(len(part)), None, None) for part in x]
    assert output_error(group, rows, steps, None, None) == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_v10_the_weight_is_rounded_once_after_scale_and_rotation():
    x = synthetic.activations(CHANNELS, 32, 4, 0)
    group = synthetic.group(CHANNELS, (64,), synthetic.plan(4, 8), 0)
    made = quantize_group(group, synthetic.statistics(x), Options(transform="both", alpha=0.3), 0)[
        0
    ]
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
    x = synthetic.activations(CHANNELS, 32, 4, 0)
    group = synthetic.group(CHANNELS, (64, 64, 64), synthetic.plan(4, 8), 0)
    made = quantize_group(group, synthetic.statistics(x), Options(transform="both"), 0)
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
    assert float(static_statistic(synthetic.statistics(x), name)) == pytest.approx(expected[name])


def test_statistics_are_asked_for_when_they_are_needed():
    group = synthetic.group(CHANNELS, (32,), synthetic.plan(4, 8), 0)
    with pytest.raises(BadInput, match="calibrat"):
        quantize_group(group, None, Options(), 0)
    assert quantize_group(group, None, Options(transform="rotate"), 0)[0].signs is not None


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_is_a_share(alpha):
    with pytest.raises(BadInput, match="alpha"):
        Options.parse({"alpha": alpha}, "options of viditq")


def profile_of(peaks: tuple[float, ...]) -> Tensor:
    """Incoherence over the steps where one channel of a Gaussian input is this much larger."""
    x = torch.randn(len(peaks), 64, CHANNELS, generator=torch.Generator().manual_seed(1))
    x[:, :, 5] *= torch.tensor(peaks)[:, None]
    return incoherence_profile(synthetic.statistics(x))


@pytest.mark.parametrize(
    ("peaks", "balanced"),
    [
        ((1.0, 1.0, 1.0, 1.0), False),
        ((20.0, 20.0, 20.0, 20.0), True),  # always incoherent
        ((20.0, 1.0, 1.0, 1.0), True),  # at one step alone
        ((7.0, 1.0, 1.0, 1.0), True),  # below the limit, and changing
    ],
)
def test_inputs_are_balanced_where_they_are_incoherent_or_change(peaks, balanced):
    assert to_be_balanced(profile_of(peaks)) == balanced


def test_the_mean_over_steps_would_miss_what_one_step_has():
    """The broken variant of the rule above."""
    profile = profile_of((20.0, 1.0, 1.0, 1.0))
    assert float(profile.mean()) < INCOHERENT < float(profile.max())


def test_choice_by_incoherence_leaves_quiet_inputs_plain():
    group = synthetic.group(CHANNELS, (96,), synthetic.plan(4, 8), 0)
    options = Options(transform="incoherence")
    quiet = torch.randn(4, 64, CHANNELS, generator=torch.Generator().manual_seed(3))
    made = quantize_group(group, synthetic.statistics(quiet), options, 0)[0]
    assert made.channel_scale is None
    assert made.signs is None
    assert made.notes["transform"] == "plain"
    assert made.notes["incoherence"] < INCOHERENT
    loud = synthetic.statistics(synthetic.activations(CHANNELS, 64, 6, 0))
    made = quantize_group(group, loud, options, 0)[0]
    assert made.notes["transform"] == "both"
    assert made.notes["incoherence"] > INCOHERENT
    lenient = Options(transform="incoherence", psi=1000, change=1000)
    assert quantize_group(group, loud, lenient, 0)[0].notes["transform"] == "plain"
    strict = Options(transform="incoherence", psi=1, change=1000)
    assert (
        quantize_group(group, synthetic.statistics(quiet), strict, 0)[0].notes["transform"]
        == "both"
    )


@pytest.mark.parametrize("preset", [preset.name for preset in CARD.presets])
def test_presets_are_options_that_work(preset):
    (card,) = (p for p in CARD.presets if p.name == preset)
    assert card.source in ("paper", "read in released code", "second-hand", "ours")
    bits = parse_bits(card.bits)
    options = parse_options("viditq", {"preset": preset})
    for name, value in card.options.items():
        assert getattr(options, name) == value
    trial = Trial("viditq", synthetic.plan(bits.weight, bits.activation), 0, card.options)
    assert trial.error() < 0.2


def test_a_preset_and_what_it_sets_are_not_mixed():
    assert parse_options("viditq", {"preset": "wan", "fold": "all"}).fold == "all"
    with pytest.raises(BadInput, match=r"preset=wan sets alpha to 0.4335, and alpha=0.2"):
        parse_options("viditq", {"preset": "wan", "alpha": 0.2})
    with pytest.raises(BadInput, match="unknown preset of viditq 'want'; nearest: wan"):
        parse_options("viditq", {"preset": "want"})
    with pytest.raises(BadInput, match="unknown option of rtn 'preset'"):
        parse_options("rtn", {"preset": "wan"})
    assert split_options(("rtn", "viditq"), {"preset": "wan"}) == ({}, {"preset": "wan"})


@pytest.mark.parametrize(
    ("width", "said"), [(1152, "12 x 12 x 8"), (1504, "in blocks of 32"), (1028, "none")]
)
def test_how_a_width_is_rotated_is_said(width, said):
    """1504 = 47 x 32 has no Hadamard matrix here, 1028 = 257 x 4 not even blocks worth having."""
    assert rotation_of(width) == said
    group = synthetic.group(width, (32,), synthetic.plan(4, 8), 0)
    rotated = Options(transform="rotate")
    if said != "none":
        assert quantize_group(group, None, rotated, 0)[0].notes["rotation"] == said
        return
    with pytest.raises(BadInput, match="no Hadamard rotation here; take transform=scale"):
        quantize_group(group, None, rotated, 0)
    seen = synthetic.statistics(synthetic.activations(width, 8, 2, 0))
    assert quantize_group(group, seen, Options(), 0)[0].signs is None, "others are left to choose"


def batch_output(scales: str, x: Tensor) -> Tensor:
    """A W8A8 layer's output of a batch x [b, n, i]."""
    seen = synthetic.statistics(synthetic.activations(CHANNELS, 16, 2, 0))
    site_plan = synthetic.plan(8, 8)
    group = synthetic.group(CHANNELS, (96,), site_plan, 0)
    plan = Plan(model="trial", windows=ONE, sites={"site0": site_plan})
    options = Options(transform="plain", scales=scales)  # type: ignore[arg-type]
    plan = planned(plan, [(group, seen)], (), options, 0)
    group = replace(group, sites=(replace(group.sites[0], plan=plan.sites["site0"]),))
    made = layers_of(viditq, group, seen, plan, options, 0, dtype=torch.float32)
    return made["site0"][0](x)


def test_what_scales_shared_by_a_batch_cost():
    """V7 is violated by what the preprint's code does, and its cfg_split mends half of that."""
    quiet = torch.randn(2, 16, CHANNELS, generator=torch.Generator().manual_seed(0))
    cond = torch.cat([quiet[:1], 10 * quiet[1:]])  # one sample louder than the other
    batch = torch.cat([cond, 10 * cond])  # and a branch louder than the other
    exact = quiet[:1] @ synthetic.weight(96, CHANNELS, 0).T
    error = {}
    for scales in ("row", "branch", "batch"):
        error[scales] = float((batch_output(scales, batch)[:1] - exact).norm() / exact.norm())
    assert error["row"] < error["branch"] / 4 < error["batch"] / 16
    for scales, apart, halves_apart in (
        ("row", True, True),
        ("branch", False, True),
        ("batch", False, False),
    ):
        first = batch_output(scales, batch)[:2]
        beside = torch.cat([cond[:1], 1000 * cond[1:]])
        others = batch_output(scales, torch.cat([beside, 10 * cond]))[:1]
        assert torch.equal(first[:1], others) == apart, scales
        louder = batch_output(scales, torch.cat([cond, 50 * cond]))[:2]
        assert torch.equal(first, louder) == halves_apart, scales


def test_scales_that_samples_share_are_simulated_only(model, seen, tmp_path):
    plan = uniform_plan(model, parse_bits("w8a8"))
    options = {"transform": "plain", "scales": "batch"}
    with pytest.raises(BadInput, match="only simulated, not integer"):
        quantize(model, "viditq", plan, options, seen, backend="integer")
    made = quantize(model, "viditq", plan, options, seen)
    assert backend_report(made.transformer, 64).evidence == "simulated"
    with pytest.raises(BadInput, match="not for checkpoints"):
        save_checkpoint(made, model, tmp_path / "c")
    with pytest.raises(BadInput, match="integer rows, not fp8"):
        quantize(model, "viditq", uniform_plan(model, parse_bits("fp8")), options, seen)
    branch = quantize(model, "viditq", plan, {**options, "scales": "branch"}, seen)
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with pytest.raises(BadInput, match="guidance above 1"), torch.no_grad():
        branch.transformer(x, timestep=torch.full((3,), 300), class_labels=torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    "given", [{"ranges": 4}, {"psi": 3.0}, {"change": 2.0, "transform": "both"}]
)
def test_an_option_without_effect_is_an_error(given):
    with pytest.raises(BadInput, match="does nothing without"):
        parse_options("viditq", given)
