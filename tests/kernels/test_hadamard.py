"""Hadamard rotation: exact matrices, orthogonality, the cheap form equals the dense one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels.hadamard import cost, factors, hadamard, matrix

WIDTHS = [12, 20, 28, 36, 48, 96, 144, 256, 1024]
WIDTHS += [1152, 1536, 2432, 3072, 3456, 4608, 5120, 13824, 15360]


def dense(orders: tuple[int, ...]) -> Tensor:
    h = torch.ones(1, 1, dtype=torch.float64)
    for n in orders:
        h = torch.kron(h, matrix(n).double())
    return h


def random_signs(c: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (c,), generator=generator) * 2.0 - 1.0


@pytest.mark.parametrize(
    "n", [1, 2, 4, 12, 16, 20, 24, 28, 36, 40, 44, 48, 60, 64, 72, 76, 80, 96, 108, 140, 144, 512]
)
def test_matrices_are_exact(n: int) -> None:
    h = matrix(n)
    assert h.dtype == torch.int8
    assert torch.equal(h.abs(), torch.ones(n, n, dtype=torch.int8))
    assert torch.equal(h.long() @ h.long().T, n * torch.eye(n, dtype=torch.int64))


@pytest.mark.parametrize("n", [3, 6, 10, 18, 30, 92])
def test_orders_that_are_unknown_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"order {n} "):
        matrix(n)


@pytest.mark.parametrize("c", WIDTHS)
def test_the_widths_of_transformers_factor_without_blocks(c: int) -> None:
    orders = factors(c)
    assert math.prod(orders) == c
    for n in orders:
        assert torch.equal(matrix(n).long() @ matrix(n).long().T, n * torch.eye(n).long())
    assert cost(c) == sum(orders) <= max(160, c // 8)


@pytest.mark.parametrize("c", [12, 48, 144, 256, 1152])
def test_the_rotation_is_the_dense_product(c: int, generator: torch.Generator) -> None:
    x = torch.randn(3, 2, c, generator=generator, dtype=torch.float64)
    signs = random_signs(c, generator)
    expected = (x * signs) @ dense(factors(c)) / math.sqrt(c)
    torch.testing.assert_close(hadamard(x, signs), expected, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(
        hadamard(x.float(), signs).double(), expected, rtol=0.0, atol=2e-6 * float(x.abs().amax())
    )
    back = (x @ dense(factors(c)).T / math.sqrt(c)) * signs
    torch.testing.assert_close(hadamard(x, signs, inverse=True), back, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("c", [*WIDTHS, 1504])
def test_rotated_products_are_the_originals(c: int, generator: torch.Generator) -> None:
    x = torch.randn(4, c, generator=generator)
    w = torch.randn(5, c, generator=generator)
    signs = random_signs(c, generator)
    rotated = hadamard(x, signs) @ hadamard(w, signs).T
    exact = x.double() @ w.double().T
    assert float((rotated.double() - exact).norm() / exact.norm()) < 1e-5
    torch.testing.assert_close(hadamard(hadamard(x, signs), signs, inverse=True), x)


def test_a_spike_spreads_evenly(generator: torch.Generator) -> None:
    x = torch.zeros(1, 1152)
    x[0, 77] = 1152**0.5
    y = hadamard(x, random_signs(1152, generator))
    torch.testing.assert_close(y.abs(), torch.ones_like(y))


def test_signs_change_the_rotation(generator: torch.Generator) -> None:
    x = torch.randn(2, 96, generator=generator)
    assert not torch.allclose(hadamard(x), hadamard(x, random_signs(96, generator)))
    assert torch.equal(hadamard(x), hadamard(x, torch.ones(96)))


def test_widths_without_a_factorization_rotate_in_blocks(generator: torch.Generator) -> None:
    assert factors(1504) == (
        32,
    )  # 47 x 32; no multiple of 47 that divides 1504 is an order we build
    x = torch.randn(2, 1504, generator=generator, dtype=torch.float64)
    expected = (x.view(2, 47, 32) @ dense((32,)) / math.sqrt(32)).view(2, 1504)
    torch.testing.assert_close(hadamard(x), expected)


@pytest.mark.parametrize("c", [6, 52, 1001])
def test_widths_without_any_rotation_are_named(c: int) -> None:
    with pytest.raises(ValueError, match=f"no Hadamard rotation for {c} channels"):
        factors(c)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_shape_are_kept(dtype: torch.dtype, generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 96, generator=generator).to(dtype).transpose(0, 1)
    before = x.clone()
    y = hadamard(x, random_signs(96, generator))
    assert (y.dtype, y.shape) == (dtype, x.shape)
    assert torch.equal(x, before)
    norm = y.double().norm() / x.double().norm()
    assert float((norm - 1).abs()) < 30 * torch.finfo(dtype).eps


def test_no_rows(generator: torch.Generator) -> None:
    assert hadamard(torch.ones(0, 256), random_signs(256, generator)).shape == (0, 256)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.int64"):
        hadamard(torch.ones(2, 4).long())
    with pytest.raises(ValueError, match=r"signs has shape \(3,\); x has 4 channels"):
        hadamard(torch.ones(2, 4), torch.ones(3))
