"""V7, V9, V11, V14 of the specification, each beside a broken variant: the quantized layer itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import kernels
from quant.conformance import synthetic
from quant.layer_making import layer_of_codes
from quant.layers import QuantLinear
from quant.rounding import WeightCodes, grid_of, round_to_nearest
from quant.schema import Format, SitePlan, Window
from quant.step import at
from quant.transforms import random_signs, to_weight

ONE = (Window(low=-1e9, high=1e9),)
TWO = (Window(low=500, high=1e9), Window(low=-1e9, high=500))
FP8 = SitePlan(weight=Format(kind="fp8"), activations=(Format(kind="fp8"),))


def make(
    weight_bits=4,
    act_bits=8,
    *,
    channels=96,
    outs=48,
    windows=ONE,
    plan=None,
    rotate=False,
    backend=None,
    group=None,
):
    """A seeded layer; returns it with the weight that it was made from."""
    w = synthetic.weight(outs, channels, seed=7)
    bias = torch.linspace(-1, 1, outs)
    if plan is None:
        fmt = Format(
            bits=weight_bits,
            symmetric=False,
            granularity="group" if group else "row",
            group_size=group,
        )
        act = None if act_bits is None else Format(bits=act_bits)
        plan = SitePlan(weight=fmt, activations=(act,) * len(windows))
    signs = random_signs(channels, 0, "x") if rotate else None
    folded = to_weight(w, None, signs)
    codes = folded if plan.weight is None else round_to_nearest(folded, plan.weight)
    layer = layer_of_codes(
        codes,
        bias,
        plan=plan,
        windows=windows,
        channel_scale=None,
        signs=signs,
        dtype=torch.float32,
        backend=backend,
    )
    return layer, w, bias


def inputs(rows=32, channels=96, seed=0):
    return torch.randn(2, rows, channels, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("group", [None, 32])
def test_output_is_the_product_of_what_the_stored_integers_stand_for(rotate, group):
    layer, _, bias = make(rotate=rotate, group=group)
    x = inputs()
    rows = layer.input_transform(x.reshape(-1, 96))
    codes = kernels.quantize_rows(rows, 8)
    expected = codes.dequantize().double() @ layer.dequantized_weight().double().T + bias.double()
    got = layer(x).reshape(-1, 48).double()
    assert float((got - expected).norm() / expected.norm()) <= 1e-6


def test_v7_rows_do_not_see_each_other():
    layer, _, _ = make(rotate=True)
    x = inputs()
    alone = torch.cat([layer(x[:1]), layer(x[1:])])
    loud = torch.cat([x, 1000 * x])
    order = torch.tensor([3, 1, 0, 2])
    codes = kernels.quantize_rows(layer.input_transform(x.reshape(-1, 96)), 8)
    beside = kernels.quantize_rows(layer.input_transform(loud.reshape(-1, 96)), 8)
    assert torch.equal(codes.codes, beside.codes[: len(codes.codes)])
    assert torch.equal(codes.scale, beside.scale[: len(codes.scale)])
    torch.testing.assert_close(layer(x), alone, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer(loud[order])[2:3], layer(x[:1]), rtol=1e-6, atol=1e-6)


def test_v7_a_scale_shared_by_the_batch_does_see_the_others():
    plan = SitePlan(
        weight=Format(bits=4, symmetric=False), activations=(Format(bits=8, granularity="tensor"),)
    )
    layer, _, _ = make(plan=plan)
    x = inputs()
    quiet, loud = layer(x[:1]), layer(torch.cat([x[:1], 1000 * x[1:]]))[:1]
    assert float((quiet - loud).norm() / quiet.norm()) > 0.05


@pytest.mark.parametrize(("weight_bits", "act_bits"), [(4, 8), (3, 6), (7, 8), (2, 4)])
def test_v9_integer_arithmetic_equals_simulation(weight_bits, act_bits):
    x = inputs(rows=33)
    simulated, _, _ = make(weight_bits, act_bits, backend="simulate", rotate=True)
    integer, _, _ = make(weight_bits, act_bits, backend="integer", rotate=True)
    assert integer.why(66)[0] == "integer"
    a, b = simulated(x), integer(x)
    assert float((a - b).norm() / a.norm()) <= 1e-6
    half = simulated(x.half()), integer(x.half())
    assert half[1].dtype == torch.float16
    assert float((half[0].float() - half[1].float()).norm() / a.norm()) <= 1e-3


def test_v9_can_fail_zero_points_that_are_left_out():
    """The correction for the zero points of the weight is what integer arithmetic needs."""
    x = inputs(rows=33)
    simulated, _, _ = make(4, 8, backend="simulate")
    integer, _, _ = make(4, 8, backend="integer")
    integer.zero = torch.full_like(integer.zero, 8)
    a, b = simulated(x), integer(x)
    assert float((a - b).norm() / a.norm()) > 0.01


def gain_from_bits(four: QuantLinear, eight: QuantLinear) -> float:
    """Error with 4 bits over that with 8."""
    x = inputs()
    _, w, bias = make(8)
    exact = F.linear(x, w, bias)
    coarse, fine = (float((layer(x) - exact).norm()) for layer in (four, eight))
    return coarse / fine


def test_v11_bits_change_codes_output_and_size():
    four, eight = make(4)[0], make(8)[0]
    assert four.codes.numel() * 2 == eight.codes.numel()
    assert gain_from_bits(four, eight) > 4


def test_v11_can_fail_an_8_bit_layer_that_keeps_the_4_bit_grid():
    """As in the preprint's released code, where only the number of levels follows the bits."""
    four, w, bias = make(4)
    eight = make(8)[0]
    grid = grid_of(w, Format(bits=4, symmetric=False))
    codes = (w / grid.scale).round() + grid.zero
    stale = WeightCodes(codes.clamp(0, 255).to(torch.uint8), grid.scale, grid.zero.to(torch.uint8))
    layer = layer_of_codes(
        stale,
        bias,
        plan=eight.plan,
        windows=ONE,
        channel_scale=None,
        signs=None,
        dtype=torch.float32,
    )
    assert gain_from_bits(four, layer) < 1.1


