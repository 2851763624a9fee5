"""How the codewords of a site are used, as the views of the Methods page read it."""

from __future__ import annotations

import pytest
import torch

from quant.clustering import GROUPS, usage
from quant.vectors import VectorCodes


def codes(counts: list[int]) -> VectorCodes:
    """Codes that take codeword i counts[i] times."""
    flat = torch.cat([torch.full((c,), i, dtype=torch.uint8) for i, c in enumerate(counts)])
    return VectorCodes(flat.reshape(1, -1), torch.zeros(len(counts), 4))


def test_codewords_that_are_used_alike_are_worth_all_their_bits() -> None:
    found = usage(codes([3] * 256))
    assert (found["used"], found["dead"], found["worth"]) == (1.0, 0, pytest.approx(8))
    assert found["counts"] == [3.0] * GROUPS


def test_unused_ones_are_counted_and_the_most_used_come_first() -> None:
    found = usage(codes([2, 0, 6, 0]))
    assert (found["used"], found["dead"]) == (0.5, 2)
    assert found["counts"] == [6.0, 2.0, 0.0, 0.0]
    assert found["worth"] == pytest.approx(0.8113, abs=1e-4)
    assert sum(usage(codes([1] * 60 + [0] * 4))["counts"]) * 2 == 60
