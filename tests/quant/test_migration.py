"""T1-T5 and T10 of TaQ-DiT: shift and migration of what comes out of a GELU, on synthetic outlier channels."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kernels.int_linear import cpu
from quant.conformance import synthetic
from quant.layer_making import layer_of_codes
from quant.layers import QuantLinear
from quant.migration import MOMENTUM, ShiftedStep, choose, factors, midpoints, outlier_channels
from quant.range_search import searched_grid, searched_range
from quant.rounding import Ranges, rounded_statically
from quant.schema import HIGHEST, LOWEST, Format, SitePlan, Window

ONE = (Window(low=LOWEST, high=HIGHEST),)
A8 = Format(bits=8, symmetric=False, granularity="tensor", static=True)
OUT, CHANNELS = 48, 256


def gelu_rows(seed: int = 0, rows: int = 1500) -> torch.Tensor:
    """[rows, c]: four fifths below zero, a tenth of the channels, always the same, some times as wide."""
    model, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    h = torch.randn(rows, CHANNELS, generator=generator) - 0.85
    wide = torch.randperm(CHANNELS, generator=model)[: CHANNELS // 10]
    h[:, wide] = h[:, wide] * (3 + 4 * torch.rand(len(wide), generator=model)) + 1
    return F.gelu(h, approximate="tanh")


def layer_of(
    step: ShiftedStep, bits: int = 4, backend: str = "simulate", seed: int = 0
) -> QuantLinear:
    """The second linear as it is stored."""
    plan = SitePlan(weight=Format(bits=bits, symmetric=False), activations=(A8,))
    weight = synthetic.weight(OUT, CHANNELS, seed)
    grid = searched_grid(weight * step.m, plan.weight)
    v, m = step.stored()
    return layer_of_codes(
        grid.stored(grid.codes(weight * step.m)),
        torch.linspace(-1, 1, OUT),
        plan=plan,
        windows=ONE,
        channel_scale=None,
        signs=None,
        ranges=Ranges(step.step().detach().reshape(1, 1), torch.tensor([[step.zero]])),
        shift=v,
        migration=m,
        dtype=torch.float32,
        backend=backend,
    )


def error(step: ShiftedStep, g: torch.Tensor) -> float:
    return float((step(g) - g).square().mean().detach())


@pytest.fixture(scope="module")
def g():
    return gelu_rows()


@pytest.fixture(scope="module")
def migrated(g):
    return choose(g, 8, shifts=True, migrates=True)


def plain_error(g: torch.Tensor) -> float:
    scale, zero = searched_range(g, 8)
    rounded = rounded_statically(g, A8, torch.tensor([scale]), torch.tensor([zero]))
    return float((rounded - g).square().mean())


def test_t1_without_rounding_the_second_linear_is_what_it_was(g, migrated):
    weight, bias = synthetic.weight(OUT, CHANNELS, 1), torch.randn(OUT)
    m, v = migrated.m, migrated.v
    folded = F.linear((g - v) / m, weight * m, bias + (weight * m) @ (v / m))
    exact = F.linear(g, weight, bias)
    assert float((folded - exact).abs().max() / exact.abs().max()) < 1e-5
    kept = layer_of_codes(
        weight * m,
        bias,
        plan=SitePlan(weight=None, activations=(None,)),
        windows=ONE,
        channel_scale=None,
        signs=None,
        migration=m.to(torch.uint8),
        dtype=torch.float32,
    )
    assert float((kept(g) - exact).abs().max() / exact.abs().max()) < 1e-5


@pytest.mark.parametrize("bits", [4, 8])
def test_t1_where_nothing_comes_out_of_the_gelu_the_bias_alone_is_left(migrated, bits):
    layer = layer_of(migrated, bits)
    assert torch.allclose(layer(torch.zeros(2, 3, CHANNELS)), layer.bias, atol=1e-5)
    assert torch.equal(migrated(torch.zeros(1, CHANNELS)), torch.zeros(1, CHANNELS)), (
        "zero has a code"
    )


def test_t1_factors_are_whole_and_one_outside_the_outliers(g, migrated):
    outliers = outlier_channels(g.amin(0), g.amax(0))
    assert 0 < int(outliers.sum()) <= CHANNELS // 4
    assert torch.equal(migrated.m, migrated.m.round())
    assert float(migrated.m.min()) == 1
    assert bool((migrated.m[~outliers] == 1).all())
    assert 1 < float(migrated.m.max()) <= 8
    assert float(factors(torch.tensor([90.0]), 1.0, torch.tensor([True]), 300)[0]) == 90


def test_t2_the_shift_centres_every_channel_and_follows_its_batches(g):
    v = midpoints(g)
    shifted = g - v
    assert float((shifted.amax(0) + shifted.amin(0)).abs().max()) < 1e-5
    step = choose(g, 8, shifts=True, migrates=True)
    step.follows, step.v = True, torch.zeros(CHANNELS)
    for t in range(1, 6):
        step(g)
        assert torch.allclose((step.v - v).abs(), MOMENTUM**t * v.abs(), atol=1e-5)
    step.follows, held = False, step.v.clone()
    step(g + 1)
    assert torch.equal(step.v, held), "frozen"


def test_t3_migration_brings_outliers_into_the_range_of_the_others(g):
    v = midpoints(g)
    outliers = outlier_channels(g.amin(0), g.amax(0))
    width = g.amax(0) - g.amin(0)
    step = float(width[~outliers].max()) / 255
    m = factors(width / 255, step, outliers, 255)
    inside = ((g - v) / m).abs().amax(0)
    assert float(inside[outliers].max()) <= float(inside[~outliers].max()) * 1.001
    wider = ShiftedStep(step * 255 / 254, 128, 8, v, m)  # a step more: snapping moves v
    lost = ((wider(g).detach() - g) / m).abs()
    assert float(lost.max()) <= 0.501 * step * 255 / 254, "nothing calibrated is clipped"


def test_t3_it_halves_the_error_of_the_activations_at_least(g, migrated):
    assert error(migrated, g) < 0.5 * plain_error(g)
    fresh = gelu_rows(9)
    assert error(migrated, fresh) < 0.5 * plain_error(fresh)


def test_t4_factors_rounded_to_nearest_would_clip_the_dense_edge(g, migrated):
    """The released code's rounding; on ranges without a margin it can cost more than no migration."""
    v, low, high = midpoints(g), g.amin(0), g.amax(0)
    outliers = outlier_channels(low, high)
    step = float((high - low)[~outliers].max()) / 254
    own = (high - low) / 254

    def lost(m: torch.Tensor) -> float:
        made = ShiftedStep(step, 128, 8, v, m)
        return error(made, g)

    up = lost(factors(own, step, outliers, 255))
    nearest = lost(torch.where(outliers, (own / step).round().clamp(min=1), 1.0))
    down = lost(torch.where(outliers, (own / step).floor().clamp(min=1), 1.0))
    assert factors(torch.tensor([2.2]), 1.0, torch.tensor([True]), 255).tolist() == [3], (
        "never down"
    )
    assert up < nearest < down
    assert nearest > 2 * up