def test_v11_windows_switch_the_activation_bits_at_run_time():
    plan = SitePlan(
        weight=Format(bits=8, symmetric=False), activations=(Format(bits=8), Format(bits=2))
    )
    both, _, _ = make(windows=TWO, plan=plan)
    x = inputs()
    for timestep, bits in ((999.0, 8), (500.0, 8), (499.999, 2), (0.0, 2)):
        only, _, _ = make(8, bits)
        with at(timestep):
            assert torch.equal(both(x), only(x)), f"t={timestep} uses {bits} bits"


def test_a_windowed_layer_outside_its_transformer_says_so():
    plan = SitePlan(weight=None, activations=(Format(bits=8), Format(bits=4)))
    layer, _, _ = make(windows=TWO, plan=plan)
    with pytest.raises(RuntimeError, match="timestep is unknown"):
        layer(inputs())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "row",
    [
        torch.zeros(96),
        -torch.linspace(0.1, 5, 96),
        torch.full((96,), 3.0),
        torch.cat([torch.tensor([1e4]), torch.linspace(-1, 1, 95)]),
    ],
    ids=["zero", "negative", "constant", "extreme"],
)
def test_v14_awkward_rows_stay_finite_and_within_half_a_step(bits, row):
    x = torch.stack([row, inputs()[0, 0]])
    for symmetric in (True, False):
        made = kernels.quantize_rows(x, bits, symmetric)
        error = (made.dequantize() - x).abs()
        assert bool(torch.isfinite(made.dequantize()).all())
        assert bool((error <= made.scale / 2 * (1 + 1e-5) + 1e-12).all())
    layer, _, _ = make(4, bits)
    assert bool(torch.isfinite(layer(x)).all())


def test_v14_can_fail_one_floor_for_all_rows():
    """As in the preprint's released code: where any scale is tiny, all become the floor."""
    x = torch.stack([torch.zeros(96), inputs()[0, 0]])
    made = kernels.quantize_rows(x, 8)
    scale = made.scale if float(made.scale.min()) > 1e-6 else torch.full_like(made.scale, 1e-8)
    codes = (x / scale).round().clamp(-127, 127)
    assert bool(((codes * scale - x).abs() > made.scale / 2).any())


class CountedRotations:
    """How often the input of some layers is rotated."""

    def __init__(self, monkeypatch) -> None:
        self.calls = 0
        right = kernels.hadamard

        def counted(x, *args, **kwargs):
            self.calls += 1
            return right(x, *args, **kwargs)

        monkeypatch.setattr("quant.transforms.hadamard", counted)


