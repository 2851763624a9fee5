"""V8, V13 and scope, each beside a broken variant: what a quantized transformer is as a whole."""

from __future__ import annotations

import pytest
import torch

from quant.errors import BadInput
from quant.generation import generate
from quant.layers import QuantLinear
from quant.method_options import parse_options
from quant.plans import check_plan, uniform_plan, windows_for
from quant.quantization import quantize
from quant.schema import Plan, SitePlan, parse_bits
from quant.swapping import swap


def quantized(model, seen, method="viditq", bits="w4a8", **plan):
    return quantize(model, method, uniform_plan(model, parse_bits(bits), **plan), seen=seen)


def difference_of_two_calls(transformer) -> float:
    """Largest over the layers: both guidance branches in one call against one after the other, relative.

    Layer by layer on equal inputs: over a whole network, the order of floating-point sums may turn a code.
    """
    found = []

    def compare(layer: QuantLinear, args: tuple[torch.Tensor], both: torch.Tensor) -> None:
        apart = torch.cat([layer.forward(half) for half in args[0].chunk(2)])
        found.append(float((both - apart).abs().max() / apart.abs().max()))

    for layer in transformer.modules():
        if isinstance(layer, QuantLinear):
            layer.register_forward_hook(compare)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1000, 1000])
    with torch.no_grad():
        transformer(torch.cat([x, 50 * x]), timestep=torch.full((4,), 500), class_labels=labels)
    assert len(found) == 2 * 6
    return max(found)


def made_with(model, seen, **options):
    plan = uniform_plan(model, parse_bits("w8a8"))
    return quantize(model, "viditq", plan, options, seen).transformer


@pytest.mark.parametrize("transform", ["plain", "scale"])  # nothing is summed before rounding
def test_v8_guidance_in_one_batch_equals_two_forwards(model, seen, transform):
    """Row-wise scales: the unconditional half does not see the conditional one."""
    assert difference_of_two_calls(made_with(model, seen, transform=transform)) <= 1e-6


def test_v8_can_fail_scales_shared_by_the_batch(model, seen):
    """As in the preprint's released code, which therefore calls the network twice."""
    made = made_with(model, seen, transform="plain", scales="batch")
    assert difference_of_two_calls(made) > 1e-3


def test_v13_kept_sites_are_the_very_same_tensors_and_all_others_are_quantized(model, seen):
    check_scope(model, quantized(model, seen))


def test_v13_can_fail(model, seen):
    """A kept site that was touched, one quantized too few."""
    made = quantized(model, seen)
    kept = made.transformer.get_submodule("transformer_blocks.0.norm1.linear")
    kept.weight = torch.nn.Parameter(kept.weight.clone())
    with pytest.raises(AssertionError):
        check_scope(model, made)
    made = quantized(model, seen)
    name = "transformer_blocks.1.ff.net.2"
    swap(made.transformer, name, model.transformer.get_submodule(name))
    with pytest.raises(AssertionError):
        check_scope(model, made)


def check_scope(model, made) -> None:
    """The kept sites are the model's own, and as many are quantized as the family's roles say."""
    kept = [s for s in model.sites if s.kept_reason]
    changed = [s for s in model.sites if not s.kept_reason]
    assert len(changed) == 2 * 6
    assert set(made.scope.quantized) == {s.name for s in changed}
    assert made.scope.kept == {s.name: s.kept_reason for s in kept}
    for site in kept:
        assert (
            made.transformer.get_submodule(site.name).weight
            is model.transformer.get_submodule(site.name).weight
        )
    assert sum(isinstance(m, QuantLinear) for m in made.transformer.modules()) == len(changed)
    assert not any(isinstance(m, QuantLinear) for m in model.transformer.modules()), (
        "the model itself is untouched"
    )


