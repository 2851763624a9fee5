"""Every family with prompts draws what its own diffusers pipeline draws, and what it is asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from quant.adapters.flux import packed, unpacked
from quant.errors import BadInput
from quant.generation import generate, make_scheduler, timesteps_of
from quant.loading import load_model
from quant.schema import Sampler
from tests.pipelines import OF_FAMILY, by_diffusers

TOLERANCE = 1e-4  # relative, of the decoded picture
NEGATIVE = "blurry grey"


@pytest.fixture(scope="module")
def models(pipelines):
    """Tiny models by family, loaded when first asked for."""
    loaded: dict[str, Any] = {}

    def get(family: str):
        if family not in loaded:
            loaded[family] = load_model(str(pipelines[family]), device="cpu")
        return loaded[family]

    return get


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("family", OF_FAMILY)
def test_our_loop_draws_what_the_pipeline_draws(models, family, guidance):
    model = models(family)
    sampler = model.sampler(steps=3, guidance=guidance)
    negative = None if model.adapter.distilled else [NEGATIVE, None]
    samples = model.samples([3, 4], negative=negative)
    wanted = by_diffusers(family, model, samples, sampler)
    found = generate(model, samples, sampler).images
    assert found.shape == wanted.shape
    assert float((found - wanted).norm() / wanted.norm()) < TOLERANCE
    clipped = ((wanted == 0) | (wanted == 1)).float().mean()
    assert float(wanted.std()) > 0.01, "a flat picture would prove nothing"
    assert float(clipped) < 0.1, "nor would a clipped one"


@pytest.mark.parametrize("family", OF_FAMILY)
def test_prompts_and_guidance_reach_the_picture(models, family):
    """What the truth test holds equal is not equal for want of influence."""
    model = models(family)
    sampler = model.sampler(guidance=4.0)

    def drawn(prompt: str, negative: str | None = None, sampler: Sampler = sampler):
        return generate(
            model, model.samples([7], prompts=[prompt], negative=negative), sampler
        ).latents

    one = drawn("a red fox")
    assert not torch.allclose(one, drawn("two boats"), rtol=1e-3)
    if not model.adapter.distilled:
        assert not torch.allclose(one, drawn("a red fox", "two boats"), rtol=1e-3)
        assert torch.equal(one, drawn("a red fox", ""))
    if family != "flux-schnell":
        weaker = drawn("a red fox", sampler=model.sampler(guidance=2.0))
        assert not torch.allclose(one, weaker, rtol=1e-3)


@pytest.mark.parametrize("family", OF_FAMILY)
def test_a_picture_does_not_depend_on_its_batch(models, family):
    model = models(family)
    samples = model.samples(range(3), prompts=["fox", "a much longer prompt", "x"])
    together = generate(model, samples, model.sampler())
    alone = generate(model, samples, model.sampler(), batch_size=1)
    apart = (together.latents - alone.latents).norm() / together.latents.norm()
    assert float(apart) < TOLERANCE / 10


@pytest.mark.parametrize("family", ["pixart-alpha", "latte", "sd3.5", "flux"])
def test_another_size_is_drawn_as_the_pipeline_does(models, family):
    model = models(family)
    sampler = model.sampler(steps=2, guidance=4.0, size=(8, 16))
    samples = model.samples([3])
    found = generate(model, samples, sampler).images
    assert found.shape[-3:] == (8, 16, 3)
    wanted = by_diffusers(family, model, samples, sampler)
    assert float((found - wanted).norm() / wanted.norm()) < TOLERANCE


@pytest.mark.parametrize("family", OF_FAMILY)
def test_a_sampler_that_was_written_down_takes_the_same_steps(models, family):
    sampler = models(family).sampler(5)
    read = Sampler.parse(json.loads(json.dumps(sampler.to_json())), "a file")
    assert timesteps_of(read) == timesteps_of(sampler)


@pytest.mark.parametrize("family", ["sd3.5", "flux"])
def test_a_sampler_needs_no_picture_to_know_its_steps(models, family):
    model = models(family)
    small, large = (model.sampler(4, size=size) for size in ((8, 8), (16, 16)))
    assert not small.config["use_dynamic_shifting"]
    assert make_scheduler(small).timesteps[1] < make_scheduler(large).timesteps[1]
    read = Sampler.parse(large.to_json(), "a file")
    assert torch.equal(make_scheduler(read).timesteps, make_scheduler(large).timesteps)
    assert model.with_steps(large, 7) == model.sampler(7, size=(16, 16))
    assert model.with_steps(large, 4) == large


@pytest.mark.parametrize(
    ("family", "asked", "said"),
    [
        ("pixart-sigma", {"size": (18, 16)}, "multiples of 4; e.g. 16x16"),
        ("pixart-sigma", {"frames": 4}, "draws pictures, not clips"),
        ("latte", {"frames": 4}, "clips of 3 frames"),
        ("sd3", {"size": (64, 16)}, "32x32 at most"),
        ("flux", {"size": (15, 16)}, "multiples of 4"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_anything_is(models, family, asked, said):
    with pytest.raises(BadInput, match=said):
        models(family).sampler(**asked)


def test_a_flux_that_fills_is_refused(models):
    model = models("flux")
    config = SimpleNamespace(in_channels=384, out_channels=64)
    pipe = SimpleNamespace(transformer=SimpleNamespace(config=config))
    with pytest.raises(BadInput, match="reads a picture beside the noise"):
        model.adapter.latent_shape(pipe, model.sampler().model_copy(update={"size": None}))


def test_a_pipeline_without_its_text_encoder_is_told(models):
    model = models("pixart-sigma")
    pipe = SimpleNamespace(text_encoder=None)
    with pytest.raises(BadInput, match="without its text encoder"):
        replace(model, pipe=pipe).conditions(model.samples([0]), model.sampler())


def test_negative_prompts_are_one_for_all_or_one_for_each(models):
    model = models("pixart-sigma")
    one = model.samples(range(3), negative="grey")
    assert [s.negative for s in one] == ["grey"] * 3
    each = model.samples(range(3), prompts=["a", "b"], negative=["x", None])
    assert [(s.prompt, s.negative) for s in each] == [("a", "x"), ("b", None), ("a", "x")]
    with pytest.raises(BadInput, match="2 negative prompts for 3 prompts"):
        model.samples([0], prompts=["a", "b", "c"], negative=["x", "y"])
    with pytest.raises(BadInput, match="guidance is distilled"):
        models("flux").samples([0], negative="grey")


def test_a_text_is_encoded_once(pipelines, monkeypatch):
    model = load_model(str(pipelines["pixart-sigma"]), device="cpu")
    asked: list[str] = []
    encode = type(model.adapter).encode

    def counted(self, pipe, prompt):
        asked.append(prompt)
        return encode(self, pipe, prompt)

    monkeypatch.setattr(type(model.adapter), "encode", counted)
    sampler = model.sampler()
    for seeds in (range(4), range(2)):
        generate(model, model.samples(seeds), sampler)
    assert sorted(asked) == ["", "a red fox", "two boats"]


def test_packing_is_undone():
    x = torch.arange(2 * 4 * 6 * 8.0).reshape(2, 4, 6, 8)
    assert torch.equal(unpacked(packed(x), 6, 8), x)
