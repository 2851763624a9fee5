"""What is said before the start is what runs: multiply-adds are counted while a method works."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch.utils.flop_counter import FlopCounterMode

from quant.adapters import Adapter
from quant.cards import load_method, methods
from quant.conformance.synthetic import plan
from quant.conformance.trial import CHANNELS, ROWS, STEPS, Trial, inputs
from quant.effort import (
    TEXT_TOKENS,
    GroupShape,
    Rates,
    Work,
    calibrating,
    drawing,
    group_shapes,
    judging,
    method_memory,
    method_work,
    rounding,
    shapes_of,
)
from quant.footprint import input_shapes
from quant.generation import predict, starting_noise
from quant.loading import load_model
from quant.method_options import parse_options
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Value, parse_bits
from quant.seen_layout import CalibrationOptions
from quant.sizes import load_shape

OUTS = (96, 48)
SHAPE = GroupShape(CHANNELS, OUTS, ROWS * STEPS, STEPS)
UNITS = ("adaround", "taqdit")  # their `work` is that of the units of a model; see below
CASES = [
    *((key, {}) for key in sorted(methods()) if key not in UNITS),
    ("trdq", {"windows": 1}),
    ("trdq", {"windows": (2,), "alpha": 0.3}),
    ("trdq", {"tier": "A", "block": 32}),
    ("gptq", {"transform": "both"}),
    ("svdquant", {"alpha": 0.5}),
]


FACTORED = ("gptq", "svdquant")  # factorizations are predicted, the counter does not see them
SETTLING = ("kmeans-vq", "vq4dit")  # stop where nothing moves, which on small weights is early


def multiply_adds(make):
    """Of the matrix products that run."""
    with FlopCounterMode(display=False) as counter:
        make()
    return counter.get_total_flops() / 2


def counted(key, options):
    """Of the method alone, without the draw of its inputs."""
    drawn = multiply_adds(lambda: inputs(0))
    return multiply_adds(lambda: Trial(key, plan(4, 4), 0, options, outs=OUTS)) - drawn


def check_count(predicted, found, above=1.5):
    """How long a search goes on is not known before."""
    assert found / 1.5 <= predicted <= above * found


@pytest.mark.parametrize(("key", "options"), CASES, ids=lambda v: v if isinstance(v, str) else None)
def test_the_multiply_adds_of_a_method_are_predicted(key, options):
    module = load_method(key)
    chosen = module.Options.parse(options, key)
    predicted = method_work(module, [SHAPE], chosen)
    assert predicted.numbers > 0
    check_count(predicted.macs, counted(key, options), 4 if key in FACTORED + SETTLING else 1.5)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("adaround", {"reconstruction": "layer"}),
        ("taqdit", {}),
        ("taqdit", {"mode": "plain"}),
    ],
)
def test_the_multiply_adds_of_learned_units_are_predicted(key, options, model, seen, samples, sampler):  # fmt: skip
    """Of a whole model: trajectories, captures of every unit, its iterations forth and back."""
    free = [s.name for s in model.sites if s.kept_reason is None]
    tokens = input_shapes(model, samples[0], sampler)
    shapes = group_shapes(model, free, sampler, CalibrationOptions(reservoir=256), tokens)
    options = {"iterations": 6, "samples": 2, "steps": 2, "batch": 48} | options
    chosen = parse_options(key, options)
    wanted = uniform_plan(model, parse_bits("w4a8"))
    found = multiply_adds(lambda: quantize(model, key, wanted, options, seen))
    predicted = method_work(load_method(key), shapes, chosen)
    assert predicted.numbers > 0
    check_count(predicted.macs, found)
    if options.get("mode") != "plain":
        without = parse_options(key, options | {"iterations": 0})
        with pytest.raises(AssertionError):
            check_count(method_work(load_method(key), shapes, without).macs, found)


def test_a_count_that_forgets_the_search_is_caught():
    found = counted("trdq", {})
    with pytest.raises(AssertionError):
        check_count((judging(SHAPE) * 10 + rounding(SHAPE)).macs, found)
    with pytest.raises(AssertionError):
        check_count(counted("trdq", {"alpha": 0.3}), found)


def test_drawing_and_recording_are_predicted_from_shapes(model, sampler, samples):
    """Every product of the network, attention too; kept layers see one row, and are little."""
    shapes = input_shapes(model, samples[0], sampler)
    made = drawing(model.sites, shapes)
    found = multiply_adds(
        lambda: predict(model, starting_noise((4, 8, 8), samples[:1]), 999.0, samples[:1], sampler)
    )
    check_count(2 * made.macs, found, 1.05)
    whole = calibrating(model, shapes, sampler, 3, 2)
    assert whole.macs == pytest.approx(3 * sampler.steps * 2 * made.macs)
    assert calibrating(model, shapes, sampler, 3, 1).calls == 1.5 * whole.calls


def test_rows_of_a_shape_without_weights_are_those_of_the_network(model, sampler, samples):
    found, frames = shapes_of(model.transformer, model.sites)
    assert (found, frames) == (input_shapes(model, samples[0], sampler), 1)
    dit, adapter = load_shape("dit-xl-2")
    sites = adapter.sites(dit)
    shapes, _ = shapes_of(dit, sites)
    assert {shape.tokens for shape in shapes.values()} == {256}
    published = 118.6e9  # multiply-adds of DiT-XL/2 at 256 x 256, Peebles and Xie, table 4
    assert drawing(sites, shapes).macs == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize("family", ["pixart-alpha", "sd3.5", "flux"])
def test_rows_of_pictures_and_texts_are_those_of_the_network(family, pipelines):
    """Two streams that attend to each other, and blocks that read both as one sequence."""
    model = load_model(str(pipelines[family]), device="cpu")
    real = input_shapes(model, model.samples([3])[0], model.sampler(steps=1, guidance=1))
    text = next(s.tokens for name, s in real.items() if name.endswith(".text"))
    height, width = (8 * side for side in model.latent_shape(model.sampler())[-2:])
    found, _ = shapes_of(model.transformer, model.sites, (height, width), text=text)
    assert found == real


def test_a_shape_that_does_not_say_its_size_has_no_rows(monkeypatch):
    flux, adapter = load_shape("flux-dev")
    assert {shape.tokens for shape in shapes_of(flux, adapter.sites(flux))[0].values()} == {
        TEXT_TOKENS,
        (1024 // 16) ** 2,
        (1024 // 16) ** 2 + TEXT_TOKENS,
    }
    monkeypatch.setattr(type(adapter), "tokens", Adapter.tokens)
    assert shapes_of(flux, adapter.sites(flux)) == ({}, 1)


def test_groups_are_those_that_a_calibration_fills(model, sampler, seen):
    free = [s.name for s in model.sites if s.kept_reason is None]
    groups = group_shapes(model, free, sampler, CalibrationOptions(reservoir=256))
    assert len(groups) == len(seen.inputs)
    assert groups[0] == GroupShape(64, (64, 64, 64), 256, 4, groups=8, block=0)
    assert all(len(s.rows) <= g.rows for s, g in zip(seen.inputs.values(), groups, strict=True))


def test_seconds_are_counts_over_rates():
    work = Work(6e9, 4e8, 100) + Work(2e9, 0, 100)
    assert (work * 2).seconds(Rates(macs=8e9, numbers=4e8, calls=100)) == 2 * (1 + 1 + 2)


def test_a_method_that_learns_counts_its_own_memory_and_the_rows_it_runs_through(model, sampler, samples):  # fmt: skip
    free = [s.name for s in model.sites if s.kept_reason is None]
    shapes = input_shapes(model, samples[0], sampler)
    groups = group_shapes(model, free, sampler, CalibrationOptions(reservoir=256), shapes)
    assert [g.tokens for g in groups] == [16] * len(groups), "4 x 4 patches of a sample"
    module = SimpleNamespace(memory=lambda shapes, options: 7 * len(shapes))
    assert method_memory(module, groups, Value()) == 7 * len(groups)
    assert method_memory(SimpleNamespace(), groups, Value()) >= 12 * max(g.weights for g in groups)


def test_memory_of_codebooks_counts_the_samples_and_one_block_is_less_than_all(model, sampler, samples):  # fmt: skip
    free = [s.name for s in model.sites if s.kept_reason is None]
    shapes = input_shapes(model, samples[0], sampler)
    groups = group_shapes(model, free, sampler, CalibrationOptions(reservoir=256), shapes)
    module = load_method("vq4dit")

    def bytes_of(**options):
        return method_memory(module, groups, parse_options("vq4dit", options))

    numbers = sum(g.tokens * (g.width + sum(g.outputs)) for g in groups)
    assert bytes_of(samples=5) - bytes_of(samples=4) >= 2 * 2 * 4 * numbers
    little = {"trajectories": 1, "steps": 2}
    assert bytes_of(block_input="teacher", samples=16, **little) < 0.7 * bytes_of(
        samples=16, **little
    )
    assert bytes_of(block_input="teacher", samples=16, steps=50) > bytes_of(
        block_input="teacher", samples=16, **little
    )
