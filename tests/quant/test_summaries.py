"""Numbers of heatmaps against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from quant.seen_layout import bin_edges
from quant.summaries import STATISTICS, summarize


def fields_of(x: np.ndarray) -> dict[str, np.ndarray]:
    """Of x [S, B, rows, c], every row sampled."""
    s, b = x.shape[:2]
    counts = [np.histogram(part, bin_edges())[0] for part in x.reshape(s * b, -1)]
    return {
        "minimum": x.min(2),
        "maximum": x.max(2),
        "mean": x.mean(2),
        "second_moment": (x * x).mean(2),
        "mean_abs": np.abs(x).mean((2, 3)),
        "histogram": np.stack(counts).reshape(s, b, -1),
        "moments": np.stack([(x**p).sum((2, 3)) for p in (1, 2, 3, 4)], -1),
        "row_absmax": np.abs(x).max(-1),
    }


def test_a_gaussian_has_its_textbook_numbers():
    x = np.random.default_rng(0).normal(0.5, 2.0, (2, 2, 400, 50))
    found = summarize(fields_of(x))
    assert set(found) == set(STATISTICS)
    assert found["kurtosis"] == pytest.approx(3, abs=0.15)
    assert found["mean"] == pytest.approx(0.5, abs=0.05)
    assert found["std"] == pytest.approx(2.0, rel=0.02)
    assert found["share_negative"] == pytest.approx(0.4013, abs=0.01)  # Phi(-1/4)
    assert found["absmax"] == pytest.approx(np.abs(x).max((2, 3)))
    assert found["range"] == pytest.approx(x.max((2, 3)) - x.min((2, 3)))
    assert found["incoherence"] == pytest.approx(np.abs(x).max((2, 3)) / np.abs(x).mean((2, 3)))


def test_each_statistic_sees_what_it_is_named_after():
    x = np.ones((3, 1, 8, 10))
    x[..., 4] = 30.0  # one channel stands out
    x[1:] *= 2  # and everything doubles after the first step
    x[:, :, 0] *= 5  # one row is larger
    found = {key: value[:, 0] for key, value in summarize(fields_of(x)).items()}
    assert found["channel_imbalance"] == pytest.approx(30)
    assert found["row_spread"] == pytest.approx(5)
    assert found["asymmetry"] == pytest.approx((150 + 1) / (150 - 1))
    assert np.isnan(found["drift"][0])
    assert found["drift"][1:] == pytest.approx([1, 0])
    assert found["share_negative"] == pytest.approx(0)


def test_an_input_of_zeros_has_no_infinity():
    found = summarize(fields_of(np.zeros((2, 2, 4, 6))))
    for key, value in found.items():
        assert not np.isinf(value).any(), key
    assert found["incoherence"] == pytest.approx(1)
