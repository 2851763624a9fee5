"""The assignment of k-means in Triton, interpreted: no codeword is nearer than the one that is taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.kmeans_assign import custom_op, kmeans_assign, triton_impl
from kernels.kmeans_assign.cases import SHAPES, example

# vectors, codewords, elements; the last two have more rows than a program, and elements that are no power of two
EVERY = [*SHAPES, (2050, 16, 4), (700, 5, 3)]


def exact(vectors: Tensor, codebook: Tensor) -> Tensor:
    """All squared distances in float64, [s, k]."""
    return (vectors.double()[:, None] - codebook.double()).square().sum(2)


@pytest.mark.parametrize(("s", "k", "d"), EVERY)
def test_the_nearest_is_taken_and_its_distance_told(s: int, k: int, d: int) -> None:
    vectors, codebook = example(s, k, d, seed=s)
    vectors[0], codebook[-1] = codebook[0], 1e3
    codes, distances = triton_impl.kmeans_assign(vectors, codebook)
    assert (codes.dtype, distances.dtype) == (torch.uint8, torch.float32)
    every = exact(vectors, codebook)
    taken = every.gather(1, codes.long()[:, None])[:, 0]
    torch.testing.assert_close(distances.double(), taken, rtol=1e-6, atol=1e-12)
    assert bool((taken <= every.amin(1) * (1 + 1e-6) + 1e-12).all())


def test_equal_codewords_go_to_the_lowest_index() -> None:
    vectors, codebook = example(200, 8, 4)
    twice = torch.cat([codebook, codebook, codebook.flip(0)])
    once = triton_impl.kmeans_assign(vectors, codebook)
    for a, b in zip(triton_impl.kmeans_assign(vectors, twice), once, strict=True):
        assert torch.equal(a, b)
    midway = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    pair = torch.tensor([[3.0, 3.0], [0.5, 1.0], [0.5, -1.0], [0.5, 1.0]])
    codes, distances = triton_impl.kmeans_assign(midway, pair)
    assert (codes.tolist(), distances.tolist()) == ([1, 1], [1.25, 1.25])


def test_the_last_of_256_codewords_is_found() -> None:
    codebook = torch.arange(256.0)[:, None]
    codes, distances = triton_impl.kmeans_assign(codebook.flip(0), codebook)
    assert torch.equal(codes.int(), torch.arange(255, -1, -1, dtype=torch.int32))
    assert not distances.any()


def test_views_and_no_vectors_at_all() -> None:
    vectors, codebook = example(30, 16, 4)
    expected = triton_impl.kmeans_assign(vectors, codebook)
    wide, book = torch.full((30, 9), 99.0), torch.full((16, 7), 99.0)
    wide[:, 2:6], book[:, 1:5] = vectors, codebook
    for v in (wide[:, 2:6], vectors.T.contiguous().T):
        for c in (book[:, 1:5], codebook.T.contiguous().T):
            for a, b in zip(triton_impl.kmeans_assign(v, c), expected, strict=True):
                assert torch.equal(a, b)
    codes, distances = triton_impl.kmeans_assign(vectors[:0], codebook)
    assert (codes.shape, distances.shape) == ((0,), (0,))


def test_a_vector_of_nan_shows_and_harms_no_other() -> None:
    vectors, codebook = example(9, 16, 4)
    codes, distances = triton_impl.kmeans_assign(vectors, codebook)
    vectors[4, 1] = float("nan")
    others = [*range(4), *range(5, 9)]
    got, off = triton_impl.kmeans_assign(vectors, codebook)
    assert bool(off[4].isnan())
    assert torch.equal(got[others], codes[others])
    assert torch.equal(off[others], distances[others])
    codebook[7] = float("nan")  # as the definition: nearest to all
    got, off = triton_impl.kmeans_assign(vectors[others], codebook)
    assert (set(got.tolist()), bool(off.isnan().all())) == ({7}, True)


def test_the_custom_op_says_what_the_kernel_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_op, "kmeans_assign", triton_impl.kmeans_assign)
    monkeypatch.setattr("kernels.kmeans_assign.triton_obstacle", lambda *about: None)
    vectors, codebook = example(300, 64, 2)
    got, expected = (kmeans_assign(vectors, codebook, b) for b in ("triton", "simulate"))
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1], rtol=1e-6, atol=1e-12)