def test_more_bits_are_nearer_to_full_precision(model, seen, reference, samples, sampler):
    errors = {}
    for bits in ("w2a8", "w4a8", "w6a6", "w8a8"):
        drawn = generate(
            model, samples, sampler, transformer=quantized(model, seen, bits=bits).transformer
        )
        errors[bits] = float((drawn.latents - reference.latents).norm() / reference.latents.norm())
    assert errors["w8a8"] < errors["w6a6"] < errors["w4a8"] < errors["w2a8"]
    assert 0 < errors["w8a8"] < 0.02


def test_windows_change_only_their_own_steps(model, seen, reference, samples, sampler):
    """First window as coarse as possible, second in floating point: the last steps' error only follows."""
    plan = uniform_plan(model, parse_bits("w8a8"), sampler=sampler, windows=2)
    coarse = {
        name: SitePlan(
            weight=None, activations=(site.activations[0].model_copy(update={"bits": 2}), None)
        )
        for name, site in plan.sites.items()
    }
    made = quantize(model, "rtn", plan.model_copy(update={"sites": coarse}))
    border = plan.windows[0].low
    x = reference.trajectory.inputs[0]
    with torch.no_grad():
        for t, equal in ((border + 1, False), (border - 1, True)):
            arguments = {"timestep": torch.full((3,), t), "class_labels": torch.tensor([0, 1, 2])}
            full = model.transformer(x, **arguments).sample
            got = made.transformer(x, **arguments).sample
            assert torch.allclose(got, full, atol=1e-6) is equal


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_windows_cut_the_steps_into_equal_runs(sampler, count):
    from quant.generation import timesteps_of
    from quant.step import window_of

    windows = windows_for(sampler, count)
    runs = [window_of(windows, t) for t in timesteps_of(sampler)]
    assert runs == sorted(runs)
    sizes = [runs.count(i) for i in range(count)]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", [0, 5])
def test_more_windows_than_steps_are_refused(sampler, count):
    with pytest.raises(BadInput, match="1 to 4"):
        windows_for(sampler, count)


def test_a_plan_for_another_model_or_an_unknown_site_is_refused(model):
    plan = uniform_plan(model, parse_bits("w4a8"))
    with pytest.raises(BadInput, match="another model"):
        check_plan(plan.model_copy(update={"model": "0000"}), model)
    wrong = {**plan.sites, "transformer_blocks.0.ff.net.3": next(iter(plan.sites.values()))}
    with pytest.raises(BadInput, match=r"unknown site .*nearest: transformer_blocks"):
        check_plan(plan.model_copy(update={"sites": wrong}), model)


def test_groups_must_divide_the_width(model):
    with pytest.raises(BadInput, match="do not divide its 64 inputs; use a group of 64"):
        uniform_plan(model, parse_bits("w4a8"), group_size=48)


def test_sites_that_a_plan_leaves_out_stay_as_they_are(model, seen):
    plan = uniform_plan(model, parse_bits("w4a8"))
    name = "transformer_blocks.1.ff.net.2"
    made = quantize(model, "rtn", plan.model_copy(update={"sites": {name: plan.sites[name]}}))
    assert made.scope.quantized == (name,)
    assert made.scope.kept["transformer_blocks.0.ff.net.2"] == "the plan keeps it in floating point"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("vidit", {}, "nearest: viditq"),
        ("viditq", {"alhpa": 0.3}, "nearest: alpha"),
        ("viditq", {"transform": "spin"}, "transform"),
        ("rtn", {"alpha": 0.5}, "unknown option of rtn"),
    ],
)
def test_unknown_methods_and_options_name_the_nearest(method, options, message):
    with pytest.raises(BadInput, match=message):
        parse_options(method, options)


def test_calibration_of_another_model_is_refused(model, seen):
    broken = type(seen)({}, seen.timesteps, seen.manifest, ())
    with pytest.raises(BadInput, match="recorded from another model"):
        quantized(model, broken)


def test_plans_round_trip_through_json(model, sampler):
    plan = uniform_plan(model, parse_bits("w4a8"), sampler=sampler, windows=2)
    assert Plan.parse(plan.to_json(), "plan") == plan
    assert plan.sampler == sampler.fingerprint
