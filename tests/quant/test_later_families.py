"""CogVideoX, Wan and Sana: what our loop draws is what their own diffusers pipelines draw."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from quant.adapters import adapters
from quant.calibration import CalibrationOptions, calibrate
from quant.checkpoint import save_checkpoint
from quant.effort import shapes_of
from quant.errors import BadInput
from quant.footprint import input_shapes
from quant.generation import generate, starting_noise
from quant.loading import load_model
from quant.models import Model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Format, Sample, Sampler, SitePlan, parse_bits
from quant.sizes import load_shape

TOLERANCE = 1e-4  # relative, of the decoded picture
FAMILIES = ("cogvideox", "cogvideox-1.5", "wan", "sana")
ONCE = ("cogvideox", "wan", "sana")  # where both versions of CogVideoX would show the same
SHAPES = {
    "cogvideox": (5, 16, 16, 3),
    "cogvideox-1.5": (5, 16, 16, 3),
    "wan": (5, 16, 16, 3),
    "sana": (32, 32, 3),
}


@pytest.fixture(scope="module")
def models(pipelines):
    """Tiny models by family, loaded when first asked for."""
    loaded: dict[str, Model] = {}

    def get(family: str) -> Model:
        if family not in loaded:
            loaded[family] = load_model(str(pipelines[family]), device="cpu")
        return loaded[family]

    return get


def call(
    family: str,
    model: Model,
    sample: Sample,
    sampler: Sampler,
    transformer: Any = None,
    **made_with: Any,
) -> torch.Tensor:
    """One call of the pipeline itself, from the sample's starting latents."""
    latents = starting_noise(model.latent_shape(sampler), (sample,))
    own: dict[str, Any] = {"height": 16, "width": 16}
    if family.startswith("cogvideox"):
        latents = latents.transpose(1, 2)  # frames before channels
        own |= {"num_frames": 5, "max_sequence_length": 12}
    elif family == "wan":
        own |= {"num_frames": 5}
    else:
        own = {"height": 32, "width": 32, "use_resolution_binning": False}
    parts = {**model.pipe.components, "transformer": transformer or model.transformer}
    pipe = type(model.pipe)(**parts, **made_with)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        prompt=sample.prompt,
        negative_prompt=sample.negative or "",
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance,
        latents=latents,
        output_type="np",
        **own,
    )
    return torch.as_tensor(made[0])


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative."""
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_our_loop_draws_what_the_pipeline_draws(models, family, guidance):
    model = models(family)
    sampler = model.sampler(steps=3, guidance=guidance)
    samples = model.samples([3, 4], negative="blurry")
    found = generate(model, samples, sampler).images
    assert tuple(found.shape) == (2, *SHAPES[family])
    wanted = torch.cat([call(family, model, sample, sampler) for sample in samples])
    assert apart(found, wanted) < TOLERANCE
    assert float(wanted.std()) > 0.01, "a flat picture would prove nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_negative_prompt_and_guidance_matter(models, family):
    """Else the test above could not fail by mixing them up."""
    model = models(family)
    sampler, unguided = model.sampler(steps=2, guidance=9), model.sampler(steps=2, guidance=1)

    def drawn(how: Sampler, prompt: str, negative: str) -> torch.Tensor:
        sample = Sample(seed=3, prompt=prompt, negative=negative)
        return generate(model, (sample,), how).images

    first = drawn(sampler, "a red fox", "blurry")
    for other in (
        drawn(sampler, "two boats", "blurry"),
        drawn(sampler, "a red fox", "grey"),
        drawn(sampler, "blurry", "a red fox"),
        drawn(unguided, "a red fox", "blurry"),
    ):
        assert apart(other, first) > 10 * TOLERANCE


@pytest.mark.parametrize("family", ONCE)
def test_a_batch_is_as_its_samples_alone(models, family):
    model = models(family)
    sampler, samples = model.sampler(steps=2, guidance=4), model.samples([3, 4])
    together = generate(model, samples, sampler).images
    assert apart(generate(model, samples, sampler, batch_size=1).images, together) < 1e-5


@pytest.mark.parametrize("method", ["rtn", "viditq"])
@pytest.mark.parametrize("family", ONCE)
def test_calibrated_quantized_and_drawn(models, family, method):
    model = models(family)
    sampler, samples = model.sampler(steps=2, guidance=4), model.samples([3])
    options = CalibrationOptions(reservoir=32)
    seen = calibrate(model, model.samples([100_000]), sampler, options)
    exact = generate(model, samples, sampler)
    errors = []
    for bits in ("w8a8", "w4a4"):
        plan = uniform_plan(model, parse_bits(bits))
        made = quantize(model, method, plan, {}, seen)
        found = generate(model, samples, sampler, transformer=made.transformer)
        assert found.images.shape == exact.images.shape
        errors.append(apart(found.latents, exact.latents))
    assert 0 < errors[0] < errors[1]


@pytest.mark.parametrize("family", ONCE)
def test_a_checkpoint_draws_the_same_in_plain_diffusers(models, family, tmp_path):
    """With formats per step window, which the layers read off the transformer's own timestep."""
    model = models(family)
    sampler, (sample,) = model.sampler(steps=3, guidance=4), model.samples([3])
    plan = uniform_plan(model, parse_bits("w4a8"), sampler=sampler, windows=3)
    made = quantize(model, "rtn", plan.each(_narrower_at_the_end))
    save_checkpoint(made, model, tmp_path / "out")
    opened = type(model.transformer).from_pretrained(tmp_path / "out")
    found = generate(model, (sample,), sampler, transformer=made.transformer).images
    assert apart(call(family, model, sample, sampler, opened), found) < TOLERANCE
    even = quantize(model, "rtn", plan).transformer
    assert apart(generate(model, (sample,), sampler, transformer=even).images, found) > 1e-3


