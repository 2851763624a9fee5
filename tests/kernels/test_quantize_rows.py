"""Row quantization: error bounds, exact integers, rows that do not see each other."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.quantize_rows import quantize_rows, quantize_rows_fp8

BITS = range(2, 9)


def hard_rows(k: int = 37) -> Tensor:
    """Rows that break naive quantizers: zeros, constants, one sign, tiny, huge, one outlier."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(9, k, generator=g)
    x[0] = 0.0
    x[1] = 3.0
    x[2] = -x[2].abs() - 0.1
    x[3] = x[3].abs() + 5.0
    x[4] *= 1e4
    x[5] *= 1e-12
    x[6, 3] = 1e4
    x[7] = 0.0
    x[7, 0] = -2.0
    return x


@pytest.mark.parametrize("granularity", ["row", "tensor"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_every_element_is_off_by_at_most_half_a_scale(
    bits: int, symmetric: bool, granularity: str
) -> None:
    x = hard_rows()
    rows = quantize_rows(x, bits, symmetric, granularity)
    lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    assert torch.isfinite(rows.scale).all()
    assert (rows.scale > 0).all()
    assert torch.equal(rows.codes, rows.codes.round())
    assert lowest <= int(rows.codes.min()) <= int(rows.codes.max()) <= highest
    zero = torch.zeros(len(x), 1) if rows.zero is None else rows.zero
    assert torch.equal(zero, zero.round())
    assert 0 <= int(zero.min()) <= int(zero.max()) <= max(highest, 0)
    values = (rows.codes.double() - zero.double()) * rows.scale.double()
    error = (values - x.double()).abs() / rows.scale.double()
    assert float(error.max()) <= 0.5 * (1 + 1e-4)  # 1e-4: quotients of 255 round in float32
    assert torch.equal(rows.dequantize()[0], torch.zeros(x.shape[1]))


@pytest.mark.parametrize("bits", BITS)
def test_the_scale_is_that_of_the_formula(bits: int) -> None:
    x = hard_rows().double()
    symmetric = (x.abs().amax(1) / (2 ** (bits - 1) - 1)).clamp(min=1e-8)
    lo, hi = x.amin(1).clamp(max=0), x.amax(1).clamp(min=0)
    asymmetric = ((hi - lo) / (2**bits - 1)).clamp(min=1e-8)
    for expected, flag in ((symmetric, True), (asymmetric, False)):
        scale = quantize_rows(x.float(), bits, flag).scale[:, 0]
        torch.testing.assert_close(scale.double(), expected, rtol=1e-6, atol=0.0)


def test_ties_go_to_even_and_the_largest_element_is_exact() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0]])
    assert quantize_rows(x, 8).codes.tolist() == [[127, 0, 2, 2, 0, -2, -127]]


def test_two_bits_by_hand() -> None:
    x = torch.tensor([[-1.0, -0.4, 0.0, 2.0]])
    rows = quantize_rows(x, 2, symmetric=False)  # scale 1, zero 1
    assert (rows.codes.tolist(), float(rows.zero), float(rows.scale)) == ([[0, 1, 1, 3]], 1.0, 1.0)
    ties = quantize_rows(torch.tensor([[-1.5, 1.5]]), 2, symmetric=False)  # 2 + 2 is clamped to 3
    assert (ties.codes.tolist(), float(ties.scale)) == ([[0, 3]], 1.0)
    rows = quantize_rows(x, 2)  # scale 2
    assert (rows.codes.tolist(), float(rows.scale)) == ([[0, 0, 0, 1]], 2.0)


VARIANTS = {
    "symmetric": partial(quantize_rows, bits=8),
    "asymmetric": partial(quantize_rows, bits=4, symmetric=False),
    "e4m3": quantize_rows_fp8,
}


@settings(deadline=None, max_examples=25)
@given(
    variant=st.sampled_from(sorted(VARIANTS)),
    m=st.integers(1, 12),
    k=st.integers(1, 70),
    exponent=st.integers(-9, 4),
    seed=st.integers(0, 99),
)
def test_a_row_has_the_same_bits_alone_and_in_a_batch(
    variant: str, m: int, k: int, exponent: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(m, k, generator=generator) * 10.0**exponent
    x[seed % m] *= 1e3
    quantize = VARIANTS[variant]
    together = quantize(x)
    for i in range(m):
        for a, b in zip(together, quantize(x[i : i + 1])):
            assert (a is None and b is None) or torch.equal(a[i : i + 1].float(), b.float())


def test_a_row_of_nan_or_inf_shows_and_harms_no_other() -> None:
    x = torch.ones(4, 8)
    x[1, 2], x[2, 5] = float("nan"), float("inf")
    for quantize in VARIANTS.values():
        rows = quantize(x)
        assert torch.isfinite(rows.scale[[0, 3]]).all()
        assert not torch.isfinite(rows.scale[[1, 2]]).any()
        torch.testing.assert_close(rows.dequantize()[[0, 3]], x[[0, 3]])


def test_one_scale_for_the_tensor() -> None:
    x = hard_rows()
    rows = quantize_rows(x, 8, granularity="tensor")
    assert rows.scale.shape == (9, 1)
    assert torch.equal(rows.scale, rows.scale[:1].expand(9, 1))
    assert float(rows.codes.abs().amax()) == 127.0


def test_fp8_codes_are_the_nearest_and_never_nan() -> None:
    x = hard_rows()
    rows = quantize_rows_fp8(x)
    assert rows.codes.dtype == torch.float8_e4m3fn
    assert torch.isfinite(rows.codes.float()).all()
    assert float(rows.codes.float().abs().amax()) == 448.0
    error = (rows.dequantize().double() - x.double()).abs()
    # 4 bits of significand: half of 2^-3 relative, and half of 2^-9 (the smallest subnormal) absolute
    bound = torch.maximum(x.double().abs() * 2**-4, rows.scale.double() * 2**-10)
    assert bool((error <= bound * (1 + 1e-5)).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_arithmetic_is_float32_whatever_the_input(dtype: torch.dtype) -> None:
    x = torch.randn(5, 33, generator=torch.Generator().manual_seed(3)).to(dtype)
    rows, expected = quantize_rows(x, 8), quantize_rows(x.float(), 8)
    assert rows.scale.dtype == rows.codes.dtype == torch.float32
    assert torch.equal(rows.codes, expected.codes)


@pytest.mark.parametrize("granularity", ["row", "tensor"])
def test_views_and_no_rows_at_all(granularity: str) -> None:
    x = hard_rows()
    view = x.T.contiguous().T
    assert torch.equal(quantize_rows(view, 6).codes, quantize_rows(x, 6).codes)
    for symmetric in (True, False):
        rows = quantize_rows(x[:0], 8, symmetric, granularity)
        assert rows.codes.shape == (0, 37)
        assert rows.scale.shape == (0, 1)


def test_the_input_is_left_alone() -> None:
    x = hard_rows()
    before = x.clone()
    for quantize in VARIANTS.values():
        quantize(x)
    assert torch.equal(x, before)


def test_what_cannot_be_quantized_is_refused() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="bits is 1"):
        quantize_rows(x, 1)
    with pytest.raises(ValueError, match="bits is 9"):
        quantize_rows(x, 9)
    with pytest.raises(ValueError, match="granularity is 'column'; use one of row, tensor"):
        quantize_rows(x, 8, granularity="column")
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        quantize_rows(x[0], 8)
    with pytest.raises(ValueError, match="k > 0"):
        quantize_rows(x[:, :0], 8)
    with pytest.raises(ValueError, match=r"torch\.int64"):
        quantize_rows_fp8(x.long())
