"""Products with a codebook's weight in Triton, interpreted: codes of every width, outputs against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels import bitpack
from kernels.int_linear import GatedResidual
from kernels.quantize_rows import RowCodes, quantize_rows
from kernels.quantize_rows import custom_op as row_op
from kernels.vq_linear import VectorWeight, custom_op, multiply, triton_impl, vq_linear
from kernels.vq_linear.cases import CALLS, example_weight

# m, k, n, vectors, elements; the last has more rows of tiles than one group of the order in which they run
SHAPES = [
    (77, 132, 90, 256, 4),
    (77, 132, 90, 64, 2),
    (128, 128, 128, 64, 2),
    (3, 36, 5, 256, 4),
    (130, 64, 129, 256, 4),
    (1050, 32, 130, 64, 2),
]


def rows_of(m: int, k: int) -> Tensor:
    """Seeded rows, among them zeros, large and small ones."""
    x = torch.randn(m, k, generator=torch.Generator().manual_seed(m)) + 0.3
    for i, change in enumerate((0.0, 1e4, 1e-6)):
        x[i % m] *= change
    return x


def product(x: Tensor, weight: VectorWeight, bias: Tensor | None = None) -> Tensor:
    """What the kernel gives."""
    return triton_impl.vq_linear(x, None, weight.packed, weight.codebook, None, bias, x.dtype)


def integer_product(
    x: Tensor, weight: VectorWeight, bias: Tensor | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """What the kernel gives of rows and a codebook in int8."""
    codes, scale, _ = row_op.as_int8(x, 8, True)
    own = weight.rounded
    return triton_impl.vq_linear(codes, scale, own.packed, own.codebook, own.scale, bias, dtype)


def exact(x: Tensor, weight: VectorWeight, bias: Tensor | None = None) -> Tensor:
    """The same in float64, from the stored codes and nothing of the op."""
    count = weight.in_features // weight.codebook.shape[1]
    codes = bitpack.unpack(weight.packed, weight.bits, count)
    w = weight.codebook.double()[codes.long()].flatten(1)  # [n, k]
    y = x.double() @ w.T
    return y if bias is None else y + bias.double()


def exact_of_integers(x: Tensor, weight: VectorWeight, bias: Tensor | None = None) -> Tensor:
    """The same for rows and a codebook on 127 steps, the steps from the formula."""
    codes, scale, _ = row_op.as_int8(x, 8, True)
    e = float(weight.codebook.abs().max()) / 127
    whole = VectorWeight(weight.packed, (weight.codebook / e).round(), weight.in_features)
    y = exact(codes, whole) * scale.double() * e
    return y if bias is None else y + bias.double()


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Row by row, because rows differ by ten orders of magnitude."""
    off = (got.double() - expected).norm(dim=1)
    assert bool((off <= tolerance * expected.norm(dim=1) + 1e-12).all()), off


@pytest.mark.parametrize(("m", "k", "n", "c", "d"), SHAPES)
def test_outputs_against_float64(m: int, k: int, n: int, c: int, d: int) -> None:
    weight, x = example_weight(n, k, c, d), rows_of(m, k)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(n))
    for b in (bias, None):
        got = product(x, weight, b)
        assert got.dtype == torch.float32
        assert_close(got, exact(x, weight, b), 1e-6)


@pytest.mark.parametrize(("m", "k", "n", "c", "d"), SHAPES[:5])
def test_integer_sums_are_exact(m: int, k: int, n: int, c: int, d: int) -> None:
    generator = torch.Generator().manual_seed(k)
    codes = torch.randint(-127, 128, (m, k), generator=generator, dtype=torch.int8)
    book = torch.randint(-127, 128, (c, d), generator=generator, dtype=torch.int8)
    packed = example_weight(n, k, c, d).packed
    codes[0], book[0] = -127, 127  # the largest operands
    got = triton_impl.vq_linear(codes, torch.ones(m, 1), packed, book, torch.ones(1, 1), None, torch.float32)  # fmt: skip
    assert torch.equal(got.double(), exact(codes, VectorWeight(packed, book.float(), k)))


@pytest.mark.parametrize(("m", "k", "n", "c", "d"), SHAPES[:4])
def test_rows_and_codebook_of_8_bits_against_float64(
    m: int, k: int, n: int, c: int, d: int
) -> None:
    weight, x = example_weight(n, k, c, d), rows_of(m, k)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(n))
    for b in (bias, None):
        assert_close(integer_product(x, weight, b), exact_of_integers(x, weight, b), 1e-6)


@pytest.mark.parametrize(
    ("bits", "d"), [*((bits, 2) for bits in range(1, 9)), (6, 1), (7, 8), (3, 32)]
)
def test_the_weight_itself_comes_out_exactly(bits: int, d: int) -> None:
    """Rows of an identity read the weight; 11 vectors end inside a byte for most widths, 8 never do."""
    for count in (8, 11):
        k = count * d
        weight, eye = example_weight(7, k, 2**bits, d, seed=bits), torch.eye(k)
        assert torch.equal(product(eye, weight).double(), exact(eye, weight))


