"""The assignment of k-means: nearest up to rounding, lowest index among equals, in chunks or at once."""

from __future__ import annotations

import pytest
import torch

import kernels
from kernels.kmeans_assign import kmeans_assign, reference
from kernels.kmeans_assign.cases import SHAPES, example


@pytest.mark.parametrize(("s", "k", "d"), SHAPES)
def test_the_nearest_is_taken_and_its_distance_told(s: int, k: int, d: int) -> None:
    vectors, codebook = example(s, k, d, seed=k)
    codes, distances = kmeans_assign(vectors, codebook)
    assert codes.dtype == torch.uint8
    every = (vectors.double()[:, None] - codebook.double()).square().sum(2)
    taken = every.gather(1, codes.long()[:, None])[:, 0]
    torch.testing.assert_close(distances.double(), taken, rtol=1e-6, atol=1e-12)
    # the search is over ||C||^2 - 2 v C, which is larger than the distance
    slack = 1e-6 * (vectors.double().square().sum(1) + codebook.double().square().sum(1).max())
    assert bool((taken <= every.amin(1) + slack).all())


def test_equal_codewords_go_to_the_lowest_index() -> None:
    vectors, codebook = example(200, 8, 4)
    once = kmeans_assign(vectors, codebook)[0]
    assert torch.equal(kmeans_assign(vectors, torch.cat([codebook, codebook]))[0], once)
    assert kernels.kmeans_assign(torch.zeros(2, 3), torch.ones(5, 3))[0].tolist() == [0, 0]


def test_nothing_is_larger_than_a_chunk_of_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, codebook = example(100, 16, 4)
    expected = kmeans_assign(vectors, codebook)
    monkeypatch.setattr(reference, "CHUNK", 16 * 7)
    assert {gaps.shape for _, gaps in reference.gaps_of(vectors, codebook)} == {(7, 16), (2, 16)}
    for a, b in zip(kmeans_assign(vectors, codebook), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_what_cannot_be_assigned_is_refused() -> None:
    vectors, codebook = example(5, 4, 2)
    for given, said in (
        ((vectors.double(), codebook), r"vectors: torch\.float64 of shape \(5, 2\)"),
        ((vectors[0], codebook), r"vectors: torch\.float32 of shape \(2,\)"),
        (
            (vectors, codebook[:, :1]),
            r"codebook: torch\.float32 of shape \(4, 1\); needs float32 \[any, 2\]",
        ),
        ((vectors, codebook.half()), r"codebook: torch\.float16"),
        ((vectors, torch.zeros(257, 2)), "codebook has 257 vectors of 2; needs 1 to 256"),
        ((vectors, codebook[:0]), "codebook has 0 vectors"),
        ((vectors[:, :0], codebook[:, :0]), "of 1 element or more"),
        ((vectors, codebook.to("meta")), "vectors are on cpu, the codebook on meta; move one"),
    ):
        with pytest.raises(ValueError, match=said):
            kmeans_assign(*given)
    with pytest.raises(
        RuntimeError, match=r"kmeans_assign cannot run with backend triton: .+; use"
    ):
        kmeans_assign(vectors, codebook, "triton")
    codes, distances = kmeans_assign(vectors[:0], codebook)
    assert (codes.shape, distances.shape) == ((0,), (0,))
