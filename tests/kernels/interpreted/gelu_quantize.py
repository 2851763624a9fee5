"""GELU with codes in Triton, interpreted: against float64 and against the definition's integers."""

from __future__ import annotations

import pytest
import torch

from kernels.gelu_quantize import custom_op, reference, triton_impl
from kernels.gelu_quantize.cases import example
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
    got = triton_impl.gelu_quantize(x, 8, symmetric, *others, None, None)
    assert_codes_of(reference.values(x.double(), *others), *got, bits=8)
    assert_same_codes(got, custom_op.gelu_quantize(x, 8, symmetric, *others, None, None))


@pytest.mark.parametrize("migrated", [False, True], ids=["plain", "migrated"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("m", "c"), SHAPES)
def test_static_codes_are_those_of_the_definition(
    m: int, c: int, symmetric: bool, migrated: bool
) -> None:
    x, shift, by = example(m, c)
    others = (shift, by) if migrated else (None, None)
    static = (torch.tensor([0.01]), None if symmetric else torch.tensor([9.0]))  # much is clipped
    got = triton_impl.gelu_quantize(x, 8, symmetric, *others, *static)
    expected = custom_op.gelu_quantize(x, 8, symmetric, *others, *static)
    assert_same_codes(got, expected)
    assert torch.equal(got[1], expected[1])
    assert torch.equal(got[2], expected[2])


@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy interprets: exp(1e11) is inf
def test_far_ends_and_half_precision() -> None:
    x = torch.tensor([[0.0, 1e4, -1e4, 1.0], [1e-6, -1e-6, 0.0, 0.0], [-40.0, -10.0, -5.0, -1.0]])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        got = triton_impl.gelu_quantize(x.to(dtype), 8, True, None, None, None, None)
        assert_codes_of(reference.values(x.to(dtype).double(), None, None), *got, bits=8)


def test_views() -> None:
    x, shift, by = example(6, 50)
    expected = triton_impl.gelu_quantize(x, 8, True, shift, by, None, None)
    wide = torch.full((6, 80), float("nan"))
    wide[:, 9:59] = x
    for view in (x.T.contiguous().T, wide[:, 9:59]):
        got = triton_impl.gelu_quantize(view, 8, True, shift, by, None, None)
        assert torch.equal(got[0], expected[0])
