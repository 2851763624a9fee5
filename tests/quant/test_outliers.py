"""Synthetic outliers: the same function, large inputs, and a label on everything."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quant import amplified, outliers
from quant.adapters import adapter_for
from quant.calibration import CalibrationOptions, calibrate
from quant.checkpoint import CONFIG, WEIGHTS, save_checkpoint
from quant.errors import BadInput
from quant.generation import generate, predict
from quant.layers import QuantLinear
from quant.models import Model, ModelCard
from quant.outliers import chosen, drift, inject, share_of
from quant.plans import check_plan, uniform_plan
from quant.quantization import quantize
from quant.rescaling import Rows
from quant.schema import Outliers, parse_bits
from quant.sizes import predict_size
from quant.storage import stored_tensors
from quant.transforms import incoherence

from .families import FAMILIES, output

pytestmark = pytest.mark.filterwarnings("ignore:There are modules")
KINDS = ("static", "drifting", "token")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
TIMESTEPS = (1000.0, 613.0, 1.0)


@cache
def tiny(family: str, dtype: torch.dtype = torch.float64) -> Model:
    """A model of the family without a pipeline: enough to call its transformer."""
    transformer = FAMILIES[family].model(dtype)
    adapter = adapter_for(transformer)
    card = ModelCard(key="tiny", title="Tiny", family=family, task="", guidance=1, steps=4)
    return Model(
        ref="tiny",
        path=None,  # type: ignore[arg-type]
        from_hub=False,
        pipe=SimpleNamespace(transformer=transformer),
        adapter=adapter,
        card=card,
        sites=adapter.sites(transformer),
        source_dtype=dtype,
        device=torch.device("cpu"),
        dtype=dtype,
    )


def difference(model: Model, changed: Model, family: str, timestep: float) -> float:
    """Relative, of one forward."""
    inputs = FAMILIES[family].inputs(model.dtype, timestep)
    exact = output(model.transformer, inputs)
    return float((output(changed.transformer, inputs) - exact).norm() / exact.norm())


def inputs_of(model: Model, family: str, timestep: float) -> dict[str, torch.Tensor]:
    """What every site reads in one forward."""
    got = {}
    handles = [
        model.transformer.get_submodule(site.name).register_forward_pre_hook(
            lambda _, args, name=site.name: got.update({name: args[0].clone()})
        )
        for site in model.sites
    ]
    output(model.transformer, FAMILIES[family].inputs(model.dtype, timestep))
    for handle in handles:
        handle.remove()
    return got


def tolerance(family: str, dtype: torch.dtype) -> float:
    """Relative; of float32 where diffusers computes in it."""
    return TOLERANCE[dtype if FAMILIES[family].exact else torch.float32]


# --- the same function


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6, deadline=None)
@given(factor=st.floats(1.01, 256), seed=st.integers(0, 2**32 - 1), timestep=st.floats(0, 1000))
def test_one_forward_is_the_same(family, kind, dtype, factor, seed, timestep):
    model = tiny(family, dtype)
    changed = inject(model, Outliers(kind=kind, factor=factor, seed=seed))
    assert difference(model, changed, family, timestep) <= tolerance(family, dtype)


def without_the_offset(monkeypatch):
    """F (1 + scale) written as 1 + F scale."""
    multiply = Rows.multiply
    monkeypatch.setattr(
        Rows,
        "multiply",
        lambda self, name, index, factor, offset=0.0: multiply(self, name, index, factor),
    )


def without_the_fold(monkeypatch):
    """Rows amplified, columns left as they are."""
    monkeypatch.setattr(outliers, "_divide_columns", lambda *_: None)


def without_the_way_out(monkeypatch):
    """The layer's output left as the amplified input made it."""
    monkeypatch.setattr(amplified.Amplified, "after", lambda self, layer, args, y: y)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        ("static", without_the_offset),
        ("static", without_the_fold),
        ("drifting", without_the_way_out),
        ("token", without_the_way_out),
    ],
)
def test_the_check_of_exactness_can_fail(family, kind, broken, monkeypatch):
    broken(monkeypatch)
    model = tiny(family)
    changed = inject(model, Outliers(kind=kind, factor=32))
    assert difference(model, changed, family, 1000) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_gives_the_same_pictures(model, samples, sampler, reference, kind):
    drawn = generate(inject(model, Outliers(kind=kind, factor=32)), samples, sampler)
    assert float((drawn.images - reference.images).abs().max()) < 1e-3
    assert not torch.equal(drawn.latents, reference.latents), "it took the other way"


