"""Before and after each transform: from what a quantized layer says of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dqviz.seen_file import SeenFile
from quant.calibration import calibrate, recorded_sites
from quant.footprint import footprint, input_shapes
from quant.generation import generate
from quant.layers import QuantLinear
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.recording import counts_of
from quant.schema import parse_bits
from quant.seen import Seen
from quant.seen_layout import CalibrationOptions
from quant.stages import stages_by_input, stages_of, weight_statistics
from quant.step import window_of
from quant.transforms import to_weight


@pytest.fixture(scope="module")
def both(model, sampler, seen):
    """viditq with a scale and a rotation everywhere."""
    plan = uniform_plan(model, parse_bits("w4a8"), sampler=sampler)
    return quantize(model, "viditq", plan, {"transform": "both"}, seen)


@pytest.fixture(scope="module")
def staged(model, sampler, both):
    stages = stages_by_input(both.transformer, model.sites, {"method": "viditq"})
    seen = calibrate(model, model.samples(range(1000, 1002)), sampler, stages=stages)
    weights = weight_statistics(model.transformer, model.sites, stages)
    return stages, seen, weights


@pytest.mark.parametrize(
    ("transform", "names"),
    [
        ("plain", []),
        ("scale", ["scaled"]),
        ("rotate", ["rotated"]),
        ("both", ["scaled", "rotated"]),
    ],
)
def test_stages_are_named_by_what_the_layer_does(model, sampler, seen, transform, names):
    plan = uniform_plan(model, parse_bits("w8a8"), sampler=sampler)
    made = quantize(model, "viditq", plan, {"transform": transform}, seen)
    layers = [m for m in made.transformer.modules() if isinstance(m, QuantLinear)]
    for layer in layers:
        stages = stages_of(layer)
        assert [s.name for s in stages] == names
        x = torch.randn(5, layer.in_features)
        y = x
        for stage in stages:
            y = stage.of_input(y)
        arrives = x if layer.folded is None else x / layer.folded
        torch.testing.assert_close(y, layer.input_transform(arrives), rtol=1e-5, atol=1e-5)


def test_a_stage_leaves_the_product_alone(both):
    layer = next(m for m in both.transformer.modules() if isinstance(m, QuantLinear))
    x, w = torch.randn(7, layer.in_features), torch.randn(9, layer.in_features)
    exact = x @ w.T
    for stage in stages_of(layer):
        x, w = stage.of_input(x), stage.of_weight(w)
        torch.testing.assert_close(x @ w.T, exact, rtol=1e-3, atol=1e-3)


def test_one_pass_records_every_stage(model, sampler, both, staged):
    """The statistics after the transforms are those of the layer's own input transform."""
    stages, seen, _ = staged
    assert stages.names == ("input", "scaled", "rotated")
    assert list(seen.stages) == ["scaled", "rotated"]
    key, site = next(iter(recorded_sites(model).items()))
    layer, raw = both.transformer.get_submodule(site), []
    handle = model.transformer.get_submodule(site).register_forward_pre_hook(
        lambda _, args: raw.append(args[0].reshape(2, -1, args[0].shape[-1]))
    )
    generate(model, model.samples(range(1000, 1002)), sampler)
    handle.remove()
    x = layer.input_transform(torch.stack(raw))
    got = seen.stages["rotated"][key]
    torch.testing.assert_close(got.maximum, x.amax(2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.mean_abs, x.abs().mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert seen.inputs.keys() == seen.stages["scaled"].keys() == seen.stages["rotated"].keys()


def test_weights_before_and_after(model, both, staged):
    _, _, weights = staged
    assert list(weights) == ["input", "scaled", "rotated"]
    name = next(s.name for s in model.sites if s.kept_reason is None)
    plain = model.transformer.get_submodule(name).weight.detach().float()
    layer = both.transformer.get_submodule(name)
    signs = weights["rotated"][name]
    exact = to_weight(plain, layer.channel_scale.float(), None)
    got = weights["scaled"][name]
    torch.testing.assert_close(got.in_absmax, exact.abs().amax(0))
    torch.testing.assert_close(got.out_absmax, exact.abs().amax(1))
    assert torch.equal(got.histogram, counts_of(exact[None])[0])
    assert float(got.incoherence) == pytest.approx(float(exact.abs().max() / exact.abs().mean()))
    assert int(signs.histogram.sum()) == plain.numel()


def test_stages_and_weights_survive_the_disk(staged, tmp_path):
    _, seen, weights = staged
    whole = replace(seen, weights=weights)
    whole.save(tmp_path / "seen.safetensors")
    again = Seen.load(tmp_path / "seen.safetensors")
    assert list(again.stages) == list(whole.stages)
    assert again.weights.keys() == weights.keys()
    for stage, sites in weights.items():
        for site, one in sites.items():
            assert torch.equal(again.weights[stage][site].histogram, one.histogram)
    plain = Seen.load(tmp_path / "seen.safetensors", stages=())
    assert not plain.stages
    assert plain.inputs.keys() == whole.inputs.keys()


@pytest.fixture(scope="module")
def windowed(model, sampler, seen):
    """trdq with two windows: its layers, and what a capture records of them."""
    plan = uniform_plan(model, parse_bits("w4a8"), sampler=sampler)
    made = quantize(model, "trdq", plan, {"alpha": 0.3, "windows": 2}, seen)
    stages = stages_by_input(made.transformer, model.sites, {"method": "trdq"})
    found = calibrate(model, model.samples(range(1000, 1002)), sampler, stages=stages)
    weights = weight_statistics(model.transformer, model.sites, stages)
    return made, stages, replace(found, weights=weights)


def check_steps_by_window(model, sampler, made, stages, found):
    """Every step's input was recorded after the transform of its own window."""
    key, site = next(iter(recorded_sites(model).items()))
    layer, raw = made.transformer.get_submodule(site), []
    handle = model.transformer.get_submodule(site).register_forward_pre_hook(
        lambda _, args: raw.append(args[0].reshape(2, -1, args[0].shape[-1]))
    )
    generate(model, model.samples(range(1000, 1002)), sampler)
    handle.remove()
    for step, x in enumerate(raw):
        x = layer.input_transform(x, window_of(layer.windows, found.timesteps[step]))
        got = found.stages["rotated"][key].maximum[step]
        torch.testing.assert_close(got, x.amax(1), rtol=1e-4, atol=1e-5)


def test_a_step_goes_through_the_transforms_of_its_window(model, sampler, windowed):
    made, stages, found = windowed
    assert stages.windows == made.plan.windows == found.windows
    assert len(stages.windows) == 2
    check_steps_by_window(model, sampler, made, stages, found)
    first = replace(stages, windows=())  # the first window's at every step
    stale = calibrate(model, model.samples(range(1000, 1002)), sampler, stages=first)
    with pytest.raises(AssertionError):
        check_steps_by_window(model, sampler, made, first, stale)


def test_weights_of_every_window_are_recorded_and_read_back(
    model, sampler, samples, windowed, tmp_path
):
    made, stages, found = windowed
    found.save(tmp_path / "seen.safetensors")
    read = SeenFile(tmp_path / "seen.safetensors")
    assert read.stages == ("input", "scaled", "rotated")
    assert [read.window(step) for step in range(read.steps)] == [0, 0, 1, 1]
    name = next(s.name for s in model.sites if s.kept_reason is None)
    layer = made.transformer.get_submodule(name)
    plain = model.transformer.get_submodule(name).weight.detach().float()
    for window in range(2):
        exact = to_weight(plain, *layer.basis(window)).abs().amax(0)
        own = read.weights(name, "rotated", window)["in_absmax"]
        torch.testing.assert_close(torch.from_numpy(own), exact)
    assert not (own == read.weights(name, "rotated")["in_absmax"]).all()
    assert (read.weights(name, window=1)["in_absmax"] == plain.abs().amax(0).numpy()).all()
    again = Seen.load(tmp_path / "seen.safetensors")
    assert again.windows == found.windows
    assert list(again.weights) == list(found.weights)
    shapes = input_shapes(model, samples[0], sampler)
    bound = footprint(model, sampler, CalibrationOptions(), shapes, stages, 2)
    assert (tmp_path / "seen.safetensors").stat().st_size <= bound.file_bytes
