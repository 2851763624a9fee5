"""A picture depends on its seed alone; our loop draws what plain diffusers draws."""

from __future__ import annotations

import pytest
import torch

from quant.errors import BadInput, Cancelled
from quant.generation import generate, make_scheduler, predict, starting_noise
from quant.schema import Sampler


def test_batch_size_changes_nothing(model, samples, sampler, reference):
    one_by_one = generate(model, samples, sampler, batch_size=1)
    assert float((one_by_one.images - reference.images).abs().max()) < 1e-5


def test_starting_noise_belongs_to_the_seed(model):
    both = starting_noise((4, 8, 8), model.samples([5, 6]))
    assert torch.equal(both[1:], starting_noise((4, 8, 8), model.samples([6])))
    moved = starting_noise((4, 8, 8), model.samples([5, 6]), offset=0.1)
    assert float((moved - both).std()) == pytest.approx(0.1, rel=0.2)


def test_our_loop_draws_what_the_pipeline_draws(model, tiny_dit, samples, sampler, reference):
    from diffusers import DiTPipeline

    pipe = DiTPipeline.from_pretrained(tiny_dit, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(s.seed) for s in samples]
    images = pipe(
        [s.class_id for s in samples],
        generator=generators,
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance,
        output_type="np",
    ).images
    assert float((torch.from_numpy(images) - reference.images).abs().max()) < 1e-5


def test_the_trajectory_is_what_the_network_saw_and_said(model, samples, sampler, reference):
    path = reference.trajectory
    assert path.inputs.shape == (4, 3, 4, 8, 8)
    assert path.timesteps == tuple(sorted(path.timesteps, reverse=True))
    for step in (0, 3):
        again = predict(model, path.inputs[step], path.timesteps[step], samples, sampler)
        torch.testing.assert_close(again.cond, path.cond[step], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again.uncond, path.uncond[step], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again.guided, again.uncond + 3 * (again.cond - again.uncond))


def test_without_guidance_there_is_one_branch(model, samples):
    drawn = generate(model, samples, model.sampler(guidance=1.0), record=True)
    assert drawn.trajectory.uncond is None


def test_events_tell_steps_and_a_preview_and_can_cancel(model, samples, sampler):
    events = []
    generate(model, samples, sampler, batch_size=2, on_step=events.append)
    assert [(e.first, e.step) for e in events] == [(0, s) for s in range(4)] + [
        (2, s) for s in range(4)
    ]
    assert events[-1].preview().shape == (1, 16, 16, 3)

    def stop(event):
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        generate(model, samples, sampler, on_step=stop)


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"steps": 1001}, {"guidance": -1.0}, {"guidance": 101.0}]
)
def test_steps_and_guidance_have_a_range(model, change):
    with pytest.raises(BadInput, match="out of range"):
        model.sampler(**change)


def test_unknown_schedulers_name_the_nearest(model):
    with pytest.raises(BadInput, match="DDIMScheduler"):
        make_scheduler(Sampler(scheduler="DDIMSheduler", steps=4, guidance=1))


@pytest.mark.parametrize(
    "scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_other_schedulers_draw_finite_pictures(model, samples, scheduler):
    drawn = generate(model, samples[:1], model.sampler(scheduler=scheduler))
    assert bool(torch.isfinite(drawn.latents).all())


def test_nothing_to_draw_is_said(model, sampler):
    with pytest.raises(BadInput, match="nothing to draw"):
        generate(model, (), sampler)
