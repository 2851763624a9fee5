"""adaLN with row codes: the definition is its parts one after another, and bad input is named."""

from __future__ import annotations

import pytest
import torch

from kernels.adaln_quantize import adaln_quantize, reference
from kernels.adaln_quantize.cases import example
from kernels.hadamard import hadamard
from kernels.quantize_rows import quantize_rows


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_it_is_its_parts_one_after_another(bits: int, symmetric: bool) -> None:
    x, shift, scale, s, signs = example(3, 5, 96)
    n = torch.nn.functional.layer_norm(x, (96,), eps=1e-6)
    y = n * (1 + scale[:, None]) + shift[:, None]
    for transform, rows in (
        ({}, y),
        ({"channel_scale": s}, y / s),
        ({"channel_scale": s, "signs": signs}, hadamard(y / s, signs)),
    ):
        got = adaln_quantize(x, shift, scale, bits, symmetric, **transform)
        expected = quantize_rows(rows.reshape(15, 96), bits, symmetric)
        for a, b in zip(got, expected):
            assert (a is None and b is None) or torch.equal(a, b)


def test_values_by_hand_in_float64() -> None:
    x = torch.tensor([[[1.0, 3.0]]], dtype=torch.float64)  # mean 2, variance 1
    shift, scale = torch.tensor([[0.5, 0.0]]), torch.tensor([[1.0, 0.0]])
    got = reference.values(x, shift, scale, torch.tensor([1.0, 4.0]), None, 0.0)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, torch.tensor([[-1.5, 0.25]], dtype=torch.float64))
    rotated = reference.values(x, shift, scale, None, torch.tensor([1.0, -1.0]), 0.0)
    expected = torch.tensor([[-1.5 - 1.0, -1.5 + 1.0]], dtype=torch.float64) / 2**0.5
    torch.testing.assert_close(rotated, expected)


def test_each_sample_has_its_own_modulation_and_a_row_of_zeros_is_its_shift() -> None:
    x, shift, scale, _, _ = example(2, 3, 40)
    rows = adaln_quantize(x, shift, scale)
    alone = adaln_quantize(x[1:], shift[1:], scale[1:])
    assert torch.equal(rows.codes[3:], alone.codes)
    expected = quantize_rows(shift[:1], 8)  # the first row of the example is zero
    assert torch.equal(rows.codes[:1], expected.codes)


def test_bad_input_is_named() -> None:
    x, shift, scale, s, signs = example(2, 3, 40)
    with pytest.raises(ValueError, match=r"needs floating point \[b, t, c\]"):
        adaln_quantize(x[0], shift, scale)
    with pytest.raises(ValueError, match=r"shift has shape \(1, 40\); needs \(2, 40\)"):
        adaln_quantize(x, shift[:1], scale)
    with pytest.raises(ValueError, match="channel_scale has shape"):
        adaln_quantize(x, shift, scale, channel_scale=s[1:])
    with pytest.raises(ValueError, match="signs has shape"):
        adaln_quantize(x, shift, scale, signs=signs[None])
    with pytest.raises(ValueError, match="bits is 9"):
        adaln_quantize(x, shift, scale, 9)
    with pytest.raises(RuntimeError, match=r"cannot run with backend triton: .*CUDA device"):
        adaln_quantize(x, shift, scale, backend="triton")
    wide = torch.ones(1, 1504)
    with pytest.raises(RuntimeError, match="1504 channels rotate in blocks"):
        adaln_quantize(torch.ones(1, 1, 1504), wide, wide, signs=wide[0], backend="triton")
