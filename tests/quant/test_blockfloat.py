"""Block floating point: the element grids, the scales of blocks, what is stored, what is said of speed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant import blockfloat
from quant.backend_report import backend_report
from quant.conformance import synthetic
from quant.conformance.trial import Trial, mean_error
from quant.errors import BadInput
from quant.plans import uniform_formats, uniform_plan
from quant.quantization import quantize
from quant.rounding import check_shape, round_to_nearest, rounded_rows
from quant.schema import BLOCK_FORMATS, Format, parse_bits

KINDS = sorted(BLOCK_FORMATS)


def rows(m=5, i=64, seed=0):
    x = torch.randn(m, i, generator=torch.Generator().manual_seed(seed))
    x[0] = 0
    x[1] *= 1e6
    x[2] *= 1e-6
    return x


def test_e2m1_codes_and_values_are_inverse():
    codes = torch.arange(16, dtype=torch.uint8)
    values = blockfloat.e2m1_values(codes)
    assert sorted({float(v) for v in values.abs()}) == list(blockfloat.E2M1)
    again = blockfloat.e2m1_codes(values)
    assert torch.equal(again[values != 0], codes[values != 0])


@given(st.floats(-8, 8, width=32))
def test_e2m1_is_the_nearest_and_ties_are_even(value):
    codes = blockfloat.e2m1_codes(torch.tensor([value]))
    found = float(blockfloat.e2m1_values(codes))
    gaps = [abs(abs(value) - v) for v in blockfloat.E2M1]
    assert abs(abs(value) - abs(found)) == min(gaps)
    if gaps.count(min(gaps)) > 1:
        assert int(codes) % 2 == 0
    assert found == 0 or (found > 0) == (value > 0)


@pytest.mark.parametrize("value", [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
def test_every_tie_goes_to_the_even_code(value):
    assert int(blockfloat.e2m1_codes(torch.tensor([value]))) % 2 == 0
    assert int(blockfloat.e2m1_codes(torch.tensor([-value]))) % 2 == 0


@pytest.mark.parametrize("kind", ["mxfp8", "mxfp4"])
@pytest.mark.parametrize("peak", [1.0, 1.49, 1.75, 1.99, 3.0, 1e-3])
def test_mx_scales_are_the_power_of_two_that_the_specification_asks_for(kind, peak):
    largest = {"mxfp8": 8, "mxfp4": 2}[kind]
    code = blockfloat.block_scales(torch.tensor([peak]), kind, None)
    expected = 2.0 ** (torch.tensor(peak).log2().floor() - largest)
    assert float(blockfloat.steps(code, None)) == float(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_the_nearest_that_their_block_can_hold(kind):
    bits, block = BLOCK_FORMATS[kind]
    x = rows()
    found = rounded_rows(x, Format.of_kind(kind))
    elements = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    if bits == 4:
        elements = blockfloat.e2m1_values(torch.arange(16))
    elements = elements[elements.isfinite()]
    peak = x.reshape(len(x), -1, block).abs().amax(-1)
    outer = blockfloat.outer_scale(peak.amax(-1, keepdim=True))
    step = blockfloat.steps(blockfloat.block_scales(peak, kind, outer), outer)
    step = step.repeat_interleave(block, 1)[..., None]  # [m, i, 1]
    gaps = (elements * step - x[..., None]).abs().amin(-1)
    torch.testing.assert_close((found - x).abs(), gaps, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_awkward_rows_stay_finite_and_rows_do_not_see_each_other(kind):
    x = rows()
    fmt = Format.of_kind(kind)
    found = rounded_rows(x, fmt)
    assert bool(found.isfinite().all())
    assert bool((found[0] == 0).all())
    for i in range(len(x)):
        assert torch.equal(rounded_rows(x[i : i + 1], fmt)[0], found[i])


@pytest.mark.parametrize("kind", ["mxfp8", "mxfp4"])
def test_powers_of_two_scale_through(kind):
    x, fmt = rows()[3:], Format.of_kind(kind)
    assert torch.equal(rounded_rows(8 * x, fmt), 8 * rounded_rows(x, fmt))


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_computes_with_what_is_stored_and_bits_are_those_of_the_format(kind):
    fmt = Format.of_kind(kind)
    made = Trial(
        "rtn", synthetic.plan(8, 8).model_copy(update={"weight": fmt, "activations": (fmt,)}), 0
    )
    layer, w = made.layers["site0"], made.group.sites[0].weight
    codes = round_to_nearest(w, fmt)
    assert torch.equal(layer.dequantized_weight(), codes.dequantize(fmt.bits))
    x = made.fresh[0]
    torch.testing.assert_close(layer(x), rounded_rows(x, fmt) @ codes.dequantize(fmt.bits).T)
    stored = sum(
        b.numel() * b.element_size() for n, b in layer.named_buffers() if n not in ("bias", "outer")
    )
    assert 8 * stored / w.numel() == {"mxfp8": 8.25, "mxfp4": 4.25, "nvfp4": 4.5}[kind]
    backend, why = layer.why(64)
    assert backend == "simulate"
    assert "simulated format" in why


def test_finer_blocks_and_more_bits_leave_less_error():
    def error(text):
        fmt = Format.of_kind(text)
        plan = synthetic.plan(8, 8).model_copy(update={"weight": fmt, "activations": (fmt,)})
        return mean_error("rtn", plan, seeds=3)

    assert error("mxfp8") < error("nvfp4") < error("mxfp4")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_a_block_format_is_simulated(kind, model):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits(kind)))
    report = backend_report(made.transformer, 64)
    assert (report.backend, report.evidence) == ("simulate", "simulated")


@pytest.mark.parametrize("kind", KINDS)
def test_widths_that_blocks_do_not_divide_are_refused(kind):
    with pytest.raises(BadInput, match="16 bit"):
        check_shape(Format.of_kind(kind), 100, "site")


def test_a_group_size_beside_a_block_format_is_refused(model):
    with pytest.raises(BadInput, match="group size"):
        uniform_formats(model.sites, parse_bits("mxfp4"), windows=1, group_size=64)