def _narrower_at_the_end(site: SitePlan) -> SitePlan:
    """Activations of 3 bits in the last window."""
    return site.model_copy(
        update={"activations": (*site.activations[:-1], Format(bits=3, symmetric=True))}
    )


@pytest.mark.parametrize("family", ONCE)
def test_in_sixteen_bit(models, pipelines, family, tmp_path):
    """Wan keeps its tables and norms in float32 there, from a checkpoint as well."""
    half = load_model(str(pipelines[family]), device="cpu", dtype="bfloat16")
    sampler, samples = half.sampler(steps=2, guidance=4), half.samples([3])
    exact = generate(models(family), samples, sampler).images
    assert 0 < apart(generate(half, samples, sampler).images, exact) < 0.05
    made = quantize(half, "rtn", uniform_plan(half, parse_bits("w8a8")))
    found = generate(half, samples, sampler, transformer=made.transformer).images
    assert apart(found, exact) < 0.05
    save_checkpoint(made, half, tmp_path / "out")
    kind: Any = type(half.transformer)
    opened = kind.from_pretrained(tmp_path / "out", torch_dtype=torch.bfloat16)
    assert torch.equal(generate(half, samples, sampler, transformer=opened).images, found)


def test_wan_with_a_timestep_for_every_token(models):
    """Wan 2.2 5B: without a picture to start from they are all the same."""
    model = models("wan")
    sampler, (sample,) = model.sampler(steps=3, guidance=4), model.samples([3])
    told = call("wan", model, sample, sampler, expand_timesteps=True)
    assert apart(generate(model, (sample,), sampler).images, told) < TOLERANCE


# --- which branch is which


@pytest.mark.parametrize("family", ONCE)
def test_the_recorded_conditional_branch_is_the_prompt_s(models, family):
    """The trajectory's `cond` is what the network says to the prompt alone."""
    model = models(family)
    guided, alone = model.sampler(steps=1, guidance=4), model.sampler(steps=1, guidance=1)
    samples = (Sample(seed=3, prompt="a red fox", negative="blurry"),)
    cond = generate(model, samples, guided, record=True).trajectory
    exact = generate(model, samples, alone, record=True).trajectory
    assert cond is not None
    assert exact is not None
    assert cond.uncond is not None
    assert apart(cond.cond, exact.cond) < 1e-5
    assert apart(cond.uncond, exact.cond) > 10 * 1e-5


# --- what cannot be drawn is said