def test_sites_that_read_one_tensor_rotate_it_once(monkeypatch):
    first, second = make(rotate=True)[0], make(8, rotate=True)[0]
    x = inputs()
    apart = first(x), second(x)
    second.share_basis("first", first)
    counted = CountedRotations(monkeypatch)
    y = x.clone()
    assert torch.equal(first(y), apart[0])
    assert torch.equal(second(y), apart[1])
    assert counted.calls == 1
    assert torch.equal(second(2 * x), make(8, rotate=True)[0](2 * x)), "another tensor"
    y.mul_(2)
    assert torch.equal(first(y), first(2 * x)), "the same one, written to since"
    with torch.inference_mode():
        z = x.clone()
        first(z)
        z.mul_(3)
        assert torch.equal(first(z), first(3 * x)), "where nobody tells"


def pair(**kwargs):
    """Two layers that read one tensor in one basis; their codes are shared where formats agree."""
    first, second = make(**kwargs)[0], make(8, **kwargs)[0]
    second.share_basis("first", first)
    second.share_codes(first)
    return first, second


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("backend", ["simulate", "integer"])
def test_sites_that_read_one_tensor_make_its_codes_once(monkeypatch, rotate, symmetric, backend):
    acts = (Format(bits=7, symmetric=symmetric),)
    plan = SitePlan(weight=Format(bits=4, symmetric=False), activations=acts)
    how = {"rotate": rotate, "plan": plan, "backend": backend}
    apart = [make(**how)[0] for _ in range(3)]
    together = [make(**how)[0] for _ in range(3)]
    for layer in together[1:]:
        layer.share_basis("first", together[0])
        layer.share_codes(together[0])
    right, seen = kernels.quantize_rows.quantize_rows, []

    def counted(x, *args, **kwargs):
        seen.append(x)
        return right(x, *args, **kwargs)

    monkeypatch.setattr("quant.layers.quantize_rows", counted)
    x = inputs()
    expected = [layer(x) for layer in apart]
    assert len(seen) == 3
    seen.clear()
    got = [layer(x) for layer in together]
    assert len(seen) == 1
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert together[0]._codes._last is None, "everyone has had it"


def test_codes_are_of_the_running_window():
    plan = SitePlan(weight=Format(bits=4), activations=(Format(bits=8), Format(bits=2)))
    first, second = pair(windows=TWO, plan=plan)
    alone, _, _ = make(8, windows=TWO, plan=plan)
    x = inputs()
    with at(999):
        first(x)
    with at(1):
        got, expected = second(x), alone(x)
    assert torch.equal(got, expected)


def test_codes_of_a_tensor_are_given_up_with_it_or_when_everyone_has_had_them():
    first, second = pair(rotate=True)
    x = inputs()
    first(x)
    assert first._codes._last is not None
    assert first._transformed._last is None, "nobody asks for the rows again"
    del x
    assert first._codes._last is None
    y = inputs()
    first(y)
    second(y)
    assert first._codes._last is None


def test_a_layer_that_reads_a_tensor_alone_holds_nothing_of_it():
    layer, _, _ = make(rotate=True)
    x = inputs()
    layer(x)
    assert layer._transformed._last is layer._codes._last is None


