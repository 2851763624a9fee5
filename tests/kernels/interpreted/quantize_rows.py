"""Row quantization in Triton, interpreted: the same integers and 8-bit floats as the definition, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.quantize_rows import custom_op, reference, triton_impl


def hard_rows(m: int, k: int) -> Tensor:
    """Seeded rows, among them zeros, large, small, one-sided and constant ones."""
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(k)) + 0.3
    for i, change in enumerate((0.0, 1e4, 1e-6, 1e-12)):
        x[i % m] *= change
    if m > 6:
        x[4], x[5] = x[4].abs() + 5.0, -3.0
    return x


def exact(x: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scale and zero of each row from the formulas, in float64."""
    x = x.double()
    if symmetric:
        scale = (x.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).clamp(min=1e-8)
        return scale, torch.zeros_like(scale)
    lo, hi = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
    scale = ((hi - lo) / (2**bits - 1)).clamp(min=1e-8)
    return scale, -lo / scale - 2 ** (bits - 1)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 4, 7, 8])
@pytest.mark.parametrize(("m", "k"), [(37, 130), (9, 63), (8, 128), (1, 1)])
def test_integers_are_those_of_the_definition(m: int, k: int, bits: int, symmetric: bool) -> None:
    x = hard_rows(m, k)
    got = triton_impl.quantize_rows(x, bits, symmetric)
    for a, b in zip(got, custom_op.as_int8(x, bits, symmetric), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_every_element_is_off_by_at_most_half_a_scale(symmetric: bool) -> None:
    x = hard_rows(17, 1152)
    codes, scale, zero = triton_impl.quantize_rows(x, 8, symmetric)
    expected, expected_zero = exact(x, 8, symmetric)
    torch.testing.assert_close(scale.double(), expected, rtol=1e-6, atol=0.0)
    at = zero if len(zero) else torch.zeros_like(scale)
    assert float((at.double() - expected_zero).abs().max()) <= 0.5 + 1e-3
    error = (codes.double() - at.double()) * scale.double() - x.double()
    assert float((error.abs() / scale).max()) <= 0.5 * (1 + 1e-4)


def floats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in e4m3 as float32, so that zeros of both signs are equal, and scales."""
    codes, scale, zero = triton_impl.quantize_rows(x, 8, True, torch.float8_e4m3fn)
    assert codes.dtype == torch.float8_e4m3fn
    assert zero.shape == (0, 1)
    return codes.float(), scale


def assert_those_of_the_definition(x: Tensor) -> None:
    """Equal numbers, 8-bit floats."""
    codes, scale = reference.e4m3(x, "row")
    for a, b in zip(floats(x), (codes.float(), scale), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("m", "k"), [(37, 130), (9, 63), (8, 128), (1, 1), (17, 1152)])
def test_8_bit_floats_are_those_of_the_definition(m: int, k: int) -> None:
    assert_those_of_the_definition(hard_rows(m, k))


def test_8_bit_floats_at_every_tie_and_beside_it() -> None:
    """Halfway between neighbours, from the smallest steps to the largest; a row's largest element is at 448."""
    every = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()  # 0 .. 448
    ties = (every[1:] + every[:-1]) / 2
    near = [ties, torch.nextafter(ties, every[1:]), torch.nextafter(ties, every[:-1])]
    x = torch.cat([t for part in (*near, every) for t in (part, -part)])[None]
    assert float(x.max()) == 448.0
    assert_those_of_the_definition(x)
    codes, scale = floats(x)
    assert float(scale) == 1.0
    error = (codes.double() - x.double()).abs()
    step = torch.maximum(2.0 ** (torch.frexp(x)[1] - 4.0), torch.tensor(2.0**-9))
    assert bool((error <= step / 2).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_and_views(dtype: torch.dtype) -> None:
    x = hard_rows(6, 70).clamp(-1e4, 1e4).to(dtype)
    expected = custom_op.as_int8(x, 8, True)
    wide = torch.zeros(6, 100, dtype=dtype)
    wide[:, 20:90] = x
    for view in (x, x.T.contiguous().T, wide[:, 20:90]):
        for a, b in zip(triton_impl.quantize_rows(view, 8, True), expected):
            assert torch.equal(a, b)
        assert_those_of_the_definition(view)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy interprets: inf / inf
def test_a_row_of_nan_or_inf_shows_and_harms_no_other() -> None:
    x = torch.ones(4, 8)
    x[1, 2], x[2, 5] = float("nan"), float("-inf")
    for symmetric in (True, False):
        codes, scale, _ = triton_impl.quantize_rows(x, 8, symmetric)
        assert torch.isfinite(scale[[0, 3]]).all()
        assert not torch.isfinite(scale[[1, 2]]).any()
        assert torch.equal(codes[0], codes[3])
    values, scale = floats(x)
    assert torch.equal((values * scale)[[0, 3]], x[[0, 3]])
    assert not torch.isfinite(scale[[1, 2]]).any()


def test_no_rows_at_all() -> None:
    codes, scale, zero = triton_impl.quantize_rows(torch.ones(0, 8), 8, False)
    assert (codes.shape, scale.shape, zero.shape) == ((0, 8), (0, 1), (0, 1))
    assert floats(torch.ones(0, 8))[0].shape == (0, 8)