# The interpreter cuts bfloat16 off where a GPU rounds: one unit in the last place instead of half.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_half_precision_rounds_the_codebook_and_nothing_else(
    dtype: torch.dtype, tolerance: float, stored: torch.dtype
) -> None:
    whole = example_weight(40, 128, 256, 4)
    weight = VectorWeight(whole.packed, whole.codebook.to(stored), 128)
    x = rows_of(10, 128)[[0, *range(3, 10)]].to(dtype)
    rounded = VectorWeight(whole.packed, weight.codebook.to(dtype), 128)
    got = product(x, weight)
    assert got.dtype == dtype
    assert_close(got, exact(x, rounded), tolerance)
    sums = product(x.float(), rounded)  # the same sums, stored without rounding
    assert_close(sums, exact(x, rounded), 1e-6)


def test_views_of_rows_codes_codebook_and_bias() -> None:
    weight, x = example_weight(9, 40, 64, 2), rows_of(6, 40)
    bias = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))[:, 1]
    expected = product(x, weight, bias.contiguous())
    wide = torch.full((6, 64), 99.0)
    wide[:, 5:45] = x
    for view in (wide[:, 5:45], x.T.contiguous().T):
        assert torch.equal(product(view, weight, bias), expected)
    padded = torch.full((9, 20), 255, dtype=torch.uint8)
    padded[:, 2:17] = weight.packed
    book = torch.full((64, 5), 99.0)
    book[:, 1:3] = weight.codebook
    for own in (padded[:, 2:17], weight.packed.T.contiguous().T):
        view = VectorWeight(own, book[:, 1:3], 40)
        assert torch.equal(product(x, view, bias.to(torch.float64)), expected)
    assert product(x[:0], weight).shape == (0, 9)
    assert torch.equal(product(x.double(), weight, bias), expected.double())
    codes, scale, _ = row_op.as_int8(x, 8, True)
    wide = torch.full((6, 64), 99, dtype=torch.int8)
    wide[:, 5:45] = codes
    book = torch.randint(-127, 128, (64, 2), dtype=torch.int8)
    one = torch.tensor([[0.5]])
    rest = (weight.packed, book, one, bias, torch.float32)
    expected = triton_impl.vq_linear(codes, scale, *rest)
    scales = torch.cat([scale, scale], 1)[:, :1]
    assert torch.equal(triton_impl.vq_linear(wide[:, 5:45], scales, *rest), expected)


def test_a_row_of_nan_or_inf_harms_no_other() -> None:
    weight, x = example_weight(9, 40, 64, 2), rows_of(6, 40)
    expected = product(x, weight)
    x[4, 3], x[5, 7] = float("nan"), float("inf")
    got = product(x, weight)
    assert torch.equal(got[:4], expected[:4])
    assert not torch.isfinite(got[4:]).any()


def test_the_custom_op_says_what_the_kernel_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, call in CALLS.items():
        arguments = call()
        got, told = triton_impl.vq_linear(*arguments), custom_op.vq_linear(*arguments)
        assert got.dtype == told.dtype
        assert_close(got, told.double(), 1e-6 if "float32" in name else 8e-3)
    weight, x = example_weight(20, 96, 256, 4), rows_of(8, 96)
    bias = torch.randn(20, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(custom_op, "vq_linear", triton_impl.vq_linear)
    monkeypatch.setattr(custom_op, "triton_obstacle", lambda *about: None)
    for act_bits, expected in (
        (None, exact(x, weight, bias)),
        (8, exact_of_integers(x, weight, bias)),
    ):
        assert_close(vq_linear(x, weight, bias, "triton", act_bits), expected, 1e-6)


@pytest.mark.parametrize(("m", "k", "n", "c", "d"), [SHAPES[1], SHAPES[3]])
@pytest.mark.parametrize("bits", [8, 4])
def test_rows_made_elsewhere_meet_a_stored_int8_codebook(
    monkeypatch: pytest.MonkeyPatch, m: int, k: int, n: int, c: int, d: int, bits: int
) -> None:
    """Sums as the definition's, whether codes come in int8 or in float32; gate and residual after them."""
    monkeypatch.setattr(custom_op, "vq_linear", triton_impl.vq_linear)
    monkeypatch.setattr(custom_op, "triton_obstacle", lambda *about: None)
    own, x = example_weight(n, k, c, d).rounded, rows_of(m, k)
    unit = VectorWeight(own.packed, own.codebook, k, torch.ones(1))
    rows = quantize_rows(x, bits)
    for codes in (rows.codes, rows.codes.to(torch.int8)):
        ones = RowCodes(codes, torch.ones(m, 1))
        sums = multiply(ones, unit, None, bits, "triton")
        assert torch.equal(sums, multiply(ones, unit, None, bits, "simulate"))
    whole = VectorWeight(own.packed, own.codebook.float(), k)
    assert torch.equal(sums.double(), exact(rows.codes, whole))
    gated = GatedResidual(torch.ones(1, n), torch.ones(m, n))
    got = multiply(rows, own, None, bits, "triton", gated)
    expected = exact(rows.codes, whole) * rows.scale.double() * float(own.scale) + 1
    assert_close(got, expected, 1e-6)
