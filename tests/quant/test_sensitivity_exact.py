"""Exact flips: the same latents as drawing from the start, for fewer evaluations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quant.generation import generate
from quant.metrics.latent_error import measure as relative_error
from quant.plans import windows_for
from quant.schema import Window
from quant.sensitivity.exact import _inside
from quant.sensitivity.rounded import Switched
from quant.sensitivity.task import Settings
from quant.step import window_of

from .sensitivity_cases import CHEAP, sweep, table, task_of

SITE = "transformer_blocks.0.ff.net.2"
OTHER = "transformer_blocks.1.attn1.to_v"


@pytest.mark.parametrize("window", [0, 1, 3])
def test_a_prefix_that_is_taken_over_changes_no_bit(model, samples, sampler, window: int) -> None:
    windows = windows_for(sampler, 4)
    task = task_of(model, [SITE], ["3"], samples, sampler, windows=windows)
    cell = next(c for c in task.cells if c.window == window)
    layers = task.layers.of(cell.operand, cell.bits)
    begun = task.drawer.begin(samples)
    reference = task.drawer.drawn(model.transformer, begun, marks=range(4))
    with Switched(model, [SITE]).rounding(layers, _inside(task, cell)) as network:
        resumed = task.drawer.drawn(network, reference, window).latents
        whole = task.drawer.drawn(network, begun).latents
        drawn = generate(model, samples, sampler, transformer=network).latents
    assert torch.equal(resumed, whole)
    assert torch.equal(resumed.float().cpu(), drawn)
    assert not torch.equal(resumed, reference.latents)


def test_full_precision_is_what_generate_draws(model, samples, sampler, reference) -> None:
    task = task_of(model, [SITE], ["3"], samples, sampler)
    run = task.drawer.drawn(model.transformer, task.drawer.begin(samples))
    assert torch.equal(run.latents, reference.latents)


def test_evaluations_are_what_prefixes_leave(model, sampler) -> None:
    steps, w, samples = sampler.steps, 4, model.samples(range(4))
    windows, calls = windows_for(sampler, w), {}
    for size in (1, 4):
        settings = CHEAP.model_copy(update={"whole": False, "batch_size": size})
        rows, told = sweep(
            "exact", model, [SITE, OTHER], ["4"], windows, samples, sampler, settings=settings
        )
        cells = 2 * 2 * w
        assert len({r.cell for r in rows}) == cells == told.measured
        naive = cells * len(samples) * steps
        assert told.naive_evaluations == naive
        assert told.evaluations == naive * (w + 1) / (2 * w) + len(samples) * steps
        assert told.denoiser_calls == told.evaluations / size
        calls[size] = told.denoiser_calls
    assert calls[1] >= 4 * calls[4], "drawing seeds together cuts the calls"


def test_both_ways_take_over_prefixes_too(model, samples, sampler) -> None:
    w, n, steps = 2, len(samples), sampler.steps
    settings = Settings(whole=False, pictures=False)
    rows, told = sweep(
        "exact",
        model,
        [SITE, OTHER],
        ["4"],
        windows_for(sampler, w),
        samples,
        sampler,
        settings=settings,
    )
    cells, runs = 2 * 2 * w, 1 + 2  # full precision, and all rounded: weights, activations
    assert told.evaluations == 2 * cells * n * steps * (w + 1) / (2 * w) + runs * n * steps
    assert {r.metric for r in rows} == {"latent_error", "latent_error_saved"}


def test_a_single_cell_saves_what_it_costs(model, samples, sampler) -> None:
    rows, _ = sweep(
        "exact",
        model,
        [SITE],
        ["3"],
        windows_for(sampler, 1),
        samples,
        sampler,
        settings=Settings(),
    )
    by_metric = {(r.cell, r.metric): r.per_sample for r in rows}
    for (cell, metric), values in by_metric.items():
        if not metric.endswith("_saved"):
            assert by_metric[cell, f"{metric}_saved"] == pytest.approx(values, abs=1e-12)


def test_everything_but_one_is_drawn_so(model, samples, sampler) -> None:
    """Against a network with the other site rounded alone, and with both."""
    windows = windows_for(sampler, 2)
    rows, _ = sweep(
        "exact", model, [SITE, OTHER], ["3"], windows, samples, sampler,
        settings=Settings(pictures=False),
    )  # fmt: skip
    task = task_of(model, [SITE, OTHER], ["3"], samples, sampler, windows=windows)
    layers, switched = task.layers.of("weight", "3"), Switched(model, [SITE, OTHER])
    exact = generate(model, samples, sampler).latents

    def error(where) -> np.ndarray:
        with switched.rounding(layers, where) as network:
            drawn = generate(model, samples, sampler, transformer=network).latents
        return relative_error(exact, drawn) ** 2

    row = next(
        r
        for r in rows
        if r.metric == "latent_error_saved" and (r.cell.site, r.cell.window) == (SITE, 1)
    )
    but = error(lambda site, t: site != SITE or window_of(windows, t) != 1)
    assert row.per_sample == pytest.approx(error(lambda site, t: True) - but, abs=1e-12)


def test_a_window_without_steps_and_sixteen_bits_cost_nothing(model, samples, sampler) -> None:
    cut = windows_for(sampler, 2)
    gap = (cut[0].low + 1e-3, cut[0].low)
    empty = (
        Window(low=gap[0], high=cut[0].high),
        Window(low=gap[1], high=gap[0]),
        cut[1],
    )
    for tier in ("weight", "layer", "gradient", "exact"):
        rows, _ = sweep(tier, model, [SITE], ["4", "16"], empty, samples, sampler)
        for row in rows:
            nothing = row.cell.bits == "16" or row.cell.window == 1
            assert (row.value == 0.0) == nothing, (tier, str(row.cell))
    rows, told = sweep("exact", model, [SITE], ["16"], empty, samples, sampler)
    assert told.denoiser_calls == 0
    assert {r.value for r in rows} == {0.0}


def test_pictures_and_a_classifier_are_judged_too(model, samples, sampler) -> None:
    class Judge:
        labels = tuple(model.classes.values())

        def __call__(self, images):
            return images.flatten(1)[:, :3] * 4

        def features(self, images):
            return images.flatten(1)

    rows, _ = sweep(
        "exact", model, [SITE], ["3", "16"], windows_for(sampler, 1), samples, sampler,
        settings=Settings(both_ways=False), classifier=Judge(),
    )  # fmt: skip
    by_cell: dict[object, list[str]] = {}
    for row in rows:
        by_cell.setdefault(row.cell, []).append(row.metric)
    assert set(map(tuple, by_cell.values())) == {("latent_error", "ssim_loss", "log_prob_loss")}
    ssim = table(rows, "ssim_loss")
    assert all((value > 0) == (cell.bits == "3") for cell, value in ssim.items())


def test_layers_share_what_full_precision_holds(model, samples, sampler) -> None:
    task = task_of(model, [SITE], ["4", "6"], samples, sampler)
    linear = model.transformer.get_submodule(SITE)
    for bits in ("4", "6"):
        layer = task.layers.of("activation", bits)[SITE]
        assert layer.weight.data_ptr() == linear.weight.data_ptr()
        assert layer.bias.data_ptr() == linear.bias.data_ptr()
    assert task.layers.of("weight", "4")[SITE].bias.data_ptr() == linear.bias.data_ptr()
