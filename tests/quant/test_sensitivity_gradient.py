"""The gradient tier: the derivative of the sampler, squared where errors add up.

Adapters hand their output on in float32 and schedulers compute in it, so a network in float64 would gain
nothing: what is compared is float32 on both sides, and agrees to about 1e-5 (float64 is not needed to see 1e-3).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from quant.errors import BadInput
from quant.loading import load_model
from quant.outliers import inject
from quant.plans import windows_for
from quant.schema import OUTLIER_KINDS, Outliers
from quant.sensitivity import floor
from quant.sensitivity.gradient import cost, directions, inner_products
from quant.sensitivity.task import Settings

from .sensitivity_cases import CHEAP, Changed, FixedLayers, pushed_forward, sweep, table, task_of

CASES = {  # family: sites, steps; the first of sd3's reads text alone
    "dit": (("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.ff.net.2"), 4),
    "sd3": (("transformer_blocks.0.attn.add_k_proj", "transformer_blocks.1.ff.net.2"), 3),
    "flux": (("transformer_blocks.0.attn.to_v", "single_transformer_blocks.0.proj_out"), 3),
}


def loaded(family: str, tiny_dit, pipelines):
    return load_model(str(tiny_dit if family == "dit" else pipelines[family]), device="cpu")


@pytest.mark.parametrize("family", CASES)
def test_it_is_the_derivative_of_the_whole_sampler(family: str, tiny_dit, pipelines) -> None:
    model = loaded(family, tiny_dit, pipelines)
    sites, steps = CASES[family]
    sampler, samples = model.sampler(steps), model.samples(range(2))
    assert model.branches(sampler.guidance) == (1 if family == "flux" else 2)
    settings = CHEAP.model_copy(update={"probes": 2})
    task = task_of(model, sites, ["4"], samples, sampler, settings=settings)
    found, norm = inner_products(task, 0)
    shape = model.latent_shape(sampler)
    v = torch.stack([directions(s, shape, task.settings.probes, 0) for s in samples], 1)
    for site, operand, bits in task.keys:
        layer = task.layers.of(operand, bits)[site]
        own = found[site, operand, bits]  # [steps, K, n]
        for among in ([steps - 1], list(range(steps))):
            moved = pushed_forward(task, site, layer, among)  # [n, c, h, w]
            wanted = (v * moved).double().flatten(2).sum(2)  # [K, n]
            worst = (own[among].sum(0) - wanted).abs().max() / wanted.abs().max()
            assert float(worst) < 1e-4, (site, operand, among)
    assert norm.shape == (2,)


def test_many_directions_give_the_length_of_the_moved_latent(model, samples, sampler) -> None:
    task = task_of(model, ["transformer_blocks.1.attn1.to_v"], ["4"], samples[:1], sampler)
    site, operand, bits = task.keys[0]
    moved = pushed_forward(task, site, task.layers.of(operand, bits)[site], range(4))
    v = directions(samples[0], model.latent_shape(sampler), 4096, 0)
    assert set(v.unique().tolist()) == {-1.0, 1.0}
    products = (v * moved).double().flatten(1).sum(1).reshape(1, -1, 1).numpy()
    length = moved.double().square().sum().reshape(1).numpy()
    assert cost(products, length) == pytest.approx(1.0, abs=5 * (2 / 4096) ** 0.5)


def test_directions_are_a_samples_own_whatever_its_batch(model, samples, sampler) -> None:
    site = ["transformer_blocks.0.ff.net.2"]
    alone, together = (
        sweep(
            "gradient", model, site, ["4"], windows_for(sampler, 2), samples, sampler, settings=s
        )[0]
        for s in (Settings(batch_size=1, probes=2), Settings(batch_size=3, probes=2))
    )
    for a, b in zip(alone, together, strict=True):
        assert a.per_sample == pytest.approx(b.per_sample, rel=1e-3)


def test_errors_that_repeat_over_the_steps_add_up_before_they_are_squared(pipelines) -> None:
    """The same small error in each of 6 steps costs about 4 times what single steps add up to."""
    model = load_model(str(pipelines["sd3"]), device="cpu")
    site, steps = "transformer_blocks.1.ff.net.2", 6
    sampler, samples = model.sampler(steps), model.samples(range(2))
    settings = CHEAP.model_copy(update={"probes": 24})
    task = task_of(model, [site], ["4"], samples, sampler, settings=settings, operands=["weight"])
    linear = model.transformer.get_submodule(site)
    shift = 1e-3 * torch.randn(linear.out_features, generator=torch.Generator().manual_seed(0))
    task = replace(task, layers=FixedLayers({site: Changed(deepcopy(linear), lambda y: y + shift)}))
    found, norm = inner_products(task, 0)
    products = found[task.keys[0]].numpy()
    begun = task.drawer.begin(samples)
    plain = task.drawer.drawn(model.transformer, begun).latents.double()
    bias = linear.bias
    try:
        linear.bias = torch.nn.Parameter(bias + shift, requires_grad=False)
        moved = task.drawer.drawn(model.transformer, begun).latents.double()
    finally:
        linear.bias = bias
    truth = ((moved - plain).flatten(1).square().sum(1) / norm).numpy()
    outside = sum(cost(products[[step]], norm.numpy()) for step in range(steps))
    assert cost(products, norm.numpy()).mean() == pytest.approx(truth.mean(), rel=0.3)
    assert np.mean(outside) < 0.4 * truth.mean()


def test_it_ranks_cells_as_exact_flips_do(model, sampler) -> None:
    sites = [s.name for s in model.sites if s.kept_reason is None and s.block == 1]
    asked = model, sites, ["3", "8"], windows_for(sampler, 2), model.samples(range(4)), sampler
    exact, _ = sweep("exact", *asked)
    gradient, _ = sweep("gradient", *asked)
    truth, told = table(exact, "latent_error"), table(gradient, "latent_error")
    limits = floor.floors(exact)
    outside = [r.cell for r in exact if floor.inside(r, limits) is False]
    assert len(outside) >= 12
    ranks = spearmanr([truth[c] for c in outside], [told[c] for c in outside])
    assert ranks.statistic > 0.8


@pytest.mark.parametrize(
    "scheduler", ["DDIMScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler"]
)
def test_whatever_memory_a_scheduler_has_is_differentiated(model, samples, scheduler: str) -> None:
    sampler = model.sampler(4, scheduler=scheduler)
    task = task_of(model, ["transformer_blocks.0.attn1.to_q"], ["4"], samples, sampler)
    found, _ = inner_products(task, 0)
    v = torch.stack([directions(s, model.latent_shape(sampler), 4, 0) for s in samples], 1)
    for site, operand, bits in task.keys:
        every = range(len(task.drawer.timesteps))
        moved = pushed_forward(task, site, task.layers.of(operand, bits)[site], every)
        wanted = (v * moved).double().flatten(2).sum(2)
        worst = (found[site, operand, bits].sum(0) - wanted).abs().max() / wanted.abs().max()
        assert float(worst) < 1e-4


@pytest.mark.parametrize("kind", OUTLIER_KINDS)
def test_outliers_that_hooks_put_in_are_seen_by_what_is_rounded(kind, tiny_dit) -> None:
    """Layers whose input is made larger on the way in: the rounded one gets the same input, once."""
    plain = load_model(str(tiny_dit), device="cpu")
    sampler, site = plain.sampler(), ["transformer_blocks.0.attn1.to_q"]
    asked = site, ["4"], windows_for(sampler, 1), plain.samples(range(2)), sampler
    model = inject(plain, Outliers(kind=kind, factor=16))
    settings = CHEAP.model_copy(update={"probes": 32})
    gradient = table(sweep("gradient", model, *asked, settings=settings)[0], "latent_error")
    exact = table(sweep("exact", model, *asked)[0], "latent_error")
    assert gradient == pytest.approx(exact, rel=0.7)


def test_a_scheduler_that_draws_noise_is_refused(model, samples, sampler) -> None:
    noisy = model.sampler(4, scheduler="EulerAncestralDiscreteScheduler")
    for tier in ("gradient", "exact"):
        with pytest.raises(BadInput, match="draws noise of its own"):
            sweep(tier, model, None, ["4"], windows_for(noisy, 1), samples, noisy)
