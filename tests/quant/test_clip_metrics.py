"""Metrics of clips: closed forms, what each must notice and what it must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quant.errors import BadInput
from quant.evaluate import paired_metrics
from quant.generation import Generation
from quant.metrics import list_metrics
from quant.metrics.flicker import measure as flicker
from quant.metrics.frame_drift import measure as frame_drift
from quant.metrics.frame_psnr import measure as frame_psnr
from quant.metrics.frame_psnr import per_frame, pooled
from quant.metrics.frame_ssim import measure as worst_frame_ssim
from quant.metrics.psnr import measure as psnr
from quant.metrics.ssim import measure as ssim
from quant.schema import Sample, Sampler

CLIPS = {"frame_psnr_db", "worst_frame_ssim", "flicker", "frame_drift"}


def clips(n: int = 2, frames: int = 5, side: int = 16, seed: int = 0) -> torch.Tensor:
    """Values in 0.25..0.75, so that small errors are not clamped."""
    generator = torch.Generator().manual_seed(seed)
    return 0.25 + 0.5 * torch.rand(n, frames, side, side, 3, generator=generator)


def generation(images: torch.Tensor) -> Generation:
    n = len(images)
    samples = tuple(Sample(seed=i, prompt="a fox") for i in range(n))
    sampler = Sampler(scheduler="DDIMScheduler", steps=2, guidance=1.0)
    return Generation(samples, sampler, images, torch.ones(n, 4, 2, 2), 0.0)


def test_psnr_of_frames_is_the_mean_of_their_decibels_and_names_the_worst() -> None:
    a = torch.full((1, 2, 4, 4, 3), 0.5)
    b = a.clone()
    b[0, 0] += 0.1  # 20 dB
    b[0, 1] += 0.01  # 40 dB
    assert per_frame(a, b) == pytest.approx(np.array([[20.0, 40.0]]), abs=1e-4)
    assert frame_psnr(a, b) == pytest.approx([30.0], abs=1e-4)
    assert pooled(a, b)["worst_frame"] == pytest.approx(20.0, abs=1e-4)
    assert psnr(a, b)[0] == pytest.approx(-10 * np.log10((1e-2 + 1e-4) / 2), abs=1e-4)


def test_identical_frames_are_left_out_and_identical_clips_have_no_decibels() -> None:
    a = clips(n=2)
    b = a.clone()
    b[0, 1] += 0.1
    assert frame_psnr(a, b)[0] == pytest.approx(20.0, abs=1e-4)
    assert np.isinf(frame_psnr(a, b)[1])
    assert pooled(a, a) == {"worst_frame": None}


def test_ssim_of_a_clip_is_the_mean_of_its_frames_and_one_bad_frame_shows_in_the_worst() -> None:
    a = clips(n=1)
    b = a.clone()
    b[0, 3] = clips(n=1, frames=1, seed=9)[0, 0]
    single = [ssim(a[:, t], b[:, t])[0] for t in range(5)]
    assert ssim(a, b)[0] == pytest.approx(np.mean(single))
    assert worst_frame_ssim(a, b)[0] == pytest.approx(min(single))
    assert min(single) < 0.5 < ssim(a, b)[0]


def test_flicker_is_the_deviation_of_an_error_that_is_new_in_every_frame() -> None:
    a = clips(n=1, frames=64)
    noise = 0.02 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    assert flicker(a, a + noise)[0] == pytest.approx(0.02, rel=0.02)


def test_flicker_sees_back_and_forth_but_neither_a_lasting_error_nor_an_even_change() -> None:
    a = torch.full((1, 6, 8, 8, 3), 0.5)
    sign = torch.tensor([1.0, -1.0] * 3).reshape(1, 6, 1, 1, 1)
    ramp = torch.arange(6.0).reshape(1, 6, 1, 1, 1)
    assert flicker(a, a + 0.1)[0] == pytest.approx(0, abs=1e-7)
    assert flicker(a, a + 0.02 * ramp)[0] == pytest.approx(0, abs=1e-7)
    assert flicker(a, a + 0.1 * sign)[0] == pytest.approx(0.4 / np.sqrt(6), rel=1e-5)
    assert psnr(a, a + 0.1) == pytest.approx(psnr(a, a + 0.1 * sign), abs=1e-4)


def test_frame_drift_is_0_for_kept_motion_1_for_none_and_does_not_see_a_lasting_error() -> None:
    a = clips()
    still = a[:, :1].expand_as(a)
    assert frame_drift(a, a + 0.1) == pytest.approx([0, 0], abs=1e-6)
    assert frame_drift(a, still) == pytest.approx([1, 1], rel=1e-6)
    backwards = frame_drift(a, a.flip(1))
    assert (backwards > 1).all()
    assert np.isnan(frame_drift(still, a)).all()
    assert (frame_drift(still, still) == 0).all()


def test_too_few_frames_are_bad_input() -> None:
    with pytest.raises(BadInput, match="at least 3 frames, not 2"):
        flicker(clips(frames=2), clips(frames=2))
    with pytest.raises(BadInput, match="at least 2 frames, not 1"):
        frame_drift(clips(frames=1), clips(frames=1))


def test_clips_have_them_with_curves_over_the_frames_and_pictures_do_not() -> None:
    a = clips()
    found, reasons = paired_metrics(generation(a), generation((a + 0.05).clamp(0, 1)))
    assert {key for key, card in list_metrics().items() if card.clips} == CLIPS
    assert all(found[key] is not None for key in CLIPS)
    assert not CLIPS & reasons.keys()
    curve = found["frame_psnr_db"].to_json()["per_frame"]  # pyright: ignore
    assert curve == pytest.approx(per_frame(a, a + 0.05).mean(0), abs=1e-3)
    assert len(found["worst_frame_ssim"].to_json()["per_frame"]) == 5  # pyright: ignore

    picture, reasons = paired_metrics(generation(a[:, 0]), generation(a[:, 1]))
    assert all(picture[key] is None for key in CLIPS)
    assert {reasons[key] for key in CLIPS} == {"unavailable: of clips, and these are pictures"}
    assert "per_frame" not in picture["psnr_db"].to_json()  # pyright: ignore
