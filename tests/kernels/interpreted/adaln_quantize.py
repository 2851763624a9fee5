"""adaLN with row codes in Triton, interpreted: against float64 and against the definition's integers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.adaln_quantize import custom_op, reference, triton_impl
from kernels.adaln_quantize.cases import example
from kernels.hadamard.box import rotation_orders
from tests.kernels.rounding import assert_codes_of, assert_same_codes


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("b", "t", "c"), [(2, 5, 130), (3, 7, 64), (2, 8, 1152), (1, 1, 1)])
def test_codes_stand_for_the_values_in_float64(
    b: int, t: int, c: int, symmetric: bool, scaled: bool
) -> None:
    x, shift, scale, channel_scale, _ = example(b, t, c)
    s = channel_scale if scaled else None
    got = triton_impl.adaln_quantize(x, shift, scale, s, None, 8, symmetric, 1e-6)
    exact = reference.values(x.double(), shift, scale, s, None, 1e-6)
    assert_codes_of(exact, *got, bits=8)
    assert_same_codes(got, custom_op.adaln_quantize(x, shift, scale, s, None, 8, symmetric, 1e-6))


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("b", "t", "c"), [(2, 5, 384), (1, 9, 96), (2, 2, 1152), (1, 2, 16)])
def test_rotated_codes_stand_for_the_values_in_float64(
    b: int, t: int, c: int, symmetric: bool, scaled: bool
) -> None:
    x, shift, scale, channel_scale, signs = example(b, t, c)
    s = channel_scale if scaled else None
    got = triton_impl.adaln_quantize(x, shift, scale, s, signs, 8, symmetric, 1e-6)
    exact = reference.values(x.double(), shift, scale, s, signs, 1e-6)
    # The interpreter cuts bfloat16 off where a GPU rounds: both halves of a value, along each factor.
    assert_codes_of(exact, *got, bits=8, rtol=5e-5)
    expected = custom_op.adaln_quantize(x, shift, scale, s, signs, 8, symmetric, 1e-6)
    assert_same_codes(got, expected, rtol=5e-5)


def test_a_box_that_does_not_fit_is_refused_with_its_reason() -> None:
    assert rotation_orders(1152) == (12, 12, 8)
    assert rotation_orders(384) == (1, 24, 16)
    for c, reason in ((1504, "rotate in blocks"), (49152, "elements padded|factors")):
        with pytest.raises(ValueError, match=reason):
            rotation_orders(c)


def test_extreme_rows_and_other_bits() -> None:
    x, shift, scale, s, _ = example(2, 6, 96)
    x[0, 1], x[0, 2], x[1, 3] = x[0, 1] * 1e4, x[0, 2] * 1e-6, 5.0
    for bits in (4, 8):
        got = triton_impl.adaln_quantize(x, shift, scale, s, None, bits, True, 1e-6)
        exact = reference.values(x.double(), shift, scale, s, None, 1e-6)
        assert_codes_of(exact, *got, bits=bits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_views(dtype: torch.dtype) -> None:
    x, shift, scale, s, _ = (part.to(dtype) for part in example(2, 4, 70))
    both = torch.stack([shift, scale], 1)  # [b, 2, c], as one linear gives them
    exact = reference.values(x.double(), shift, scale, s, None, 1e-6)

    def codes_of(view: Tensor) -> tuple[Tensor, ...]:
        return triton_impl.adaln_quantize(view, both[:, 0], both[:, 1], s, None, 8, True, 1e-6)

    for view in (x, x.transpose(0, 1).contiguous().transpose(0, 1)):
        assert_codes_of(exact, *codes_of(view), bits=8)


def test_a_sample_without_rows() -> None:
    x, shift, scale, _, _ = example(2, 1, 8)
    codes, _, _ = triton_impl.adaln_quantize(x[:, :0], shift, scale, None, None, 8, True, 1e-6)
    assert codes.shape == (0, 8)
