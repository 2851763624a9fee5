"""Attention with int8 scores in Triton, interpreted: against float64 over the definition's integers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.int_attention import custom_op, reference, triton_impl
from kernels.int_attention.cases import example

# b, h, queries, keys, d: several blocks of both, heads of one part and of two, padded ones
SHAPES = [(1, 2, 150, 77, 72), (2, 1, 40, 64, 64), (1, 1, 33, 250, 128), (1, 2, 5, 1, 40), (1, 1, 3, 20, 6)]  # fmt: skip


def row_errors(got: Tensor, exact: Tensor) -> Tensor:
    """||got - exact|| / ||exact|| of each row."""
    return (got.double() - exact).norm(dim=-1) / exact.norm(dim=-1)


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition's integers in float64, as the custom op lays its output out."""
    return reference.attend(reference.codes(q, k), v.double()).transpose(1, 2)


@pytest.mark.parametrize("halves", [1, 2], ids=["plain", "one-map"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_attention_of_the_definitions_integers(
    shape: tuple[int, int, int, int, int], halves: int
) -> None:
    q, k, v = example(*shape, halves)
    got = triton_impl.int_attention(q, k, v)
    assert float(row_errors(got, exact(q, k, v)).max()) <= 1e-6
    torch.testing.assert_close(got, custom_op.int_attention(q, k, v), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_of_keys_are_those_of_the_definition(shape: tuple[int, int, int, int, int]) -> None:
    _, k, _ = example(*shape)
    d = k.shape[-1]
    codes, scale = triton_impl.key_codes(k)
    expected = reference.codes(k, k)
    off = (codes[..., :d].float() - expected.k).abs()
    assert float(off.max()) <= 1
    assert int((off > 0).sum()) <= 1e-3 * off.numel()  # none where the mean is the same to the bit
    torch.testing.assert_close(scale, expected.k_scale, rtol=1e-5, atol=0.0)
    assert not codes[..., d:].any()


@pytest.mark.parametrize("halves", [1, 2], ids=["plain", "one-map"])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)], ids=["bf16", "fp16"]
)
def test_half_precision(dtype: torch.dtype, bound: float, halves: int) -> None:
    q, k, v = (x.to(dtype) for x in example(1, 1, 20, 70, 72, halves))
    got = triton_impl.int_attention(q, k, v)
    assert got.dtype == dtype
    assert float(row_errors(got, exact(q, k, v)).max()) <= bound


@pytest.mark.parametrize("d", [64, 72])
def test_scores_far_apart_pick_one_key(d: int, generator: torch.Generator) -> None:
    """Each query is 30 times the key that it looks for: the map is one-hot, the output that key's value."""
    k, v = torch.randn(2, 1, 1, 100, d, generator=generator)
    k = torch.nn.functional.normalize(k, dim=-1) * d**0.5
    wanted = torch.randperm(100, generator=generator)[:9]
    got = triton_impl.int_attention(30 * k[:, :, wanted], k, v)
    torch.testing.assert_close(got[:, :, 0], v[:, 0, wanted])


def test_a_query_of_zeros_takes_the_mean_of_the_values() -> None:
    q, k, v = example(1, 2, 4, 70, 72)
    got = triton_impl.int_attention(q, k, v)
    torch.testing.assert_close(got[:, 0], v.mean(2))


@pytest.mark.parametrize("size", [1e4, 1e-6])
def test_sizes_of_rows_do_not_matter(size: float) -> None:
    """Queries by a factor, keys by its inverse: the scores are the same."""
    q, k, v = example(1, 1, 6, 20, 72)
    got = triton_impl.int_attention(q * size, k / size, v)
    assert float(row_errors(got, exact(q * size, k / size, v)).max()) <= 1e-6
    assert float(row_errors(got, exact(q, k, v)).max()) <= 1e-2


@pytest.mark.parametrize("halves", [1, 2], ids=["plain", "one-map"])
def test_views_of_any_strides(halves: int) -> None:
    q, k, v = example(2, 3, 7, 20, 40, halves)
    expected = triton_impl.int_attention(q, k, v)
    for change in (
        lambda x: x.contiguous(),
        lambda x: x.mT.contiguous().mT,  # channels are not neighbours
        lambda x: torch.cat([x.contiguous(), x + 9.0], -1)[..., :40],
        lambda x: torch.cat([x.contiguous(), x[..., :1] * torch.nan], -1)[..., :40],  # odd strides
    ):
        views = [change(x) for x in (q, k, v)]
        assert len({x.stride() for x in (q, *views)}) > 1
        torch.testing.assert_close(triton_impl.int_attention(*views), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("channel", [3, 70])
@pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:All-NaN slice")
def test_a_fault_shows_in_its_row_or_its_head_and_harms_no_other(
    channel: int, value: float
) -> None:
    q, k, v = example(1, 2, 5, 20, 72)
    expected = triton_impl.int_attention(q, k, v)
    q[0, 0, 2, channel] = value
    k_faulty = k.clone()
    k_faulty[0, 1, 7, channel] = value
    for version in (triton_impl, custom_op):
        by_row = version.int_attention(q, k, v).isnan().all(-1)  # [1, t, h]
        assert by_row.nonzero().tolist() == [[0, 2, 0]]
        got = version.int_attention(q, k_faulty, v)
        assert got[:, :, 1].isnan().all()
        torch.testing.assert_close(got[0, [0, 1, 3, 4], 0], expected[0, [0, 1, 3, 4], 0])


def test_nothing_comes_of_nothing() -> None:
    q, k, v = example(1, 2, 5, 20, 72)
    assert triton_impl.int_attention(q[:, :, :0], k, v).shape == (1, 0, 2, 72)
    assert triton_impl.int_attention(q[:0], k[:0], v[:0]).shape == (0, 5, 2, 72)


@pytest.mark.parametrize(("d", "dtype"), [(72, torch.bfloat16), (120, torch.bfloat16), (72, torch.float32)])  # fmt: skip
def test_two_halves_are_two_attentions(d: int, dtype: torch.dtype) -> None:
    """In one program or, where registers do not suffice, in two."""
    q, k, v = (x.to(dtype) for x in example(2, 1, 6, 40, d, 2))
    got = triton_impl.int_attention(q, k, v)
    for half, y in zip(v.split(2), got.split(2), strict=True):
        torch.testing.assert_close(y, triton_impl.int_attention(q, k, half))
