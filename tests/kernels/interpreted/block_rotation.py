"""Block rotations with codes in Triton, interpreted: against float64 and against the definition's integers."""

from __future__ import annotations

import pytest
import torch

from kernels.block_rotation import custom_op, reference, triton_impl
from kernels.block_rotation.cases import example
from tests.kernels.rounding import assert_codes_of, assert_same_codes

# m, k, b: blocks that fill a matrix unit and such that do not, rows that fill a program, such that do not, and wider ones
SHAPES = [
    (9, 384, 128),
    (3, 1152, 128),
    (10, 96, 32),
    (5, 40, 8),
    (4, 6, 2),
    (1, 16, 16),
    (3, 7, 1),
    (2, 4608, 128),
    (3, 2064, 8),
]


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("m", "k", "b"), SHAPES)
def test_codes_stand_for_the_values_in_float64(
    m: int, k: int, b: int, symmetric: bool, scaled: bool
) -> None:
    x, s, *rotation = example(m, k, b)
    given = (x, s if scaled else None, *rotation)
    got = triton_impl.block_rotation(*given, 8, symmetric)
    assert_codes_of(reference.values(x.double(), *given[1:]), *got, bits=8)
    assert_same_codes(got, custom_op.block_rotation(*given, 8, symmetric))


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_other_bits(bits: int) -> None:
    given = example(6, 64, 16)
    for symmetric in (True, False):
        got = triton_impl.block_rotation(*given, bits, symmetric)
        assert_same_codes(got, custom_op.block_rotation(*given, bits, symmetric))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rotated_in_float32(dtype: torch.dtype) -> None:
    x, *rest = example(6, 64, 16)
    got = triton_impl.block_rotation(x.to(dtype), *rest, 8, True)
    assert_codes_of(reference.values(x.to(dtype).double(), *rest), *got, bits=8)


def test_small_large_and_faulty_rows_harm_no_other() -> None:
    x, *rest = example(6, 64, 16)
    expected = triton_impl.block_rotation(x, *rest, 8, True)
    x[1] *= 1e-6
    x[2] *= 1e4
    x[3, 5] = float("nan")
    got = triton_impl.block_rotation(x, *rest, 8, True)
    kept = [0, 4, 5]
    assert torch.equal(got[0][kept], expected[0][kept])
    assert torch.equal(got[1][kept], expected[1][kept])
    assert got[1].isnan().flatten().tolist() == [False, False, False, True, False, False]
    clean = [1, 2]
    values = reference.values(x[clean].double(), *rest)
    assert_codes_of(values, got[0][clean], got[1][clean], got[2], bits=8)


def test_views_orders_of_every_width_and_no_rows() -> None:
    x, s, first, order, second = example(6, 48, 16)
    expected = triton_impl.block_rotation(x, s, first, order, second, 8, False)
    wide = torch.full((6, 80), float("nan"))
    wide[:, 9:57] = x
    for view in (x.T.contiguous().T, wide[:, 9:57]):
        for kind in (torch.int16, torch.int32):
            matrices = (m.T.contiguous().T for m in (first, second))
            one, two = matrices
            got = triton_impl.block_rotation(view, s, one, order.to(kind), two, 8, False)
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    none = triton_impl.block_rotation(x[:0], s, first, order, second, 8, False)
    assert [part.shape[0] for part in none] == [0, 0, 0]
