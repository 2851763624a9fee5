"""TaQ-DiT and AdaRound on the tiny model: T1, T6-T9, T11, T12, going on after a stop, caches within their bound."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file, save_file

from quant.adapters import adapter_for
from quant.attention_ranges import RangedAttention
from quant.cards import load_method
from quant.checkpoint import CONFIG, WEIGHTS, save_checkpoint
from quant.effort import group_shapes
from quant.errors import BadCheckpoint, BadInput, Cancelled
from quant.footprint import input_shapes
from quant.layers import QuantLinear
from quant.learning import Asked, Learning, read_log
from quant.method_options import parse_options
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.reconstruction import Reconstruction
from quant.reconstruction_effort import learning_memory
from quant.schema import parse_bits
from quant.seen_layout import CalibrationOptions
from quant.site_groups import groups_of
from quant.sizes import size_of
from quant.storage import digest
from quant.swapping import shallow_copy, swap
from quant.units import MIB, capture, units_of

from .families import FAMILIES

LITTLE = {"iterations": 80, "samples": 8, "steps": 4, "batch": 16, "rounding_lr": 0.1}
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
ARGUMENTS = {"timestep": torch.tensor([600.0, 600.0]), "class_labels": torch.tensor([0, 1000])}


def output(transformer):
    with torch.no_grad():
        return transformer(X, **ARGUMENTS).sample


def learner_of(model, seen, method="taqdit", bits="w4a8", seed=0, **options) -> Reconstruction:
    chosen = parse_options(method, LITTLE | options)
    plan = uniform_plan(model, parse_bits(bits))
    plan, groups = groups_of(model, method, plan, chosen, seen)
    return load_method(method).learner(Asked(model, plan, groups, seen, chosen, seed))


def run(learner, first=0, last=None):
    for k in range(first, learner.steps if last is None else last):
        learner.step(k)
    return learner


@pytest.fixture(scope="module")
def joint(model, seen):
    return run(learner_of(model, seen, iterations=160))


def test_t6_and_t7_rounded_hard_a_unit_is_nearer_than_nearest_and_decided(joint):
    """On rows that were not learned from; never the soft loss, which starts at nothing."""
    units = joint.measures()["units"]
    assert [u["unit"] for u in units] == [
        f"transformer_blocks.{b}.{part}" for b in (0, 1) for part in ("attn1", "ff")
    ]
    gains = [u["hard_now"] / u["hard_before"] for u in units]
    assert all(gain < 1 for gain in gains)
    assert sum(gains) / len(gains) < 0.9
    assert all(u["undecided"] < 0.03 for u in units)
    assert all(abs(u["soft"] / u["hard_now"] - 1) < 0.2 for u in units)


def test_t8_joint_is_no_worse_than_separate_at_equal_budget(model, seen):
    """On rows that were not learned from, rounded hard, averaged over seeds."""

    def mean(mode):
        made = [run(learner_of(model, seen, mode=mode, iterations=60, seed=n)) for n in range(2)]
        of = [u["hard_now"] / u["hard_before"] for x in made for u in x.measures()["units"]]
        return sum(of) / len(of)

    assert mean("joint") <= mean("separate")


def test_t1_with_quantizers_off_a_shifted_and_migrated_mlp_is_what_it_was(model, seen):
    """Weights exact too, what no range clips; a factor that is not undone is seen."""
    learner = learner_of(model, seen, mode="migrate", outliers=1.05)
    learner.step(0)
    unit = next(u for u in learner.units if u.kind == "mlp")
    now = learner._begin(unit)
    soft = now.soft
    second = soft.linears[f"{unit.name}.net.2"]
    assert bool((second.m > 1).any())
    for linear in soft.linears.values():
        linear.soft = None
    soft.quantize("soft", activations=False)
    x = now.plain.inputs[0][:4].float()
    with torch.no_grad():
        exact = model.transformer.get_submodule(unit.name)(x)
        assert float((soft([x])[0] - exact).abs().max() / exact.abs().max()) < 1e-5
        second.m = torch.ones_like(second.m)
        assert float((soft([x])[0] - exact).abs().max() / exact.abs().max()) > 1e-3


def test_t9_before_the_first_step_a_unit_is_the_full_precision_one(model, seen):
    """Also of columns that something migrated into: soft weights are those that were there."""
    learner = run(learner_of(model, seen, gate=False, ends=0), last=2 + LITTLE["iterations"] + 1)
    soft = learner.now.soft
    site = soft.linears["transformer_blocks.0.ff.net.2"]
    exact = model.transformer.get_submodule("transformer_blocks.0.ff.net.2").weight
    step = site.soft.step
    left = (site.soft().detach() / site.m - exact).abs()
    inside = left <= 1e-6 + step / site.m * 1e-3
    assert inside.float().mean() > 0.9, "all that no range clips"
    assert torch.equal(site.folded, exact.float() * site.m)


def test_t11_prefixes_change_what_comes_in_quantized_and_nothing_else(model, seen):
    learner = run(learner_of(model, seen, mode="plain"), last=3)
    runs, name = learner.inputs.runs(), learner.units[2].name
    plain = capture(model.transformer, name, runs, MIB)
    before = capture(learner.student, name, runs, MIB, like=plain)
    other = shallow_copy(learner.student)
    changed = shallow_copy(other.get_submodule("transformer_blocks.0.ff.net.2"))
    changed.bias = changed.bias + 1
    swap(other, "transformer_blocks.0.ff.net.2", changed)
    after = capture(other, name, runs, MIB, like=plain)
    assert not torch.equal(before.inputs[0], after.inputs[0])
    again = capture(model.transformer, name, runs, MIB)
    assert torch.equal(again.inputs[0], plain.inputs[0])
    assert torch.equal(again.outputs[0], plain.outputs[0])
    assert not torch.equal(before.inputs[0], plain.inputs[0])


def test_t12_what_is_not_quantized_is_left_alone_and_both_ends_have_eight_bits(model, seen):
    held = {n: t.clone() for n, t in model.transformer.state_dict().items()}
    made = quantize(
        model, "taqdit", uniform_plan(model, parse_bits("w4a8")), LITTLE | {"iterations": 2}, seen
    )
    kept = [n for n in held if "norm1" in n or "proj_out" in n or "pos_embed" in n]
    stored = made.transformer.state_dict()
    assert kept
    assert all(torch.equal(stored[n], held[n]) for n in kept)
    assert all(torch.equal(t, held[n]) for n, t in model.transformer.state_dict().items())
    bits = {n: s.weight.bits for n, s in made.plan.sites.items()}
    ends = [f"transformer_blocks.0.attn1.to_{p}" for p in "qkv"] + ["transformer_blocks.1.ff.net.2"]
    assert {n for n, b in bits.items() if b == 8} == set(ends)
    assert all(
        f.static and not f.symmetric for s in made.plan.sites.values() for f in s.activations
    )
    assert set(made.attention) == {"transformer_blocks.0.attn1", "transformer_blocks.1.attn1"}


@pytest.mark.parametrize(
    "options", [{"mode": "migrate"}, {"mode": "shift"}, {"adaln": "w8", "iterations": 3}]
)
def test_what_is_saved_loads_in_plain_diffusers_bit_for_bit(
    model, seen, tmp_path, tiny_dit, options
):
    plan = uniform_plan(model, parse_bits("w4a8"))
    made = quantize(model, "taqdit", plan, LITTLE | {"outliers": 1.05} | options, seen)
    report = save_checkpoint(made, model, tmp_path / "c")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    assert torch.equal(output(loaded), output(made.transformer))
    ranged = [
        m for m in loaded.modules() if isinstance(getattr(m, "processor", None), RangedAttention)
    ]
    assert len(ranged) == 2
    second = loaded.get_submodule("transformer_blocks.0.ff.net.2")
    if options.get("mode") in ("migrate", "shift"):
        assert second.transform.migration == (options["mode"] == "migrate")
        assert second.transform.shift == (options["mode"] == "shift")
    if "adaln" in options:
        assert isinstance(loaded.get_submodule("transformer_blocks.1.norm1.linear"), QuantLinear)
    predicted = size_of(str(tiny_dit), "taqdit", parse_bits("w4a8"), options=options)
    assert report.total_bytes <= predicted.total_bytes <= report.total_bytes + 3 * 256 * 2 + 600


@pytest.mark.parametrize(("mode", "stop"), [("joint", 4), ("joint", 40), ("separate", 1 + 1 + 13)])
def test_a_stopped_one_goes_on_to_the_same_codes(model, seen, tmp_path, mode, stop):
    """Also between rounding and scales: the first step of the scales is not another one then."""
    plan = uniform_plan(model, parse_bits("w4a8"))
    options = LITTLE | {"iterations": 26, "samples": 2, "steps": 2, "mode": mode}

    def told(progress):
        if progress.step == stop:
            raise Cancelled("enough")

    whole = quantize(model, "taqdit", plan, options, seen)
    with pytest.raises(Cancelled):
        quantize(model, "taqdit", plan, options, seen, learning=Learning(tmp_path, on_step=told))
    again = quantize(model, "taqdit", plan, options, seen, learning=Learning(tmp_path))
    expected = whole.transformer.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in again.transformer.state_dict().items())
    assert again.attention == whole.attention
    log = read_log(tmp_path / "learning.jsonl")
    assert [x["step"] for x in log if "losses" in x] == list(range(log[0]["steps"]))
    assert {"hard_before", "hard_now", "soft", "undecided", "mode", "unit"} == set(
        log[-1]["measures"]["units"][0]
    )


def test_captures_lie_in_half_precision_off_the_device_within_their_bound(model, seen):
    """Thinned row by row, alike for both inputs and the outputs, and over all steps."""
    learner = learner_of(model, seen)
    learner.step(0)
    runs = learner.inputs.runs()
    for unit in learner.units:
        whole = capture(model.transformer, unit.name, runs, 64 * MIB)
        for bound in (MIB // 4, MIB // 16):
            plain = capture(model.transformer, unit.name, runs, bound)
            prefix = capture(learner.student, unit.name, runs, bound, like=plain)
            assert plain.size_bytes + prefix.size_bytes <= bound
            assert len(plain) == len(prefix) < len(whole)
            assert set(plain.steps.tolist()) == set(range(4))
            every = [*plain.inputs, *plain.outputs, *prefix.inputs]
            assert all(t.device.type == "cpu" and t.dtype == torch.float16 for t in every)
    with pytest.raises(BadInput, match="take cache_mib="):
        capture(model.transformer, learner.units[0].name, runs, 100)


@pytest.mark.parametrize("grain", ["unit", "layer"])
def test_no_unit_takes_more_than_cache_mib(model, seen, grain):
    """Counted over everything that a learning holds of rows while it is at a unit."""
    learner = learner_of(
        model,
        seen,
        "adaround",
        reconstruction=grain,
        iterations=1,
        cache_mib=1,
        samples=24,
        steps=4,
    )
    taken = []
    for k in range(learner.steps):
        learner.step(k)
        if learner.now is not None:
            held = [
                *learner.now.plain.inputs,
                *learner.now.plain.outputs,
                *learner.now.prefix.inputs,
            ]
            taken.append(sum(t.nbytes for t in held))
            assert len(learner.now.prefix) == len(learner.now.plain)
    free = [s.name for s in model.sites if s.kept_reason is None]
    tokens = input_shapes(model, learner.inputs.batches[0][0], model.sampler())
    shapes = group_shapes(model, free, model.sampler(), CalibrationOptions(), tokens)
    small = learner.options.model_copy(update={"samples": 2, "batch": 1})
    assert learning_memory(shapes, learner.options) > max(taken)
    assert learning_memory(shapes, small) < learning_memory(shapes, learner.options) - MIB // 2
    assert len(taken) == len(learner.units)
    assert max(taken) <= MIB
    assert max(taken) > MIB // 2, "so it had to be thinned somewhere"
    assert learner.now is None, "and nothing is left of it afterwards"


def edited(folder, tensor, change, *, listed=True):
    """One stored tensor changed; `listed`: as if it had been saved so."""
    file, tensors = folder / WEIGHTS, load_file(folder / WEIGHTS)
    tensors[tensor] = change(tensors[tensor])
    save_file(tensors, file, metadata={"format": "pt"})
    if listed:
        config = json.loads((folder / CONFIG).read_text())
        config["quantization_config"]["tensors"][tensor] = digest(tensors[tensor])
        (folder / CONFIG).write_text(json.dumps(config))


def ranged(folder, **changed):
    config = json.loads((folder / CONFIG).read_text())
    config["quantization_config"]["attention"]["transformer_blocks.0.attn1"]["q"] |= changed
    (folder / CONFIG).write_text(json.dumps(config))


SECOND = "transformer_blocks.0.ff.net.2"
DAMAGE = {
    "codes": (lambda f: edited(f, f"{SECOND}.codes", lambda t: t ^ 1, listed=False), "was changed"),
    "range": (lambda f: edited(f, f"{SECOND}.act_scale", lambda t: t * torch.nan), "holds NaN"),
    "shift": (lambda f: edited(f, f"{SECOND}.shift", lambda t: t + torch.inf), "holds NaN"),
    "factors": (lambda f: edited(f, f"{SECOND}.migration", lambda t: t * 0), "factor 0"),
    "few factors": (lambda f: edited(f, f"{SECOND}.migration", lambda t: t[:9]), "has shape"),
    "zero": (lambda f: ranged(f, zero=300), "zero"),
    "step": (lambda f: ranged(f, scale=float("inf")), "scale"),
    "no step": (lambda f: ranged(f, scale=float("nan")), "scale"),
}


@pytest.fixture(scope="module")
def stored(model, seen, tmp_path_factory):
    plan = uniform_plan(model, parse_bits("w4a8"))
    options = LITTLE | {"gate": False, "outliers": 1.05, "iterations": 1}
    folder = tmp_path_factory.mktemp("stored") / "c"
    save_checkpoint(quantize(model, "taqdit", plan, options, seen), model, folder)
    return folder


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_integers_and_ranges_are_one_clear_error(stored, tmp_path, damage):
    folder = shutil.copytree(stored, tmp_path / "c")
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(BadCheckpoint, match=message) as caught:
        DiTTransformer2DModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_units_are_attentions_and_mlps_or_single_layers(model):
    sites = [s.name for s in model.sites if s.kept_reason is None]
    assert [u.kind for u in units_of(model.transformer, sites)] == ["attention", "mlp"] * 2
    single = units_of(model.transformer, sites, "layer")
    assert [u.name for u in single] == sites
    assert {u.kind for u in single} == {"layer"}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_attends_together_is_learned_together(family):
    transformer = FAMILIES[family].model()
    sites = [s for s in adapter_for(transformer).sites(transformer) if s.kept_reason is None]
    unit = {name: u for u in units_of(transformer, [s.name for s in sites]) for name in u.sites}
    for site in sites:
        parent = site.name.rpartition(".")[0]
        if site.role.endswith("_q"):
            together = [s.name for s in sites if s.name.startswith(f"{parent}.")]
            assert unit[site.name].kind == "attention"
            assert set(together) <= set(unit[site.name].sites)


@pytest.mark.parametrize("grain", ["unit", "layer"])
def test_adaround_learns_units_and_layers(model, seen, grain):
    learner = run(learner_of(model, seen, "adaround", "w3a16", reconstruction=grain, iterations=60))
    gains = [u["hard_now"] / u["hard_before"] for u in learner.measures()["units"]]
    assert len(gains) == (4 if grain == "unit" else 12)
    assert sum(gains) / len(gains) < 0.95


@pytest.mark.parametrize("method", ["taqdit", "adaround"])
def test_what_these_methods_cannot_do_is_said(model, seen, method):
    with pytest.raises(BadInput, match="rounds to integers"):
        quantize(model, method, uniform_plan(model, parse_bits("fp8")), LITTLE, seen)


def test_rows_that_are_judged_are_not_learned_from(model, seen):
    now = run(learner_of(model, seen), last=2).now
    learned, judged = set(now.learned.tolist()), set(now.judged.tolist())
    assert learned
    assert judged
    assert not learned & judged
    assert learned | judged <= set(range(len(now.plain)))


def test_scales_learn_from_their_first_step_on(model, seen):
    """With mode=separate, after the rounding: a step whose graph was built without them would be lost."""
    options = {"iterations": 4, "mode": "separate", "gate": False}
    learner = run(learner_of(model, seen, **options), last=2 + 2)
    scales = [s.detach().clone() for s in learner.now.soft.scales]
    run(learner, first=4, last=5)
    assert all(bool(s != before) for s, before in zip(learner.now.soft.scales, scales, strict=True))


def test_long_lists_of_channels_are_told_once(model, seen):
    learner = run(learner_of(model, seen), last=2 + 2 * (LITTLE["iterations"] + 1))
    first, again = learner.measures()["post_gelu"], learner.measures()["post_gelu"]
    assert first
    for site, own in first.items():
        assert {n: v for n, v in own.items() if n not in ("ranges", "m")} == again[site]
        assert len(own["ranges"]) == len(own["m"])


def test_sixteen_bit_activations_are_so_inside_attentions_too(model, seen):
    learner = run(learner_of(model, seen, bits="w4a16", mode="plain"))
    assert not learner.attention()
    assert run(learner_of(model, seen, mode="plain")).attention()


def test_ranges_of_channels_are_told_with_the_outliers_among_them(model, seen):
    """Widest first, and none wider than all of them together."""
    learner = run(learner_of(model, seen, mode="migrate", outliers=1.05, gate=False))
    told = learner.measures()["post_gelu"]
    assert set(told) == {f"transformer_blocks.{b}.ff.net.2" for b in (0, 1)}
    for own in told.values():
        width = torch.tensor(own["ranges"])
        assert len(width) == len(own["m"])
        outlying = torch.zeros(len(width), dtype=torch.bool)
        outlying[own["outliers"]] = True
        assert outlying.any()
        assert width[outlying].min() >= width[~outlying].max()
        highest = max(v for v in own["high"] if v is not None)
        lowest = min(v for v in own["low"] if v is not None)
        assert float(width.max()) <= (highest - lowest) * 1.001


def test_average_bits_of_the_blocks_of_a_large_model():
    """4-bit weights, two of 8 bits, with and without the 16-bit adaLN that is a third of all."""
    report = size_of("dit-xl-2", "taqdit", parse_bits("w4a8"))
    plain = size_of("dit-xl-2", "rtn", parse_bits("w4a8"))
    assert 1.02 < report.parts["codes"] / plain.parts["codes"] < 1.022, (
        "two layers of 8 bits: 2.1 %"
    )
    assert 4.08 < report.code_bits < 4.09
    assert report.block_bits == pytest.approx((2 * report.code_bits + 16) / 3), "adaLN is a third"
    with_adaln = size_of("dit-xl-2", "taqdit", parse_bits("w4a8"), options={"adaln": "w8"})
    assert (
        with_adaln.block_bits
        == with_adaln.code_bits
        == pytest.approx((2 * report.code_bits + 8) / 3)
    )
