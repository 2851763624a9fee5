"""GELU with codes in Triton, interpreted: against float64 and against the definition's integers."""

from __future__ import annotations

import pytest
import torch

from kernels.gelu_quantize import custom_op, reference, triton_impl
from kernels.gelu_quantize.cases import example, signs_of
from tests.kernels.rounding import assert_codes_of, assert_same_codes

SHAPES = [(11, 130), (8, 64), (3, 4608), (1, 1)]


@pytest.mark.parametrize("migrated", [False, True], ids=["plain", "migrated"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("m", "c"), SHAPES)
def test_codes_stand_for_the_values_in_float64(
    m: int, c: int, symmetric: bool, migrated: bool
) -> None:
    x, shift, by = example(m, c)
    others = (shift, by) if migrated else (None, None)
    got = triton_impl.gelu_quantize(x, 8, symmetric, *others, None, None, None)
    assert_codes_of(reference.values(x.double(), *others), *got, bits=8)
    assert_same_codes(got, custom_op.gelu_quantize(x, 8, symmetric, *others, None, None, None))


@pytest.mark.parametrize("migrated", [False, True], ids=["plain", "migrated"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("m", "c"), SHAPES)
def test_static_codes_are_those_of_the_definition(
    m: int, c: int, symmetric: bool, migrated: bool
) -> None:
    x, shift, by = example(m, c)
    others = (shift, by) if migrated else (None, None)
    static = (torch.tensor([0.01]), None if symmetric else torch.tensor([9.0]))  # much is clipped
    got = triton_impl.gelu_quantize(x, 8, symmetric, *others, None, *static)
    expected = custom_op.gelu_quantize(x, 8, symmetric, *others, None, *static)
    assert_same_codes(got, expected)
    assert torch.equal(got[1], expected[1])
    assert torch.equal(got[2], expected[2])


@pytest.mark.parametrize("migrated", [False, True], ids=["plain", "migrated"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("m", "c"), [(5, 384), (9, 96), (2, 4608), (1, 16)])
def test_rotated_codes_stand_for_the_values_in_float64(
    m: int, c: int, symmetric: bool, migrated: bool
) -> None:
    x, shift, by = example(m, c)
    others = (shift, by) if migrated else (None, None)
    given = (8, symmetric, *others, signs_of(c), None, None)
    got = triton_impl.gelu_quantize(x, *given)
    # The interpreter cuts bfloat16 off where a GPU rounds: both halves of a value, along each factor.
    assert_codes_of(reference.values(x.double(), *others, signs_of(c)), *got, bits=8, rtol=5e-5)
    assert_same_codes(got, custom_op.gelu_quantize(x, *given), rtol=5e-5)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy interprets: exp(1e11) is inf
def test_far_ends_and_half_precision() -> None:
    x = torch.tensor([[0.0, 1e4, -1e4, 1.0], [1e-6, -1e-6, 0.0, 0.0], [-40.0, -10.0, -5.0, -1.0]])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        got = triton_impl.gelu_quantize(x.to(dtype), 8, True, None, None, None, None, None)
        assert_codes_of(reference.values(x.to(dtype).double(), None, None), *got, bits=8)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
def test_a_row_of_nan_shows_and_harms_no_other(static: bool, symmetric: bool) -> None:
    x, shift, by = example(4, 40)
    scale = torch.tensor([0.05]) if static else None
    zero = torch.tensor([9.0]) if static and not symmetric else None
    expected = triton_impl.gelu_quantize(x, 8, symmetric, shift, by, None, scale, zero)
    x[1, 5] = float("nan")
    rest = [0, 2, 3]
    for version in (triton_impl, custom_op):
        codes, scales, _ = version.gelu_quantize(x, 8, symmetric, shift, by, None, scale, zero)
        assert scales.isnan().flatten().tolist() == [False, True, False, False]
        torch.testing.assert_close(scales[rest], expected[1][rest])
        assert int((codes[rest].int() - expected[0][rest].int()).abs().max()) <= 1
        if static:
            assert int(codes[1, 5]) == 0


def test_views() -> None:
    x, shift, by = example(6, 50)
    expected = triton_impl.gelu_quantize(x, 8, True, shift, by, None, None, None)
    wide = torch.full((6, 80), float("nan"))
    wide[:, 9:59] = x
    for view in (x.T.contiguous().T, wide[:, 9:59]):
        got = triton_impl.gelu_quantize(view, 8, True, shift, by, None, None, None)
        assert torch.equal(got[0], expected[0])