@given(
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    seed=st.integers(0, 10_000),
    group=st.sampled_from([None, 8, 16]),
)
def test_weight_rounding_is_within_half_a_step(bits, symmetric, seed, group):
    w = synthetic.weight(5, 32, seed)
    fmt = Format(
        bits=bits, symmetric=symmetric, granularity="group" if group else "row", group_size=group
    )
    codes = round_to_nearest(w, fmt)
    step = codes.scale.repeat_interleave(32 // codes.scale.shape[1], dim=1)
    slack = (
        0.5 if symmetric else 1.0
    )  # a rounded zero point moves the ends of the range by half a step
    assert bool(((codes.dequantize(bits) - w).abs() <= slack * step * (1 + 1e-4)).all())
    assert int(codes.codes.max()) < 2**bits


def test_casting_a_model_leaves_scales_exact():
    layer, _, _ = make(rotate=True)
    x = inputs()
    before = layer(x)
    scale = layer.scale.clone()
    layer.half()
    assert layer.scale.dtype == torch.float32
    assert torch.equal(layer.scale, scale)
    assert layer.bias.dtype == torch.float16
    torch.testing.assert_close(layer(x), before, rtol=2e-3, atol=2e-3)


def test_why_says_what_stands_in_the_way():
    assert make(4, None)[0].why(256) == (
        "simulate",
        "simulate: weight-only, the stored integers are expanded for an ordinary matmul",
    )
    assert make(plan=FP8)[0].why(256) == (
        "simulate",
        "simulate: GPUs alone multiply 8-bit floats",
    )
    whole = Format(kind="fp8", granularity="tensor")
    mixed = SitePlan(weight=Format(kind="fp8"), activations=(whole,))
    assert "no integer sums" in make(plan=mixed)[0].why(256)[1]


@pytest.fixture
def gpu_of_8_bit_floats(monkeypatch):
    """Operations on 8-bit floats are asked for as on a GPU; here they are their definitions."""
    for where in ("fp8_linear.custom_op", "quantize_rows"):
        monkeypatch.setattr(f"kernels.{where}.float8_obstacle", lambda *_: None)


class CountedProducts:
    """Codes that go into products of 8-bit floats."""

    def __init__(self, monkeypatch) -> None:
        self.codes = []
        right = kernels.fp8_linear.multiply

        def multiply(rows, *args, **kwargs):
            self.codes.append(rows.codes)
            return right(rows, *args, **kwargs)

        monkeypatch.setattr(kernels.fp8_linear, "multiply", multiply)


@pytest.mark.parametrize("granularity", ["row", "tensor"])
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.usefixtures("gpu_of_8_bit_floats")
def test_8_bit_floats_are_multiplied_as_such_where_triton_runs(monkeypatch, rotate, granularity):
    """And simulated everywhere else, to the same numbers."""
    weight = Format(kind="fp8", granularity=granularity)
    plan = SitePlan(weight=weight, activations=(Format(kind="fp8"),))
    products, x = CountedProducts(monkeypatch), inputs().reshape(2, 32, 96)
    expected, weight, bias = make(plan=plan, rotate=rotate, backend="simulate")
    y = expected(x)
    assert not products.codes
    for backend in (None, "auto", "integer"):
        assert torch.equal(make(plan=plan, rotate=rotate, backend=backend)[0](x), y)
    layer = make(plan=plan, rotate=rotate, backend="triton")[0]
    assert layer.why(32) == ("triton", "triton: asked for")
    got = layer(x)
    assert [codes.dtype for codes in products.codes] == [torch.float8_e4m3fn]
    assert float((got - y).norm() / y.norm()) <= 1e-6
    exact = x.double() @ weight.double().T + bias.double()
    assert 1e-3 < float((got - exact).norm() / exact.norm()) < 0.1, "rounded, and no more"


@pytest.mark.usefixtures("gpu_of_8_bit_floats")
def test_other_activations_of_8_bit_floats_are_simulated_there_too(monkeypatch):
    products = CountedProducts(monkeypatch)
    for act in (Format(kind="fp8", granularity="tensor"), Format(bits=8), None):
        plan = SitePlan(weight=Format(kind="fp8"), activations=(act,))
        got, expected = (make(plan=plan, backend=b)[0](inputs()) for b in ("triton", "simulate"))
        assert torch.equal(got, expected)
    assert not products.codes


@pytest.mark.usefixtures("gpu_of_8_bit_floats")
def test_sites_that_read_one_tensor_make_its_8_bit_floats_once(monkeypatch):
    first, second = pair(plan=FP8, backend="triton")
    products, x = CountedProducts(monkeypatch), inputs()
    first(x), second(x)
    assert products.codes[0] is products.codes[1]


def test_8_bit_floats_on_a_machine_without_them_are_refused_with_the_reason():
    with pytest.raises(RuntimeError, match=r"fp8_linear cannot run with backend triton: .*; use"):
        make(plan=FP8, backend="triton")[0](inputs())


def test_full_range_8_bit_products_are_exact_or_refused_never_saturated():
    """Processors without 8-bit dot products saturate there; whichever this one is, no wrong number comes out."""
    integer, _, _ = make(8, 8, backend="integer")
    x = inputs()
    if kernels.int_linear.cpu.saturates():
        with pytest.raises(RuntimeError, match="saturate"):
            integer(x)
    else:
        expected = make(8, 8, backend="simulate")[0](x)
        assert float((integer(x) - expected).norm() / expected.norm()) <= 1e-6
