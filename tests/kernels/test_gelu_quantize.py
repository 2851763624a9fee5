"""GELU with codes: the definition is its parts one after another; static codes are those of the engine."""

from __future__ import annotations

import pytest
import torch

from kernels.gelu_quantize import custom_op, gelu_quantize, reference
from kernels.gelu_quantize.cases import example, signs_of
from kernels.hadamard import hadamard
from kernels.quantize_rows import quantize_rows
from quant.rounding import static_codes
from quant.schema import Format


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_it_is_its_parts_one_after_another(bits: int, symmetric: bool) -> None:
    x, shift, by = example(7, 40)
    g = torch.nn.functional.gelu(x, approximate="tanh")
    for transform, rows in (
        ({}, g),
        ({"shift": shift}, g - shift),
        ({"shift": shift, "migration": by}, (g - shift) / by),
    ):
        got = gelu_quantize(x, bits, symmetric, **transform)
        for a, b in zip(got, quantize_rows(rows, bits, symmetric)):
            assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shifted", [True, False])
def test_static_codes_stand_for_the_values_inside_the_range(symmetric: bool, shifted: bool) -> None:
    x, v, by = example(9, 40)
    scale = torch.tensor([0.05])
    zero = None if symmetric else torch.tensor([20.0])
    shift = v if shifted else None
    rows = gelu_quantize(x, 8, symmetric, shift=shift, migration=by, scale=scale, zero=zero)
    lowest, highest = (-127, 127) if symmetric else (0, 255)
    assert lowest <= int(rows.codes.min()) <= int(rows.codes.max()) <= highest
    k = reference.whole_shift(v, by, scale) if shifted else torch.zeros(40)
    g = reference.values(x.double(), None, by)
    stands_for = rows.dequantize().double() + (k * scale).double()
    inside = (rows.codes > lowest) & (rows.codes < highest)
    assert bool(inside.any())
    assert float(((stands_for - g).abs() / scale)[inside].max()) <= 0.5 + 1e-3


def test_gelu_of_zero_has_a_code_of_its_own_under_a_shift() -> None:
    x, v, by = example(1, 40)
    scale, zero = torch.tensor([0.03]), torch.tensor([100.0])
    rows = gelu_quantize(x, 8, False, shift=v, migration=by, scale=scale, zero=zero)
    k = reference.whole_shift(v, by, scale)
    assert torch.equal(rows.codes[0] - 100 + k, torch.zeros(40))


@pytest.mark.parametrize("symmetric", [True, False])
def test_static_codes_are_those_of_the_engine(symmetric: bool) -> None:
    x, v, by = example(9, 40)
    scale, zero = torch.tensor([0.02]), None if symmetric else torch.tensor([20.0])
    got = gelu_quantize(x, 8, symmetric, shift=v, migration=by, scale=scale, zero=zero)
    g = torch.nn.functional.gelu(x, approximate="tanh") / by
    k = reference.whole_shift(v, by, scale)
    fmt = Format(kind="int", bits=8, symmetric=symmetric)
    assert torch.equal(got.codes, static_codes(g, fmt, scale, zero, k))


@pytest.mark.parametrize("symmetric", [True, False])
def test_nan_shows_in_int8_codes_on_a_static_scale(symmetric: bool) -> None:
    x, _, _ = example(3, 40)
    scale, zero = torch.tensor([0.05]), None if symmetric else torch.tensor([9.0])
    expected = custom_op.quantize_statically(x, 8, scale, zero, None, None)
    x[1, 5] = float("nan")
    rows = custom_op.quantize_statically(x, 8, scale, zero, None, None)
    assert rows.codes.dtype == torch.int8
    assert int(rows.codes[1, 5]) == 0
    assert rows.dequantize()[1].isnan().all()
    assert torch.equal(rows.dequantize()[[0, 2]], expected.dequantize()[[0, 2]])


def test_a_width_that_no_kernel_rotates_is_refused_with_its_reason() -> None:
    x = torch.zeros(2, 1504)
    with pytest.raises(RuntimeError, match="triton: 1504 channels rotate in blocks"):
        gelu_quantize(x, signs=torch.ones(1504), backend="triton")


def test_rotation_comes_after_gelu_and_division() -> None:
    x, _, by = example(5, 96)
    x = x.double()
    g = torch.nn.functional.gelu(x, approximate="tanh") / by.double()
    got = reference.values(x, None, by, signs_of(96))
    torch.testing.assert_close(got.norm(dim=1), g.norm(dim=1))
    torch.testing.assert_close(got, hadamard(g, signs_of(96).double()))


def test_bad_input_is_named() -> None:
    x, shift, _ = example(3, 40)
    one = torch.ones(1)
    with pytest.raises(ValueError, match="needs a floating-point matrix"):
        gelu_quantize(x[None])
    with pytest.raises(ValueError, match=r"shift has shape \(39,\); needs \(40,\)"):
        gelu_quantize(x, shift=shift[1:])
    with pytest.raises(ValueError, match=r"scale has shape \(40,\); needs \(1,\)"):
        gelu_quantize(x, scale=shift)
    for arguments in (
        {"symmetric": False, "scale": one},
        {"zero": one},
        {"scale": one, "zero": one},
    ):
        with pytest.raises(ValueError, match="zero belongs to a static scale"):
            gelu_quantize(x, **arguments)
    with pytest.raises(ValueError, match="bits is 1"):
        gelu_quantize(x, 1)
    with pytest.raises(ValueError, match="static scale has no rotation"):
        gelu_quantize(x, signs=torch.ones(40), scale=one)
    with pytest.raises(RuntimeError, match=r"cannot run with backend triton: .*CUDA device"):
        gelu_quantize(x, backend="triton")