def test_t5_a_shift_makes_a_symmetric_grid_nearly_as_good_as_an_asymmetric_one(g):
    fmt = Format(bits=8, symmetric=True, granularity="tensor", static=True)
    v = midpoints(g)

    def lost(x: torch.Tensor) -> float:
        scale = (x.abs().max() / 127).reshape(1)
        return float((rounded_statically(x, fmt, scale, None) - x).square().mean())

    assert lost(g - v) < 0.5 * lost(g)


def test_whole_shifts_survive_float16_and_are_what_was_learned(g, migrated):
    """The stored layer rounds as the learned quantizer does."""
    layer = layer_of(migrated, 8)
    rows = gelu_rows(3, 64)
    expected = F.linear(migrated(rows) / migrated.m, layer.dequantized_weight(), layer.bias)
    assert torch.allclose(layer(rows), expected.detach(), atol=2e-4)


@pytest.mark.skipif(not cpu.available(), reason="torch without oneDNN's integer linear")
@pytest.mark.parametrize("kind", ["plain", "shift", "migrate"])
def test_t10_integers_give_what_simulation_gives(g, kind):
    step = choose(g, 8, shifts=kind != "plain", migrates=kind == "migrate")
    simulated, integer = layer_of(step), layer_of(step, backend="integer")
    assert integer.why(64)[0] == "integer"
    rows = gelu_rows(5, 64)
    y, z = simulated(rows), integer(rows)
    assert float((y - z).norm() / y.norm()) < 1e-4
    assert "weight" not in integer.prepared, (
        "a shift folds into the bias once, no float weight stays"
    )
    assert float((by_the_book(simulated, rows) - y).norm() / y.norm()) < 1e-4


def by_the_book(layer: QuantLinear, g: torch.Tensor) -> torch.Tensor:
    """Inference as the specification writes it, in whole numbers from what is stored alone:
    y = s s_w (sum n w - z sum w - z_w sum n + C z z_w) + b', n = clip(round(a_c g + (z - a_c v_c)), 0, 255)."""
    packed = layer.packed_weight()
    w, z_w = packed.codes().long(), packed.zeros().long()[:, 0]
    s, z = layer.act_scale[0].double(), int(layer.act_zero[0])
    m = layer.migration.double() if layer.transform.migration else torch.ones(CHANNELS).double()
    v = layer.shift.double() if layer.transform.shift else torch.zeros(CHANNELS).double()
    k = (v / m / s).round()  # snapped
    a = 1 / (s * m)
    n = ((a * g.double()).round() + z - k).clamp(0, 255).long()
    sums = n @ w.T - z * w.sum(1) - n.sum(1, keepdim=True) * z_w + CHANNELS * z * z_w
    values = (w - z_w[:, None]).double() * layer.scale.double()
    return sums * s * layer.scale.double()[:, 0] + layer.bias.double() + values @ (k * s)


def test_folding_the_shift_with_the_exact_weight_would_not_do(g, migrated):
    """b + W v in the place of b + W_q v: most g are near 0 while v is large."""
    layer, weight = layer_of(migrated), synthetic.weight(OUT, CHANNELS, 0)
    exact = F.linear(g, weight, layer.bias)
    right = layer(g)
    v = layer.shift.float()
    wrong = right + (weight @ v) - layer.dequantized_weight() @ (v / migrated.m)
    assert (wrong - exact).square().mean() > 2 * (right - exact).square().mean()
