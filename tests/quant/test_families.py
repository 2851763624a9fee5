"""Families with prompts are calibrated, quantized, saved and drawn in plain diffusers as the DiT is."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from quant.calibration import CalibrationOptions, calibrate
from quant.checkpoint import save_checkpoint
from quant.drift import drift
from quant.generation import generate, timesteps_of
from quant.loading import load_model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import HIGHEST, LOWEST, Window, parse_bits
from quant.sharing import attach
from quant.sharing_choice import Sharing
from quant.step import current_timestep
from tests.pipelines import by_diffusers

FAMILIES = ("pixart-alpha", "latte", "sd3.5", "flux")
OPTIONS = CalibrationOptions(reservoir=64)


@pytest.fixture(scope="module")
def models(pipelines):
    """Tiny models by family, loaded when first asked for."""
    loaded: dict[str, Any] = {}

    def get(family: str):
        if family not in loaded:
            loaded[family] = load_model(str(pipelines[family]), device="cpu")
        return loaded[family]

    return get


@pytest.fixture(scope="module")
def calibrated(models):
    """Statistics by family and guidance, recorded when first asked for."""

    @cache
    def get(family: str, guidance: float = 4.0):
        model = models(family)
        samples = model.samples(range(100, 102))
        return calibrate(model, samples, model.sampler(guidance=guidance), OPTIONS)

    return get


def quantized(model, seen, method: str, bits: str, windows: int = 1):
    sampler = model.sampler(guidance=4.0)
    plan = uniform_plan(model, parse_bits(bits), sampler=sampler, windows=windows)
    return quantize(model, method, plan, {}, seen)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_conditional_branch_is_recorded_first(models, calibrated, family):
    """Both passes start from the same noise, so the first step's conditional branch is the same."""
    model = models(family)
    both, alone = calibrated(family), calibrated(family, 1.0)
    assert both.inputs.keys() == alone.inputs.keys()
    guided = [s.maximum[0, 0] for s in both.inputs.values()]
    if model.adapter.distilled:
        assert all(s.count.shape[1] == 1 for s in both.inputs.values())
        return
    wanted = [s.maximum[0, 0] for s in alone.inputs.values()]
    torch.testing.assert_close(guided, wanted, rtol=1e-4, atol=1e-4)
    other = [s.maximum[0, 1] for s in both.inputs.values()]
    assert any(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(other, wanted))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["rtn", "viditq"])
def test_quantized_it_draws_nearly_the_same(models, calibrated, family, method):
    model = models(family)
    sampler, samples = model.sampler(guidance=4.0), model.samples([5])
    exact = generate(model, samples, sampler, record=True)
    seen = calibrated(family)
    made = [quantized(model, seen, method, bits).transformer for bits in ("w8a8", "w2a4")]
    near, far = (generate(model, samples, sampler, transformer=t, record=True) for t in made)
    errors = [float((d.latents - exact.latents).norm() / exact.latents.norm()) for d in (near, far)]
    assert 0 < errors[0] < 0.1 < errors[1]
    along = drift(model, exact, near, made[0])
    assert (along.teacher_forced.uncond is None) == model.adapter.distilled


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_with_windows_it_draws_the_same(models, calibrated, family, tmp_path):
    """Windows are cut in the scheduler's timesteps, whatever the transformer counts in."""
    model = models(family)
    sampler, samples = model.sampler(guidance=4.0), model.samples([5])
    made = quantized(model, calibrated(family), "viditq", "w4a8", windows=2)
    save_checkpoint(made, model, tmp_path / "saved")
    loaded = type(model.transformer).from_pretrained(tmp_path / "saved", local_files_only=True)
    told: list[float] = []
    made.transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda *_: told.append(current_timestep())
    )
    one = generate(model, samples, sampler, transformer=made.transformer)
    two = generate(model, samples, sampler, transformer=loaded)
    torch.testing.assert_close(
        one.latents, two.latents
    )  # memory that is aligned otherwise may round otherwise
    assert told == pytest.approx(timesteps_of(sampler), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_its_own_pipeline_draws_with_it_what_our_loop_draws(models, calibrated, family):
    """Windows of steps, and attention shared between the branches where there are two to share."""
    model = models(family)
    sampler, samples = model.sampler(guidance=4.0), model.samples([5])
    network = quantized(model, calibrated(family), "viditq", "w8a8", windows=2).transformer
    shared = [] if model.adapter.unshared else model.adapter.spatial_attentions(network)
    if shared:
        every = (Window(low=LOWEST, high=HIGHEST),)
        attach(network, model.adapter, Sharing(mode="map", attentions=dict.fromkeys(shared, every)))
    found = generate(model, samples, sampler, transformer=network).images
    pipe = copy.copy(model.pipe)
    pipe.transformer = network
    wanted = by_diffusers(family, replace(model, pipe=pipe), samples, sampler)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-3
