"""Paired metrics against values worked out by hand or by a slow, literal implementation."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from quant.errors import BadInput
from quant.metrics import list_metrics, load_metric
from quant.metrics.latent_error import measure as latent_error
from quant.metrics.psnr import measure as psnr
from quant.metrics.psnr import pooled
from quant.metrics.ssim import measure as ssim
from quant.pixels import C1, C2


def pictures(n: int = 3, h: int = 13, w: int = 17, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, h, w, 3, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_ten_times_the_logarithm_of_the_squared_error():
    black = torch.zeros(3, 4, 4, 3)
    shifted = black.clone()
    shifted[0] = 0.1
    shifted[1] = 0.01
    shifted[2, 0, 0, 0] = 1.0  # one value in 48 is wholly wrong
    assert psnr(black, shifted) == pytest.approx([20, 40, 10 * np.log10(48)], abs=1e-6)


def test_psnr_clamps_before_it_compares():
    white = torch.ones(1, 4, 4, 3)
    assert psnr(white, white * 0.9) == pytest.approx(psnr(white * 1.5, white * 0.9))
    assert np.isinf(psnr(white, white * 3)).all()


def test_psnr_is_not_capped_by_eight_bits():
    a = pictures()
    assert psnr(a, (a * (1 - 1e-5)).float()).min() > 90  # rounded to 8 bits they would be identical


def test_pooled_psnr_follows_the_worst_picture():
    a = torch.zeros(2, 4, 4, 3)
    b = a.clone()
    b[0], b[1] = 0.1, 0.001
    assert psnr(a, b).mean() == pytest.approx(40, abs=1e-4)
    assert pooled(a, b)["of_mean_mse"] == pytest.approx(-10 * np.log10((1e-2 + 1e-6) / 2), abs=1e-4)
    assert pooled(a, a) == {"of_mean_mse": None}


def test_latent_error_is_relative_and_per_sample():
    z = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1).repeat(3, 1, 1, 1)
    q = z.clone()
    q[1, 0] += 0.5  # off by 0.5 where the norm is 5
    q[2] *= 3
    assert latent_error(z, q) == pytest.approx([0, 0.1, 2])
    assert latent_error(10 * z, 10 * q) == pytest.approx(latent_error(z, q))


def test_latent_error_of_an_empty_latent_is_undefined_not_infinite():
    zero = torch.zeros(1, 2, 1, 1)
    assert latent_error(zero, zero) == 0
    assert np.isnan(latent_error(zero, zero + 1)).all()


def literal_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004 eq. 13 and 15 by loops over every 11 x 11 window of one channel."""
    at = np.arange(-5, 6)
    window = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            cov = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + C1)
                * (2 * cov + C2)
                / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))
            )
    return float(np.mean(values))


def test_ssim_equals_the_papers_formula():
    a, b = pictures(seed=1), pictures(seed=2)
    b = (0.7 * a + 0.3 * b).clamp(0, 1)
    literal = [
        np.mean([literal_ssim(x[..., c].astype(float), y[..., c].astype(float)) for c in range(3)])
        for x, y in zip(a.numpy(), b.numpy())
    ]
    assert ssim(a, b) == pytest.approx(literal, abs=1e-9)


def test_ssim_of_flat_pictures_is_the_luminance_term():
    a, b = torch.full((1, 12, 12, 3), 0.2), torch.full((1, 12, 12, 3), 0.8)
    assert ssim(a, b) == pytest.approx([(2 * 0.2 * 0.8 + C1) / (0.2**2 + 0.8**2 + C1)], abs=1e-6)
    assert ssim(a, a) == pytest.approx([1])


def test_ssim_sees_lost_structure_that_psnr_does_not():
    ramp = torch.linspace(0, 1, 32)
    a = (ramp[:, None] * ramp)[None, :, :, None].repeat(1, 1, 1, 3)
    brighter = a * 0.8 + 0.2
    error = torch.randn(a.shape, generator=torch.Generator().manual_seed(9))
    noisy = a + error * (brighter - a).square().mean().sqrt()
    assert abs(psnr(a, brighter)[0] - psnr(a, noisy.clamp(0, 1))[0]) < 1.5
    assert ssim(a, brighter)[0] > ssim(a, noisy)[0] + 0.3


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(BadInput, match="11 x 11"):
        ssim(torch.zeros(1, 10, 20, 3), torch.zeros(1, 10, 20, 3))


@pytest.mark.parametrize("key", sorted(list_metrics()))
def test_every_metric_honours_its_card(key: str):
    """The literal card is the module's; one value per sample; a larger error is worse."""
    module, card = load_metric(key), list_metrics()[key]
    assert card == module.CARD
    frames = 3 if card.clips else 1
    clean, error = (pictures(n=4 * frames, h=16, w=16, seed=seed) for seed in (0, 5))
    if card.clips:
        clean, error = (x.unflatten(0, (4, frames)) for x in (clean, error))
    slight, strong = clean + 0.01 * error, clean + 0.3 * error
    little, much = module.measure(clean, slight), module.measure(clean, strong)
    assert little.shape == (4,)
    assert little.dtype == np.float64
    assert (little > much).all() if card.better == "higher" else (little < much).all()
    alone = module.measure(clean[2:3], slight[2:3])
    assert alone == pytest.approx(little[2:3])  # a sample's value does not depend on its neighbours


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(BadInput, match="psnr_db"):
        load_metric("psnr")


def test_listing_metrics_loads_no_torch():
    code = "import sys, quant.metrics as m; m.list_metrics(); print('torch' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
