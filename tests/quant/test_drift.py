"""Error along the trajectory, on a tiny random DiT with a network that is wrong in a known way."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from quant.drift import Drift, drift
from quant.errors import BadInput, Cancelled
from quant.generation import Generation, generate, make_scheduler
from quant.loading import load_model
from quant.models import Model
from quant.schema import Sampler

SEEDS = range(3)


@pytest.fixture(scope="module")
def model(tiny_dit: Path) -> Model:
    return load_model(str(tiny_dit), device="cpu")


@pytest.fixture(scope="module")
def reference(model: Model) -> Generation:
    return generate(model, model.samples(SEEDS), model.sampler(), record=True)


def record(model: Model, transformer: nn.Module, sampler: Sampler | None = None) -> Generation:
    return generate(
        model,
        model.samples(SEEDS),
        sampler or model.sampler(),
        transformer=transformer,
        record=True,
    )


def scaled(model: Model, factor: float, only_class: int | None = None) -> nn.Module:
    """A network whose output is `factor` times the right one, for one class label or for all."""
    transformer = copy.deepcopy(model.transformer)

    def scale(_: nn.Module, args: object, kwargs: dict, output) -> object:
        labels = kwargs["class_labels"]
        hit = (
            torch.ones_like(labels, dtype=torch.bool)
            if only_class is None
            else labels == only_class
        )
        output.sample = torch.where(hit[:, None, None, None], output.sample * factor, output.sample)
        return output

    transformer.register_forward_hook(scale, with_kwargs=True)
    return transformer


def check_json(found: Drift) -> dict:
    return json.loads(json.dumps(found.to_json(), allow_nan=False))


def test_the_same_network_has_no_error_and_no_ratios(model: Model, reference: Generation):
    found = check_json(drift(model, reference, reference, model.transformer))
    assert found["timesteps"] == list(reference.trajectory.timesteps)
    assert found["teacher_forced"] == {branch: [0.0] * 4 for branch in ("cond", "uncond", "guided")}
    assert found["free_running"] == [0.0] * 5
    assert found["amplification"] == [None] * 4  # 0 / 0
    assert found["guidance_added"] == [None] * 4


def test_a_scaled_network_has_that_error_at_every_step(model: Model, reference: Generation):
    network = scaled(model, 1.1)
    found = drift(model, reference, record(model, network), network)
    for branch in (
        found.teacher_forced.cond,
        found.teacher_forced.uncond,
        found.teacher_forced.guided,
    ):
        assert branch == pytest.approx([0.1] * 4, rel=1e-4)
    assert found.guidance_added == pytest.approx([1.0] * 4, rel=1e-4)
    b = found.free_running
    assert b[0] == 0
    assert b[1] > 0
    assert b[-1] > b[1]
    assert found.amplification == pytest.approx(
        [b[t + 1] / (b[t] + 0.1) for t in range(4)], rel=1e-4
    )


def test_guidance_enlarges_an_error_of_one_branch(model: Model, reference: Generation):
    """Only the unconditional branch (class 1000) is wrong: cond keeps 0, so the ratio is null; then the reverse."""
    network = scaled(model, 1.1, only_class=1000)
    found = drift(model, reference, record(model, network), network)
    assert found.teacher_forced.cond == (0, 0, 0, 0)
    assert found.teacher_forced.uncond == pytest.approx([0.1] * 4, rel=1e-4)
    assert min(found.teacher_forced.guided) > 0
    assert found.guidance_added == (None,) * 4

    sample = replace(reference, **first_sample(reference))
    network = scaled(model, 1.1, only_class=0)
    candidate = record(model, network)
    found = drift(model, sample, replace(candidate, **first_sample(candidate)), network)
    trajectory = sample.trajectory
    expected = [  # guided error is guidance * 0.1 * cond
        3.0 * c.norm().item() / g.norm().item() for c, g in zip(trajectory.cond, trajectory.guided)
    ]
    assert found.teacher_forced.uncond == pytest.approx([0] * 4, abs=1e-6)  # other batch size
    assert found.guidance_added == pytest.approx(expected, rel=1e-4)


def first_sample(generation: Generation) -> dict:
    t = generation.trajectory
    parts = {name: getattr(t, name)[:, :1] for name in ("inputs", "cond", "uncond", "guided")}
    return {
        "samples": generation.samples[:1],
        "images": generation.images[:1],
        "latents": generation.latents[:1],
        "trajectory": replace(t, **parts),
    }


def test_teacher_forcing_ignores_where_the_run_went(model: Model, reference: Generation):
    """Error (a) is the network's alone: another trajectory changes only the free-running error."""
    network = scaled(model, 1.1)
    found = drift(model, reference, record(model, scaled(model, 1.5)), network)
    mild = drift(model, reference, record(model, network), network)
    assert found.teacher_forced == mild.teacher_forced
    assert found.free_running[-1] > mild.free_running[-1]


