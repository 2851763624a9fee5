"""Set distances against Gaussians whose distance is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from quant.errors import BadInput
from quant.frechet import (
    LABEL,
    distance,
    frechet_distance,
    kid,
    latent_features,
    too_few,
)


def gaussian(
    n: int, mean: float = 0.0, std: float = 1.0, d: int = 8, seed: int = 0
) -> torch.Tensor:
    noise = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean + std * noise


def test_frechet_of_known_gaussians():
    """Isotropic Gaussians: d |m1 - m2|^2 + d (s1 - s2)^2."""
    a, b = gaussian(60_000, 0.0, 1.0, seed=1), gaussian(60_000, 0.5, 2.0, seed=2)
    assert frechet_distance(a, b) == pytest.approx(8 * 0.25 + 8 * 1.0, rel=0.03)


def test_frechet_equals_the_matrix_root_form():
    """The definition, with scipy's matrix square root, on correlated features."""
    mix = gaussian(6, d=6, seed=3)
    a, b = gaussian(700, d=6, seed=4) @ mix, gaussian(600, 0.3, d=6, seed=5)
    cov_a, cov_b = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    mean_term = (a.mean(0) - b.mean(0)).square().sum().item()
    assert frechet_distance(a, b) == pytest.approx(mean_term + np.trace(cov_a + cov_b - 2 * root))


def test_frechet_is_symmetric_and_zero_for_the_same_set():
    a, b = gaussian(600, seed=1), gaussian(700, 1.0, seed=2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_survives_singular_covariances():
    """Constant and duplicated features, and more features than samples."""
    a = gaussian(600, seed=1)
    flat = torch.cat([a, a[:, :2], torch.ones(600, 3, dtype=torch.float64)], dim=1)
    assert frechet_distance(flat, flat + 1) == pytest.approx(flat.shape[1])
    wide = gaussian(20, d=50, seed=2)
    assert frechet_distance(wide, wide + 1) == pytest.approx(50)


def test_kid_has_no_bias_and_grows_with_the_distance():
    same = kid(gaussian(1024, seed=1), gaussian(1024, seed=2), subsets=10)
    near = kid(gaussian(1024, seed=1), gaussian(1024, 0.2, seed=2), subsets=10)
    far = kid(gaussian(1024, seed=1), gaussian(1024, 1.0, seed=2), subsets=10)
    assert abs(same.mean) < 0.02
    assert near.mean > same.mean + 0.02
    assert far.mean > 5 * near.mean


def test_kid_equals_the_unbiased_sum_over_pairs():
    x, y = gaussian(12, d=3, seed=1), gaussian(12, 0.5, d=3, seed=2)

    def k(u: torch.Tensor, v: torch.Tensor) -> float:
        return (float(u @ v) / 3 + 1) ** 3

    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    within = np.mean([k(x[i], x[j]) for i, j in pairs]) + np.mean([k(y[i], y[j]) for i, j in pairs])
    between = np.mean([k(u, v) for u in x for v in y])
    found = kid(x, y, subsets=3, subset_size=12)  # every subset is the whole set
    assert found.mean == pytest.approx(within - 2 * between)
    assert found.std == pytest.approx(0, abs=1e-9)


def test_kid_is_seeded():
    a, b = gaussian(600, seed=1), gaussian(600, seed=2)
    assert kid(a, b, subsets=5, seed=3) == kid(a, b, subsets=5, seed=3)
    assert kid(a, b, subsets=5, seed=3) != kid(a, b, subsets=5, seed=4)


def test_small_sets_are_refused_with_the_reason():
    assert too_few(512, 512) is None
    assert too_few(512, 511) == "needs at least 512 samples on both sides, has 512 and 511"
    with pytest.raises(BadInput, match="at least 512"):
        distance(gaussian(512), gaussian(511))


def test_a_distance_says_what_it_is_not():
    found = distance(gaussian(512, seed=1), gaussian(512, seed=2)).to_json()
    assert found["label"] == LABEL == "own features, not FID"
    assert found["dimensions"] == 8


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (torch.zeros(5, 3), torch.zeros(5, 4), "one width"),
        (torch.zeros(1, 3), torch.zeros(5, 3), "two rows"),
        (torch.full((5, 3), torch.nan), torch.zeros(5, 3), "NaN"),
    ],
)
def test_broken_features_are_refused(a: torch.Tensor, b: torch.Tensor, words: str):
    with pytest.raises(BadInput, match=words):
        frechet_distance(a, b)


def test_latents_are_pooled_so_that_samples_outnumber_dimensions():
    latents = torch.arange(2 * 4 * 16 * 16, dtype=torch.float32).reshape(2, 4, 16, 16)
    pooled = latent_features(latents)
    assert pooled.shape == (2, 64)
    assert pooled[0, 0] == latents[0, 0, :4, :4].mean()
    video = latents[:, :, None].repeat(1, 1, 5, 1, 1)
    assert torch.allclose(latent_features(video), pooled)
    assert latent_features(latents[..., :2, :3]).shape == (2, 24)  # already small: only flattened
