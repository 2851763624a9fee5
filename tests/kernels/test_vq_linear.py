"""Linear layers from packed codes: equal to the weight written out, never whole."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import kernels
from kernels import bitpack
from kernels.vq_linear import VectorWeight, decode, reference, vq_linear
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
    whole, scale = weight.rounded
    assert not whole.codebook.any()
    assert torch.equal(vq_linear(torch.ones(2, 16), weight, act_bits=8), torch.zeros(2, 4))
    assert float(scale) > 0