def test_the_final_error_is_the_metric_of_the_run(model: Model, reference: Generation):
    from quant.metrics.latent_error import measure

    network = scaled(model, 1.1)
    candidate = record(model, network)
    found = drift(model, reference, candidate, network)
    per_sample = measure(reference.latents, candidate.latents)
    assert found.free_running[-1] == pytest.approx(per_sample.mean())
    assert found.per_sample.free_running[-1] == pytest.approx(per_sample)
    assert len(found.per_sample.teacher_forced) == 4


def test_without_guidance_there_is_one_branch(model: Model):
    sampler = model.sampler(guidance=1.0)
    plain = record(model, model.transformer, sampler)
    network = scaled(model, 1.1)
    found = check_json(drift(model, plain, record(model, network, sampler), network))
    assert found["teacher_forced"]["uncond"] is None
    assert found["teacher_forced"]["cond"] == found["teacher_forced"]["guided"]
    assert found["guidance_added"] == [None] * 4


def test_schedulers_that_scale_the_networks_input(model: Model):
    """Euler divides by sqrt(sigma^2 + 1); teacher forcing has to do the same at every step."""
    sampler = Sampler(scheduler="EulerDiscreteScheduler", config={}, steps=3, guidance=3.0)
    assert make_scheduler(sampler).init_noise_sigma > 1
    plain = record(model, model.transformer, sampler)
    found = drift(model, plain, plain, model.transformer)
    assert found.teacher_forced.guided == pytest.approx([0] * 3, abs=1e-6)


def test_a_network_that_breaks_gives_null_not_nan(model: Model, reference: Generation):
    network = scaled(model, float("inf"))
    found = check_json(drift(model, reference, record(model, network), network))
    assert found["teacher_forced"]["guided"] == [None] * 4
    assert found["free_running"] == [0.0, None, None, None, None]


def test_batches_do_not_change_the_error(model: Model, reference: Generation):
    network = scaled(model, 1.1)
    candidate = record(model, network)
    whole = drift(model, reference, candidate, network)
    parts = drift(model, reference, candidate, network, batch_size=2)
    assert parts.teacher_forced.guided == pytest.approx(whole.teacher_forced.guided, rel=1e-4)


def test_progress_is_told_and_can_cancel(model: Model, reference: Generation):
    seen = []
    drift(model, reference, reference, model.transformer, on_step=lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def cancel(*_: object) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        drift(model, reference, reference, model.transformer, on_step=cancel)


def test_runs_without_a_trajectory_or_of_other_samples_are_refused(
    model: Model, reference: Generation
):
    with pytest.raises(BadInput, match="record=True"):
        drift(model, reference, replace(reference, trajectory=None), model.transformer)
    with pytest.raises(BadInput, match="cannot be paired"):
        drift(
            model,
            reference,
            record(model, model.transformer, model.sampler(steps=3)),
            model.transformer,
        )
