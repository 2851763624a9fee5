"""Folding a channel scale into what makes an input: exact to rounding, and nothing is divided any more."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.torch import load_file

from quant import folding
from quant.adapters import adapter_for
from quant.checkpoint import WEIGHTS, save_checkpoint
from quant.conformance.trial import ONE
from quant.folding import fold_scales
from quant.layer_making import layer_of_codes
from quant.layers import QuantLinear
from quant.models import Model, ModelCard
from quant.outliers import inject
from quant.plans import uniform_formats, uniform_plan
from quant.quantization import quantize
from quant.rescaling import Rows
from quant.rounding import round_to_nearest
from quant.schema import Outliers, Plan, parse_bits
from quant.sizes import predict_size, size_of
from quant.storage import stored_tensors
from quant.swapping import shallow_copy, swap
from quant.transforms import to_weight

from .families import FAMILIES, output

BOTH = {"transform": "both", "alpha": 0.4}


def tiny(family: str, blocks: int) -> Model:
    """A family's random transformer, cut to some blocks, without a pipeline."""
    transformer = FAMILIES[family].model()
    transformer.transformer_blocks = transformer.transformer_blocks[:blocks]
    adapter = adapter_for(transformer)
    return Model(
        ref="tiny",
        path=None,  # type: ignore[arg-type]
        from_hub=False,
        pipe=SimpleNamespace(transformer=transformer),
        adapter=adapter,
        card=ModelCard(key="tiny", title="Tiny", family=family, task="", guidance=1, steps=4),
        sites=adapter.sites(transformer),
        source_dtype=torch.float32,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def scaled(model: Model) -> tuple[torch.nn.Module, Plan]:
    """8-bit weights under a random scale for every input; activations are not rounded."""
    formats = uniform_formats(model.sites, parse_bits("w8a16"), windows=1)
    plan = Plan(model=model.fingerprint, windows=ONE, sites=formats)
    transformer = shallow_copy(model.transformer)
    scales: dict[str, torch.Tensor] = {}
    for site in model.sites:
        if site.name in formats:
            linear = model.transformer.get_submodule(site.name)
            generator = torch.Generator().manual_seed(site.in_features)
            drawn = torch.randn(site.in_features, generator=generator).exp().half().float()
            scale = scales.setdefault(site.input_of, drawn)
            fmt = formats[site.name].weight
            assert fmt is not None
            layer = layer_of_codes(
                round_to_nearest(to_weight(linear.weight.detach(), scale, None), fmt),  # type: ignore[arg-type]
                linear.bias,  # type: ignore[arg-type]
                plan=formats[site.name],
                windows=ONE,
                channel_scale=scale,
                signs=None,
                dtype=torch.float32,
            )
            swap(transformer, site.name, layer)
    return transformer, plan


def changed_by_folding(family: str, blocks: int, fold: str) -> tuple[float, set[str]]:
    """Relative difference of one forward, and the ends of the names of the sites that were folded."""
    model = tiny(family, blocks)
    inputs = FAMILIES[family].inputs(torch.float32, 400.0)
    transformer, plan = scaled(model)
    before = output(transformer, inputs)
    notes = fold_scales(transformer, model, plan, fold)  # type: ignore[arg-type]
    after = output(transformer, inputs)
    assert set(notes) == set(plan.sites)
    for name, note in notes.items():
        layer = transformer.get_submodule(name)
        assert isinstance(layer, QuantLinear)
        assert layer.transform.scale == hasattr(layer, "channel_scale") == ("online" in note)
        assert (layer.basis()[0] is None) == ("folded_into" in note), "nothing is divided any more"
    folded = {name.partition("blocks.")[2][2:] for name in notes if "folded_into" in notes[name]}
    return float((after - before).norm() / before.norm()), folded


QKV = {"attn1.to_q", "attn1.to_k", "attn1.to_v"}
WHERE = [
    ("dit", 2, "values", {"attn1.to_out.0"}),
    ("dit", 2, "all", {*QKV, "attn1.to_out.0", "ff.net.0.proj"}),
    ("pixart", 2, "values", {"attn1.to_out.0", "attn2.to_out.0"}),
    ("pixart", 2, "all", {"attn1.to_out.0", "attn2.to_out.0"}),  # adaLN is of both blocks
    ("pixart", 1, "all", {*QKV, "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj"}),
]


@pytest.mark.parametrize(("family", "blocks", "fold", "where"), WHERE)
def test_folding_changes_nothing_and_takes_every_place_there_is(family, blocks, fold, where):
    difference, folded = changed_by_folding(family, blocks, fold)
    assert difference <= 2e-6
    assert folded == where


@pytest.mark.parametrize("family", ["sd3", "sd3.5", "flux", "latte"])
def test_folding_is_exact_in_every_family(family):
    difference, folded = changed_by_folding(family, 2, "all")
    assert difference <= 2e-6
    assert folded
    assert not any(name.endswith(("net.2", "to_add_out")) for name in folded), "these cannot"


def without_the_offset(monkeypatch):
    """(1 + scale) / s written as 1 + scale / s."""
    multiply = Rows.multiply
    monkeypatch.setattr(
        Rows,
        "multiply",
        lambda self, name, index, factor, offset=0.0: multiply(self, name, index, factor),
    )


def without_dividing(monkeypatch):
    """Scales taken away from the layers, and put nowhere."""
    monkeypatch.setattr(folding, "_divide", lambda *_: None)


def without_the_bias(monkeypatch):
    """Rows of values divided, their bias left as it is."""

    def divide(self, divisor):
        self.scale = self.scale / divisor[:, None]

    monkeypatch.setattr(QuantLinear, "divide_outputs", divide)


@pytest.mark.parametrize("broken", [without_the_offset, without_dividing, without_the_bias])
def test_the_check_of_exactness_can_fail(broken, monkeypatch):
    broken(monkeypatch)
    assert changed_by_folding("dit", 2, "all")[0] > 1e-3


@pytest.mark.parametrize(("fold", "bits"), [("values", "w4a8"), ("all", "w4a8"), ("all", "fp8")])
def test_what_was_folded_is_saved_loads_to_the_bit_and_its_size_was_known(
    fold, bits, model, seen, tmp_path
):
    options = {**BOTH, "fold": fold}
    made = quantize(model, "viditq", uniform_plan(model, parse_bits(bits)), options, seen)
    assert any("folded_into" in note for note in made.notes.values())
    report = save_checkpoint(made, model, tmp_path / "c")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    arguments = {"timestep": torch.tensor([300, 300]), "class_labels": torch.tensor([0, 1000])}
    with torch.no_grad():
        expected = made.transformer(x, **arguments).sample
        assert torch.equal(loaded(x, **arguments).sample, expected)
    assert report.total_bytes == (tmp_path / "c" / WEIGHTS).stat().st_size
    assert report == size_of(str(model.path), "viditq", parse_bits(bits), options=options)
    layers = {
        n: m.transform for n, m in made.transformer.named_modules() if isinstance(m, QuantLinear)
    }
    shared = set(stored_tensors(model.transformer, model.source_dtype).shared)
    predicted = predict_size(
        model.transformer,
        model.sites,
        made.plan.sites,
        layers,
        dtype=model.source_dtype,
        shared=shared,
    )
    assert predicted == report


def test_values_that_hold_a_scale_are_saved_again_as_they_were(model, seen, tmp_path):
    options = {**BOTH, "fold": "values"}
    made = quantize(model, "viditq", uniform_plan(model, parse_bits("w4a8")), options, seen)
    save_checkpoint(made, model, tmp_path / "c")
    half = DiTTransformer2DModel.from_pretrained(tmp_path / "c", torch_dtype=torch.float16)
    half.save_pretrained(tmp_path / "again")
    first, second = (load_file(tmp_path / name / WEIGHTS) for name in ("c", "again"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_folding_costs_no_more_than_biases(model):
    """adaLN stays in 16 bit: its biases in float32 outweigh the scales that are gone by little."""
    sizes = {
        fold: size_of(
            str(model.path), "viditq", parse_bits("w4a8"), options={**BOTH, "fold": fold}
        ).total_bytes
        for fold in ("none", "values", "all")
    }
    assert sizes["values"] <= sizes["none"]
    assert sizes["all"] - sizes["none"] < 2 * 6 * 64 * 2, "two blocks, six chunks of 64 biases"


def test_the_model_itself_stays_as_it_is(model, seen):
    before = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    plan = uniform_plan(model, parse_bits("w4a8"))
    quantize(model, "viditq", plan, {**BOTH, "fold": "all"}, seen)
    for name, value in model.transformer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_what_stands_in_the_way_is_said(model, seen):
    plan = uniform_plan(model, parse_bits("w4a8"))
    options = {**BOTH, "fold": "all"}
    notes = quantize(model, "viditq", plan, options, seen).notes
    fc2 = notes["transformer_blocks.0.ff.net.2"]
    assert fc2["online"] == "nothing linear makes its channels one by one"
    half = quantize(replace(model, dtype=torch.float16), "viditq", plan, options, seen).notes
    assert half["transformer_blocks.0.attn1.to_q"]["online"] == "float16 might overflow"
    some = {n: p for n, p in plan.sites.items() if not n.endswith("to_v")}
    partly = quantize(model, "viditq", plan.model_copy(update={"sites": some}), options, seen).notes
    assert "reads the same input" in partly["transformer_blocks.0.attn1.to_q"]["online"]
    assert "folded_into" in partly["transformer_blocks.0.attn1.to_out.0"]
    drifting = inject(model, Outliers(kind="drifting", factor=4.0))
    plan = uniform_plan(drifting, parse_bits("w4a8"))
    outliers = quantize(drifting, "viditq", plan, options, seen).notes
    assert "outliers" in outliers["transformer_blocks.0.attn1.to_q"]["online"]
    per_range = {"transform": "scale", "alpha": 0.1, "balance": "timestep_aware", "fold": "all"}
    notes = quantize(
        model, "viditq", uniform_plan(model, parse_bits("w4a8")), per_range, seen
    ).notes
    assert "every window" in notes["transformer_blocks.0.attn1.to_q"]["online"]