def test_the_model_itself_is_left_alone(model):
    before = {k: v.clone() for k, v in model.transformer.state_dict().items()}
    for kind in KINDS:
        changed = inject(model, Outliers(kind=kind, factor=32))
        assert changed.transformer is not model.transformer
        assert changed.transformer.pos_embed.proj.weight is model.transformer.pos_embed.proj.weight
    assert all(torch.equal(before[k], v) for k, v in model.transformer.state_dict().items())
    assert not amplified.is_amplified(model.transformer)
    assert model.pipe.transformer is model.transformer


# --- outliers inside


def expected(kind: str, x: torch.Tensor, channels: torch.Tensor, timestep: float) -> torch.Tensor:
    """The input with its outliers."""
    x = x.clone()
    if kind == "token":
        tokens = chosen(x.shape[-2], 3, "tokens")
        x[..., tokens[:, None], channels] *= 32
    else:
        x[..., channels] *= 32 if kind == "static" else 32 ** (timestep / 1000)
    return x


@pytest.mark.parametrize("timestep", TIMESTEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_chosen_channels_are_larger_by_the_factor_and_nothing_else_is(family, kind, timestep):
    model = tiny(family)
    changed = inject(model, Outliers(kind=kind, factor=32, seed=3))
    producers = model.adapter.producers(model.transformer)
    channels = {n: chosen(p.channels, 3, p.name) for p in producers for n in p.read_by}
    before, after = inputs_of(model, family, timestep), inputs_of(changed, family, timestep)
    near = 10 * tolerance(family, torch.float64)
    for name, x in before.items():
        wanted = expected(kind, x, channels[name], timestep) if name in channels else x
        torch.testing.assert_close(after[name], wanted, rtol=near, atol=near, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_incoherence_rises_by_about_the_factor(family):
    """psi = max|x| / mean|x| of the whole input: the chosen channel was an ordinary one, and the mean
    rises a little, since here 1 channel in 32 is more than 1 %."""
    model = tiny(family)
    changed = inject(model, Outliers(factor=32))
    touched = {n for p in model.adapter.producers(model.transformer) for n in p.read_by}
    before, after = inputs_of(model, family, 500), inputs_of(changed, family, 500)
    rises = {
        n: float(incoherence(after[n].reshape(-1)) / incoherence(before[n].reshape(-1)))
        for n in before
    }
    assert all(1.5 < rises[n] <= 32 for n in touched), rises
    inside = torch.tensor([rises[n] for n in touched])
    assert 32 / 8 < inside.median() < 32
    outside = [
        rises[s.name] for s in model.sites if s.kept_reason is None and s.name not in touched
    ]
    assert all(abs(rise - 1) < 1e-4 for rise in outside)


@given(st.integers(1, 5000), st.integers(0, 2**32 - 1))
def test_channels_are_one_per_cent_and_depend_on_the_seed_alone(count, seed):
    found = chosen(count, seed, "input")
    assert len(found.unique()) == len(found) == share_of(count) == math.ceil(count / 100)
    assert 0 <= int(found.min()) <= int(found.max()) < count
    assert torch.equal(found, chosen(count, seed, "input"))


def test_other_seeds_and_inputs_have_other_channels():
    assert not torch.equal(chosen(1152, 0, "a"), chosen(1152, 1, "a"))
    assert not torch.equal(chosen(1152, 0, "a"), chosen(1152, 0, "b"))


@given(st.floats(1.01, 1024), st.floats(-0.5, 1.5), st.floats(0, 1))
def test_the_drift_falls_from_the_factor_to_one(factor, noise, less):
    assert drift(factor, 1) == factor
    assert drift(factor, 0) == 1
    assert 1 <= drift(factor, noise - less) <= drift(factor, noise) <= factor


# --- which inputs


def test_every_reader_is_a_site_and_is_listed_once():
    for family in FAMILIES:
        model = tiny(family)
        sites = {s.name: s for s in model.sites}
        read = [n for p in model.adapter.producers(model.transformer) for n in p.read_by]
        assert len(read) == len(set(read))
        assert all(sites[name].kept_reason is None for name in read)
        touched = {sites[name].input_of for name in read}
        assert {s.name for s in model.sites if s.input_of in touched} == set(read), family


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_touched_has_no_maker_that_is_linear_in_its_channels(family):
    model = tiny(family)
    read = {n for p in model.adapter.producers(model.transformer) for n in p.read_by}
    left = {s.role for s in model.sites if s.kept_reason is None and s.name not in read}
    behind_gelu, residual, text = {"fc2", "context_fc2"}, {"cross_q"}, {"cross_k", "cross_v"}
    allowed = behind_gelu | (
        residual | text if family in ("pixart", "latte", "wan", "sana") else set()
    )
    assert left == allowed & {s.role for s in model.sites}


# --- what it does to methods


def error(model: Model, method: str, bits: str, options: dict, seen, reference) -> float:
    """Relative error of the network's output on the full-precision trajectory, all steps."""
    made = quantize(model, method, uniform_plan(model, parse_bits(bits)), options, seen)
    trajectory, wrong, right = reference.trajectory, 0.0, 0.0
    for step, timestep in enumerate(trajectory.timesteps):
        args = (trajectory.inputs[step], timestep, reference.samples, reference.sampler)
        exact = predict(model, *args).guided
        wrong += float((predict(model, *args, made.transformer).guided - exact).square().sum())
        right += float(exact.square().sum())
    return (wrong / right) ** 0.5


@pytest.fixture(scope="module")
def errors(model, sampler, reference):
    """By (kind or plain, method or transform, bits)."""
    found = {}
    for kind in ("plain", *KINDS):
        changed = model if kind == "plain" else inject(model, Outliers(kind=kind, factor=32))
        drawn = changed.samples(range(1000, 1004))
        seen = calibrate(changed, drawn, sampler, CalibrationOptions(reservoir=256))
        for bits in ("w8a8", "w4a8"):
            found[kind, "rtn", bits] = error(changed, "rtn", bits, {}, seen, reference)
            for transform in ("scale", "both"):
                options = {"transform": transform}
                found[kind, transform, bits] = error(
                    changed, "viditq", bits, options, seen, reference
                )
    return found


def decibels(worse: float, better: float) -> float:
    """How much larger an error is."""
    return 20 * math.log10(worse / better)


@pytest.mark.parametrize("kind", KINDS)
def test_round_to_nearest_suffers(errors, kind):
    assert decibels(errors[kind, "rtn", "w8a8"], errors["plain", "rtn", "w8a8"]) > 4


@pytest.mark.parametrize("bits", ["w8a8", "w4a8"])
def test_a_static_injection_is_undone_by_any_scaling(errors, bits):
    assert decibels(errors["static", "scale", bits], errors["plain", "scale", bits]) < 1


def test_a_drifting_injection_is_not_undone_by_one_static_scale(errors):
    """So it is not the static kind in disguise; nor are massive tokens."""
    for kind in ("drifting", "token"):
        assert decibels(errors[kind, "scale", "w8a8"], errors["plain", "scale", "w8a8"]) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", ["w8a8", "w4a8"])
def test_scale_and_rotation_help_against_every_kind(errors, kind, bits):
    assert errors[kind, "both", bits] < errors[kind, "rtn", bits]


# --- a model like any other


@pytest.mark.parametrize("kind", ["drifting", "token"])
def test_quantized_sites_see_the_outliers_and_the_way_out_is_kept(model, kind):
    changed = inject(model, Outliers(kind=kind, factor=32))
    made = quantize(changed, "rtn", uniform_plan(changed, parse_bits("w8a16")))
    for name in made.scope.quantized:
        layer = made.transformer.get_submodule(name)
        assert isinstance(layer, QuantLinear)
        ours = changed.transformer.get_submodule(name)
        assert hasattr(layer, "dqviz_amplified") == hasattr(ours, "dqviz_amplified")
    assert amplified.is_amplified(made.transformer)
    x = {"timestep": torch.tensor([900, 900]), "class_labels": torch.tensor([0, 1])}
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    exact = output(model.transformer, {"hidden_states": latents, **x})
    got = output(made.transformer, {"hidden_states": latents, **x})
    assert float((got - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("factor", [32, 7.3])
def test_a_static_checkpoint_loads_in_plain_diffusers_to_the_bit(model, sampler, tmp_path, factor):
    from diffusers import DiTTransformer2DModel

    changed = inject(model, Outliers(factor=factor))
    seen = calibrate(changed, changed.samples(range(1000, 1002)), sampler)
    plan = uniform_plan(changed, parse_bits("w4a8"))
    options = {"transform": "scale", "alpha": 0.4}
    made = quantize(changed, "viditq", plan, options, seen)
    report = save_checkpoint(made, changed, tmp_path / "c")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    x = {
        "hidden_states": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
        "timestep": torch.tensor([999, 999]),
        "class_labels": torch.tensor([0, 1000]),
    }
    assert torch.equal(output(loaded, x), output(made.transformer, x))
    assert report.total_bytes == (tmp_path / "c" / WEIGHTS).stat().st_size
    transforms = {
        n: m.transform for n, m in made.transformer.named_modules() if isinstance(m, QuantLinear)
    }
    shared = set(stored_tensors(changed.transformer, changed.source_dtype).shared)
    predicted = predict_size(
        changed.transformer,
        changed.sites,
        plan.sites,
        transforms,
        dtype=changed.source_dtype,
        shared=shared,
    )
    assert predicted == report
    config = json.loads((tmp_path / "c" / CONFIG).read_text())["quantization_config"]
    assert (config["outliers"]["kind"], config["outliers"]["factor"]) == ("static", factor)


def test_a_power_of_two_costs_almost_no_bytes(model):
    """Only biases of adaLN, where F - 1 is added, need more than the 16 bits of the rest."""

    def stored(m):
        tensors = stored_tensors(m.transformer, m.source_dtype).tensors.values()
        return sum(t.numel() * t.element_size() for t in tensors)

    plain, power, other = (
        stored(m)
        for m in (model, inject(model, Outliers(factor=2)), inject(model, Outliers(factor=7.3)))
    )
    assert plain < power < other


@pytest.mark.parametrize("kind", ["drifting", "token"])
def test_wrapped_kinds_are_not_saved(model, tmp_path, kind):
    changed = inject(model, Outliers(kind=kind, factor=32))
    made = quantize(changed, "rtn", uniform_plan(changed, parse_bits("w8a8")))
    with pytest.raises(BadInput, match=f"{kind} x32.*only the kind 'static' can be saved"):
        save_checkpoint(made, changed, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


# --- labels


def test_the_model_says_what_it_is(model):
    changed = inject(model, Outliers(kind="drifting", factor=32, seed=5))
    assert changed.outliers is not None
    said = changed.outliers.to_json()
    assert said == {"kind": "drifting", "factor": 32, "seed": 5, "channels": 6, "inputs": 6}
    assert changed.card.title == "Tiny random DiT, synthetic outliers (drifting x32)"
    assert changed.key == model.key, "its pipeline is still found under that name"


def test_nothing_made_for_one_fits_the_other(model):
    asked = [Outliers(kind=k, factor=f, seed=s) for k in KINDS for f in (8, 32) for s in (0, 1)]
    made = [inject(model, a) for a in asked]
    assert len({m.fingerprint for m in [model, *made]}) == len(asked) + 1
    plan = uniform_plan(model, parse_bits("w8a8"))
    with pytest.raises(BadInput, match="made for another model"):
        check_plan(plan, made[0])


# --- refusals


def test_a_family_without_makers_is_refused(model):
    class Silent(type(model.adapter)):
        produced = ()

    with pytest.raises(BadInput, match="DiTTransformer2DModel: its adapter does not say"):
        inject(replace(model, adapter=Silent()), Outliers(factor=32))


def test_an_adaln_without_bias_is_refused_where_it_is_needed():
    model = tiny("dit")
    transformer = FAMILIES["dit"].model(torch.float64)
    linear = transformer.transformer_blocks[0].norm1.linear
    linear.bias = None
    bare = replace(model, pipe=SimpleNamespace(transformer=transformer))
    with pytest.raises(BadInput, match=r"norm1\.linear has no bias"):
        inject(bare, Outliers(factor=32))
    for kind in ("drifting", "token"):
        changed = inject(bare, Outliers(kind=kind, factor=32))
        assert difference(bare, changed, "dit", 500) <= 1e-10


def test_outliers_on_outliers_are_refused(model):
    with pytest.raises(BadInput, match=r"has synthetic outliers already \(static x32\)"):
        inject(inject(model, Outliers(factor=32)), Outliers(factor=2))


def test_a_quantized_model_is_refused(model):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w8a8")))
    quantized = replace(model, pipe=SimpleNamespace(transformer=made.transformer))
    with pytest.raises(BadInput, match="tiny-dit is quantized already"):
        inject(quantized, Outliers(factor=32))


def test_a_factor_that_half_precision_cannot_hold_is_refused():
    model = tiny("dit", torch.float16)
    model.transformer.transformer_blocks[0].norm1.linear.weight.data.fill_(100.0)
    with pytest.raises(BadInput, match="overflow float16"):
        inject(model, Outliers(factor=1024))


@pytest.mark.parametrize("factor", [1, 0.5, -3, 5000, float("nan")])
def test_factors_are_between_1_and_1024(factor):
    with pytest.raises(BadInput, match="factor"):
        Outliers.parse({"factor": factor}, "--outliers")


def test_one_batch_of_two_timesteps_is_refused_by_the_drifting_kind(model):
    changed = inject(model, Outliers(kind="drifting", factor=32))
    with pytest.raises(BadInput, match="one batch holds timesteps 10 and 999"):
        changed.transformer(
            torch.zeros(2, 4, 8, 8),
            timestep=torch.tensor([10, 999]),
            class_labels=torch.tensor([0, 1]),
        )


def test_a_drifting_layer_alone_does_not_guess_its_step(model):
    changed = inject(model, Outliers(kind="drifting", factor=32))
    layer = changed.transformer.transformer_blocks[0].attn1.to_q
    assert isinstance(layer, nn.Linear)
    with pytest.raises(RuntimeError, match="timestep is unknown"):
        layer(torch.zeros(1, 4, 64))