def test_frames_and_sizes_that_a_model_cannot_draw(models):
    with pytest.raises(BadInput, match=r"frames 4: this model makes 2 n \+ 1 frames; e.g. 5"):
        models("wan").sampler(frames=4)
    for family in ("cogvideox", "cogvideox-1.5"):
        with pytest.raises(BadInput, match=r"frames 7: this model makes 4 n \+ 1 frames; e.g."):
            models(family).sampler(frames=7)
    for family in ("wan", "cogvideox"):
        with pytest.raises(BadInput, match="multiples of 4"):
            models(family).sampler(size=(18, 16))
    with pytest.raises(BadInput, match="size 16x32: this model draws 16x16 at most"):
        models("cogvideox-1.5").sampler(size=(16, 32))
    with pytest.raises(BadInput, match="draws pictures, not clips"):
        models("sana").sampler(frames=5)


@pytest.mark.parametrize(
    ("family", "frames"), [("wan", 1), ("wan", 3), ("cogvideox", 1), ("cogvideox-1.5", 9)]
)
def test_other_frames_and_sizes(models, family, frames):
    model = models(family)
    sampler = model.sampler(steps=1, guidance=1, size=(16, 12), frames=frames)
    assert generate(model, model.samples([3]), sampler).images.shape == (1, frames, 16, 12, 3)


def test_the_stochastic_scheduler_of_cogvideox_is_refused(models):
    model = models("cogvideox")
    assert model.sampler().scheduler == "CogVideoXDDIMScheduler"
    with pytest.raises(BadInput, match="adds noise in every step"):
        model.sampler(scheduler="CogVideoXDPMScheduler")


def test_a_second_transformer_is_refused(models):
    adapter, pipe = adapters()["WanTransformer3DModel"], models("wan").pipe
    pair = SimpleNamespace(transformer=pipe.transformer, transformer_2=pipe.transformer)
    with pytest.raises(BadInput, match="two transformers"):
        adapter.resolved(pair, models("wan").sampler())
    with pytest.raises(BadInput, match="two transformers"):
        adapter.latent_shape(pair, models("wan").sampler())


@pytest.mark.parametrize(
    ("family", "config", "said"),
    [
        ("wan", {"image_dim": 16}, "from a picture"),
        ("cogvideox", {"in_channels": 8}, "from a picture"),
        ("sana", {"guidance_embeds": True}, "Sana-Sprint"),
    ],
)
def test_models_that_need_more_than_a_text_are_refused(models, family, config, said):
    model = models(family)
    changed = type(model.transformer.config)({**model.transformer.config, **config})
    pipe = SimpleNamespace(
        transformer=SimpleNamespace(config=changed),
        vae_scale_factor_spatial=2,
        vae_scale_factor_temporal=2,
    )
    with pytest.raises(BadInput, match=said):
        model.adapter.latent_shape(pipe, model.sampler())


# --- how much it is, said before


@pytest.mark.parametrize("family", ["cogvideox", "cogvideox-1.5", "sana"])
def test_rows_from_the_configuration_are_those_that_flow(models, family):
    model = models(family)
    found, _ = shapes_of(model.transformer, model.sites)
    real = input_shapes(model, model.samples([3])[0], model.sampler(steps=1, guidance=1))
    for name, shape in found.items():
        if "text" not in name:
            assert shape == real[name]


@pytest.mark.parametrize(
    ("shape", "size", "frames", "tokens"),
    [
        ("cogvideox-2b", None, None, 13 * 30 * 45 + 226),
        ("cogvideox-2b", (240, 320), 9, 3 * 15 * 20 + 226),
        ("wan2.1-1.3b", None, None, 21 * 30 * 52),
        ("wan2.1-1.3b", (256, 256), 1, 16 * 16),
        ("sana-1.6b", None, None, 32 * 32),
        ("sana-1.6b", (512, 1024), None, 16 * 32),
        ("sd3-medium", (512, 512), None, 32 * 32),
    ],
)
def test_rows_of_published_models(shape, size, frames, tokens):
    transformer, adapter = load_shape(shape)
    found, apart = shapes_of(transformer, adapter.sites(transformer), size, frames)
    assert apart == 1
    assert max(s.tokens for n, s in found.items() if "text" not in n) == tokens
    assert adapter.tokens(transformer.config, size, frames) == (tokens, 1)


def test_frames_of_latte_attend_apart():
    transformer, adapter = load_shape("latte-1")
    assert adapter.tokens(transformer.config, (256, 256), 1) == (16 * 16, 1)
    assert adapter.tokens(transformer.config) == (16 * 32 * 32, 16)
