"""Attention with int8 scores: the definition against attention in float64, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.int_attention import custom_op, int_attention, reference
from kernels.int_attention.cases import example


def error(y: Tensor, q: Tensor, k: Tensor, v: Tensor) -> float:
    """Relative to attention in float64."""
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    return float((y.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("d", [6, 64, 72, 128])
def test_it_is_close_to_attention(d: int) -> None:
    q, k, v = example(2, 3, 33, 77, d)
    assert error(int_attention(q, k, v), q, k, v) <= 0.02


def test_it_is_attention_of_what_the_codes_stand_for() -> None:
    q, k, v = (x.double() for x in example(2, 3, 33, 77, 72))
    found = reference.codes(q, k)
    for codes in (found.q, found.k):
        assert torch.equal(codes, codes.round())
        assert int(codes.abs().amax(-1).min()) in (0, 127)
        assert int(codes.abs().max()) == 127
    stands_for = [c.double() * s.double() for c, s in (found[:2], found[2:])]
    for got, scale, x in zip(
        stands_for, found[1::2], (q, k - k.mean(2, keepdim=True)), strict=True
    ):
        assert bool(((got - x).abs() <= scale * (0.5 + 1e-4)).all())
    expected = (stands_for[0] @ stands_for[1].mT / 72**0.5).softmax(-1) @ v
    torch.testing.assert_close(reference.attend(found, v), expected)


def test_what_all_keys_have_in_common_changes_nothing(generator: torch.Generator) -> None:
    q, k, v = example(1, 2, 20, 50, 64)
    shifted = k + 3.0 * torch.randn(1, 2, 1, 64, generator=generator)
    torch.testing.assert_close(
        F.scaled_dot_product_attention(q, shifted, v),
        F.scaled_dot_product_attention(q, k, v),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(reference.codes(q, shifted).k_scale, reference.codes(q, k).k_scale)
    assert error(int_attention(q, shifted, v), q, k, v) <= 0.02


def test_a_channel_that_is_large_in_all_keys_needs_the_mean_taken_off() -> None:
    q, k, v = example(1, 4, 64, 64, 72)  # channel 36 of k lies about 20
    kept = reference.Codes(*reference.codes(q, k)[:2], *reference.codes(k, k)[:2])
    with_mean, without = error(reference.attend(kept, v), q, k, v), error(int_attention(q, k, v), q, k, v)  # fmt: skip
    assert without < with_mean / 4


def test_two_halves_share_the_map_of_one() -> None:
    q, k, v = example(2, 3, 20, 30, 72, 2)
    expected = torch.cat([int_attention(q, k, half) for half in v.split(2)])
    torch.testing.assert_close(int_attention(q, k, v), expected, rtol=0.0, atol=0.0)


def test_one_key_gives_its_value() -> None:
    q, k, v = example(1, 2, 5, 1, 72)
    torch.testing.assert_close(int_attention(q, k, v), v.expand(1, 2, 5, 72))


def test_nothing_comes_of_nothing() -> None:
    q, k, v = example(2, 2, 5, 7, 72)
    assert int_attention(q[:, :, :0], k, v).shape == (2, 2, 0, 72)
    assert int_attention(q[:0], k[:0], v[:0]).shape == (0, 2, 5, 72)


def test_the_custom_op_lays_heads_side_by_side() -> None:
    q, k, v = example(1, 2, 5, 7, 72)
    y = custom_op.attention(q, k, v)
    assert torch.equal(y, int_attention(q, k, v))
    assert y.transpose(1, 2).is_contiguous()


def test_halves_are_computed_in_float32() -> None:
    q, k, v = (x.bfloat16() for x in example(1, 2, 5, 30, 72))
    got = int_attention(q, k, v)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, int_attention(q.float(), k.float(), v.float()).bfloat16())


def test_bad_input_is_named() -> None:
    q, k, v = example(2, 2, 5, 7, 72)
    with pytest.raises(ValueError, match=r"q is torch.int64 of shape .* needs q, k and v of one"):
        int_attention(q.long(), k, v)
    with pytest.raises(ValueError, match=r"v is torch.bfloat16"):
        int_attention(q, k, v.bfloat16())
    with pytest.raises(ValueError, match=r"k is torch.float32 of shape \(2, 7, 72\)"):
        int_attention(q, k[:, 0], v)
    with pytest.raises(ValueError, match=r"k has shape \(2, 2, 7, 71\); needs \(2, 2, keys, 72\)"):
        int_attention(q, k[..., 1:], v)
    with pytest.raises(ValueError, match="at least one key"):
        int_attention(q, k[:, :, :0], v[:, :, :0])
    with pytest.raises(
        ValueError, match=r"v has shape \(1, 2, 7, 72\); needs \(2, 2, 7, 72\), or \(4, "
    ):
        int_attention(q, k, v[:1])
    with pytest.raises(RuntimeError, match=r"cannot run with backend triton: .*CUDA device"):
        int_attention(q, k, v, backend="triton")
    wide = torch.ones(1, 1, 2, 160)
    with pytest.raises(RuntimeError, match="heads of 160 channels; a program holds 128 at most"):
        int_attention(wide, wide, wide, backend="triton")
    with pytest.raises(RuntimeError, match="float64; programs compute in float32 at most"):
        int_attention(q.double(), k.double(), v.double(), backend="triton")
