"""T10 of the specification, in memory: what is said to be held is what a running transformer holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DiTTransformer2DModel

from quant.cards import methods
from quant.checkpoint import save_checkpoint
from quant.layers import QuantLinear
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.residency import Resident, counted, hold, predicted
from quant.schema import parse_bits
from quant.site_tensors import Transform
from quant.sizes import open_target, size_of, stored_forms
from quant.step import at

FIXED = {"alpha": 0.3}
WAYS = [
    ("trdq", {**FIXED, "tier": "A"}),
    ("trdq", {**FIXED, "tier": "B"}),
    ("trdq", {**FIXED, "tier": "C"}),
    ("trdq", {**FIXED, "tier": "C", "windows": (1,)}),
    ("viditq", {"transform": "both", "alpha": 0.4}),
    ("rtn", {}),
    ("svdquant", {"alpha": 0.5}),
    ("static-step", {}),
    ("kmeans-vq", {"iterations": 1, "codebook": "int8"}),
]


@pytest.fixture(scope="module")
def target(model):
    return open_target(str(model.path))


def said(target, method, options, bits="w4a8"):
    """Of the shapes alone."""
    size = size_of(target, method, parse_bits(bits), options=options)
    forms = stored_forms(target, method, parse_bits(bits), None, options)
    return predicted(size, target.sites, *forms)


def run_every_window(transformer, timesteps):
    """One call at every step; returns what is held after each."""
    x = torch.randn(2, 4, 8, 8).to(next(transformer.parameters()).dtype)
    held = []
    for t in timesteps:
        labels = torch.tensor([0, 1000])
        with torch.no_grad():
            transformer(x, timestep=torch.tensor([t, t]), class_labels=labels)
        held.append(counted(transformer))
    return held


@pytest.mark.parametrize(("method", "options"), WAYS, ids=lambda v: v if isinstance(v, str) else "")
def test_t10_what_is_said_to_be_held_is_held(method, options, model, seen, target, tmp_path):
    plan = uniform_plan(model, parse_bits("w4a8"), also=methods()[method].also)
    made = quantize(model, method, plan, options, seen)
    size = save_checkpoint(made, model, tmp_path / "c")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c", dtype=torch.float16).eval()
    layers = [m for m in loaded.modules() if isinstance(m, QuantLinear)]
    for layer in layers:
        layer.backend = "simulate"
    expected = said(target, method, options)
    assert expected.stored_bytes == size.total_bytes - size.parts["header"]
    assert counted(loaded) == Resident(expected.stored_bytes, 0), "nothing is expanded before use"
    held = run_every_window(loaded, seen.timesteps)
    assert held == [expected] * len(seen.timesteps), "one window at a time"
    layers[0]._prepared["kept by mistake"] = torch.empty(10)
    assert counted(loaded) != expected


@pytest.mark.parametrize(("method", "options"), WAYS, ids=lambda v: v if isinstance(v, str) else "")
def test_in_mode_memory_no_weight_is_held_expanded(method, options, model, seen):
    made = quantize(model, method, uniform_plan(model, parse_bits("w4a8")), options, seen)
    layers = [m for m in made.transformer.modules() if isinstance(m, QuantLinear)]
    for layer in layers:
        layer.backend = "simulate"
    drawn = {}
    for mode in ("speed", "memory", "speed"):
        hold(made.transformer, mode)
        held = run_every_window(made.transformer, seen.timesteps)[-1]
        x = torch.randn(3, layers[0].in_features, generator=torch.Generator().manual_seed(0))
        with at(float(seen.timesteps[0])):
            drawn[mode] = layers[0](x)
        weights = sum(4 * m.in_features * m.out_features for m in layers if m.plan.weight)
        assert (held.expanded_bytes >= weights) == (mode == "speed")
    assert torch.equal(drawn["speed"], drawn["memory"]), "the numbers are the same"
    assert held.expanded_bytes >= weights, "and it can be gone back"


def test_integer_products_are_counted_in_the_layout_that_they_are_held_in(model):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a8")), backend="integer")
    layers = [m for m in made.transformer.modules() if isinstance(m, QuantLinear)]
    if layers[0].why(4)[0] != "integer":
        pytest.skip("no integer products here")
    before = counted(made.transformer).expanded_bytes
    for layer in layers:
        layer(torch.randn(4, layer.in_features))
    weights = sum(m.in_features * m.out_features for m in layers)
    made_ready = counted(made.transformer).expanded_bytes - before
    assert weights <= made_ready < 1.5 * weights, "a byte each, with sums of rows"


def test_a_report_that_forgets_the_basis_is_caught(model, seen, target):
    options = {**FIXED, "tier": "C"}
    size = size_of(target, "trdq", parse_bits("w4a8"), options=options)
    formats, transforms = stored_forms(target, "trdq", parse_bits("w4a8"), None, options)
    forgetful = {name: replace(t, scale=False, block=0) for name, t in transforms.items()}
    whole = predicted(size, target.sites, formats, transforms)
    assert predicted(size, target.sites, formats, forgetful).expanded_bytes < (whole.expanded_bytes)
    assert isinstance(next(iter(transforms.values())), Transform)


def test_tiers_hold_what_they_are_for(target):
    """A holds the 16-bit weight, B one set of codes, C one for each window."""
    a, b, c = (said(target, "trdq", {**FIXED, "tier": tier}) for tier in "ABC")
    assert b.stored_bytes < c.stored_bytes
    assert b.stored_bytes < a.stored_bytes
    assert a.expanded_bytes > b.expanded_bytes == c.expanded_bytes, "A makes its codes, too"
    assert said(target, "rtn", {}).expanded_bytes < b.expanded_bytes
