"""Linear layers from packed codes: equal to the weight written out, never whole."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import kernels
from kernels import bitpack, int_linear
from kernels.int_linear import Branch, GatedResidual
from kernels.quantize_rows import RowCodes, quantize_rows
from kernels.vq_linear import (
    ExpandedWeight,
    VectorWeight,
    codes_of,
    decode,
    first_of_equals,
    multiply,
    reference,
    vq_linear,
)
from kernels.vq_linear.cases import example_weight


@pytest.mark.parametrize(("c", "d"), [(256, 4), (64, 2), (256, 2), (16, 4)])
def test_it_is_the_product_with_the_weight_written_out(c, d):
    weight = example_weight(24, 48, c, d)
    codes = bitpack.unpack(weight.packed, weight.bits, 48 // d)
    dense = torch.stack([torch.cat([weight.codebook[int(a)] for a in row]) for row in codes])
    assert torch.equal(decode(weight), dense)
    x, bias = torch.randn(5, 48), torch.randn(24)
    assert torch.allclose(vq_linear(x, weight, bias), F.linear(x, dense, bias), atol=1e-5)
    assert kernels.vq_linear(x.half(), weight).dtype == torch.float16


@pytest.mark.parametrize("tile", [1, 7, 24, 100])
def test_tiles_change_nothing(tile, monkeypatch):
    weight, x, bias = example_weight(24, 48, 64, 2), torch.randn(5, 48), torch.randn(24)
    whole = F.linear(x, decode(weight), bias)
    monkeypatch.setattr(reference, "TILE", tile * 48)
    assert torch.allclose(vq_linear(x, weight, bias), whole, atol=1e-5)


def test_a_call_holds_one_tile_and_not_the_weight(monkeypatch):
    weight, largest = example_weight(4096, 512, 256, 4), []
    true = reference.decode
    monkeypatch.setattr(
        reference, "decode", lambda w, rows: largest.append(true(w, rows).numel()) or true(w, rows)
    )
    vq_linear(torch.randn(2, 512), weight)
    assert max(largest) == 2**20 < 4096 * 512


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"in_features": 50}, "vectors of 4 do not divide 50"),
        ({"in_features": 64}, "rows of 16 bytes"),
        ({"codebook": torch.zeros(100, 4)}, "a power of two"),
    ],
)
def test_parts_that_do_not_belong_together_are_named(change, fault):
    weight = example_weight(4, 48, 256, 4)
    given = {"packed": weight.packed, "codebook": weight.codebook, "in_features": 48} | change
    with pytest.raises(ValueError, match=fault):
        VectorWeight(**given)
    with pytest.raises(ValueError, match="48"):
        vq_linear(torch.zeros(2, 40), weight)
    with pytest.raises(ValueError, match=r"bias has shape \(5,\); needs \(4,\)"):
        vq_linear(torch.zeros(2, 48), weight, torch.zeros(5))


def test_what_triton_cannot_decode_is_refused_with_its_reason():
    for d in (3, 64):
        weight = example_weight(4, 192, 16, d)
        with pytest.raises(RuntimeError, match=f"vectors of {d} have no Triton version"):
            vq_linear(torch.zeros(2, 192), weight, backend="triton")


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_in_half_precision_the_kernel_rounds_its_codebook(stored):
    """What the custom op says on the CPU, against the definition: bfloat16 costs the codebook 2^-9."""
    whole = example_weight(24, 48, 256, 4)
    weight = VectorWeight(whole.packed, whole.codebook.to(stored), 48)
    for dtype, tolerance in ((torch.bfloat16, 6e-3), (torch.float16, 1e-3), (torch.float32, 1e-6)):
        x = torch.randn(5, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
        got = torch.ops.dqviz.vq_linear(x, None, weight.packed, weight.codebook, None, None, dtype)
        expected = x.double() @ decode(weight).double().T
        assert got.dtype == dtype
        assert (got.double() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
@pytest.mark.parametrize(("c", "d"), [(256, 4), (64, 2)])
def test_rows_of_8_bits_multiply_a_codebook_of_8_bits(c, d, stored):
    """Against float64, from the codes: both lie on 127 steps to the largest element."""
    whole = example_weight(24, 48, c, d)
    weight = VectorWeight(whole.packed, whole.codebook.to(stored), 48)
    x, bias = torch.randn(5, 48, generator=torch.Generator().manual_seed(1)), torch.randn(24)
    x[2] = 0.0
    codebook, dense = weight.codebook.double(), decode(weight).double()
    e, s = (
        codebook.abs().max() / 127,
        (x.double().abs().amax(1, keepdim=True) / 127).clamp(min=1e-8),
    )
    expected = ((x / s).round() @ (dense / e).round().T) * s * e + bias
    for dtype in (torch.float32, torch.float16):
        got = vq_linear(x.to(dtype), weight, bias, act_bits=8)
        assert got.dtype == dtype
    assert torch.allclose(vq_linear(x, weight, bias, act_bits=8).double(), expected, atol=1e-5)
    exact = x.double() @ dense.T + bias
    assert 0 < (expected - exact).norm() < 0.02 * exact.norm()
    with pytest.raises(ValueError, match="bits is 9"):
        vq_linear(x, weight, act_bits=9)


def test_a_codebook_of_zeros_is_rounded_to_zeros():
    weight = VectorWeight(example_weight(4, 16, 16, 4).packed, torch.zeros(16, 4), 16)
    assert not weight.rounded.codebook.any()
    assert torch.equal(vq_linear(torch.ones(2, 16), weight, act_bits=8), torch.zeros(2, 4))
    assert float(weight.rounded.scale) > 0


def whole(n: int, k: int, c: int, d: int, seed: int = 0) -> VectorWeight:
    """A weight with a codebook in int8, the largest operands among its words."""
    generator = torch.Generator().manual_seed(seed)
    codebook = torch.randint(-127, 128, (c, d), generator=generator, dtype=torch.int8)
    codebook[0], codebook[-1] = 127, -127
    packed = example_weight(n, k, c, d, seed).packed
    return VectorWeight(packed, codebook, k, torch.tensor([0.01]))


def integers(weight: VectorWeight) -> torch.Tensor:
    """q [n, k] in float64, word by word."""
    d = weight.codebook.shape[1]
    codes = bitpack.unpack(weight.packed, weight.bits, weight.in_features // d)
    return weight.codebook.double()[codes.long()].flatten(1)


SHAPES = [(7, 36, 5, 256, 4), (33, 132, 90, 64, 2), (1, 16, 3, 2, 8), (5, 11, 4, 16, 1)]


@pytest.mark.parametrize(("m", "k", "n", "c", "d"), SHAPES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_integer_sums_are_exact_whoever_adds_them(m, k, n, c, d, symmetric):
    """Definition, custom op, and both products of a byte for each weight."""
    weight, generator = whole(n, k, c, d), torch.Generator().manual_seed(k)
    x = torch.randn(m, k, generator=generator)
    x[0] = x[0].sign()
    rows = quantize_rows(x, 8, symmetric)
    a = rows.codes.double() - (0 if rows.zero is None else rows.zero.double())
    expected = a @ integers(weight).T
    ones = RowCodes(rows.codes, torch.ones(m, 1), rows.zero)
    plain = VectorWeight(weight.packed, weight.codebook, k, torch.ones(1))
    assert torch.equal(multiply(ones, plain).double(), expected)
    backends = ["simulate"]
    if int_linear.cpu.available() and not int_linear.cpu.saturates():
        backends.append("integer")
    for backend in backends:
        sums = int_linear.accumulate(x, ExpandedWeight(weight), 8, symmetric, backend)
        assert torch.equal(sums.double(), expected)
    if symmetric:
        parts = (weight.packed, weight.codebook, torch.ones(1), None, torch.float32)
        told = torch.ops.dqviz.vq_linear(rows.codes.to(torch.int8), ones.scale, *parts)
        assert torch.equal(told.double(), expected)


@pytest.mark.parametrize(("m", "k", "n", "c", "d"), SHAPES)
def test_what_a_codebook_in_int8_stands_for(m, k, n, c, d):
    weight, x = whole(n, k, c, d), torch.randn(m, k)
    values = integers(weight) * float(weight.scale)
    assert torch.allclose(decode(weight).double(), values, rtol=1e-6)
    assert weight.rounded is weight
    assert torch.allclose(ExpandedWeight(weight).dequantize().double(), values, rtol=1e-6)
    assert torch.allclose(vq_linear(x, weight).double(), x.double() @ values.T, atol=1e-4)
    told = torch.ops.dqviz.vq_linear(x, None, weight.packed, weight.vectors, None, None, x.dtype)
    assert torch.allclose(told.double(), x.double() @ values.T, atol=1e-4)


@pytest.mark.parametrize("act_bits", [8, 5, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_comes_after_is_that_of_the_expanded_product(act_bits, dtype):
    """GELU, gate and residual, a branch: the same numbers as of a byte for each weight."""
    weight, x, bias = whole(12, 48, 64, 2), torch.randn(6, 48), torch.randn(12)
    rows, expanded = quantize_rows(x, act_bits), ExpandedWeight(weight)
    gated = GatedResidual(torch.randn(2, 12), torch.randn(6, 12))
    branch = Branch(torch.randn(6, 3), torch.randn(12, 3))
    for after in (None, "gelu", gated):
        for beside in (None, branch):
            ends = (bias, act_bits, "simulate", after, dtype, beside)
            got, expected = (
                multiply(rows, weight, *ends),
                int_linear.multiply(rows, expanded, *ends),
            )
            assert got.dtype == dtype
            assert torch.equal(got, expected)


@pytest.mark.parametrize(("c", "d"), [(256, 4), (64, 2), (2, 8), (16, 1)])
@pytest.mark.parametrize("words", ["distinct", "equal in pairs", "all zero"])
def test_codes_are_found_again_where_they_name_the_first_of_equals(c, d, words):
    weight = whole(9, 24, c, d, seed=c)
    codebook = weight.codebook.clone()
    if words == "equal in pairs":
        codebook[1::2] = codebook[::2]
    elif words == "all zero":
        codebook.zero_()
    first = first_of_equals(codebook)
    assert all(int(a) == (codebook == word).all(1).nonzero()[0, 0] for a, word in zip(first, codebook, strict=True))  # fmt: skip
    codes = bitpack.unpack(weight.packed, weight.bits, 24 // d)
    own = VectorWeight(bitpack.pack(first[codes.long()], weight.bits), codebook, 24, weight.scale)
    expanded = ExpandedWeight(own)
    assert torch.equal(codes_of(expanded, codebook), own.packed)
    other = VectorWeight(weight.packed, codebook, 24, weight.scale)
    assert torch.equal(expanded.codes(), ExpandedWeight(other).codes())


def test_scales_belong_to_codebooks_of_integers():
    weight = whole(4, 16, 16, 4)
    with pytest.raises(ValueError, match=r"codebook is torch.int8 without a scale"):
        VectorWeight(weight.packed, weight.codebook, 16)
    with pytest.raises(ValueError, match=r"codebook is torch.float32 with a scale"):
        VectorWeight(weight.packed, weight.vectors, 16, weight.scale)
    with pytest.raises(ValueError, match=r"shape \(1, 1\); needs float32 \(1,\)"):
        VectorWeight(weight.packed, weight.codebook, 16, weight.scale.view(1, 1))
    with pytest.raises(ValueError, match=r"codebook is torch.float32; integers are made of one in int8"):  # fmt: skip
        ExpandedWeight(VectorWeight(weight.packed, weight.vectors, 16))
    with pytest.raises(ValueError, match="vectors of 3 elements"):
        first_of_equals(torch.zeros(4, 3, dtype=torch.int8))


def test_rows_that_do_not_fit_are_named():
    weight = whole(4, 16, 16, 4)
    with pytest.raises(ValueError, match=r"shape \(2, 12\); needs \(m, 16\)"):
        multiply(quantize_rows(torch.ones(2, 12), 8), weight)
    with pytest.raises(ValueError, match="float16; needs integers"):
        multiply(RowCodes(torch.ones(2, 16).half(), torch.ones(2, 1)), weight)
    gated = GatedResidual(torch.ones(1, 4), torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"residual has shape"):
        multiply(quantize_rows(torch.ones(2, 16), 8), weight, after=gated)
    with pytest.raises(RuntimeError, match="zeros of their own have no Triton version"):
        multiply(quantize_rows(torch.ones(2, 16), 8, False), weight, backend="triton")
