"""Attention with int8 scores in models: attached, shared, fused, saved and loaded; and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import nn

from kernels.int_attention import custom_op, int_attention
from quant.adapters import adapter_for
from quant.attention_heads import split_heads
from quant.backend_report import backend_report
from quant.checkpoint import check_checkpoint, save_checkpoint
from quant.errors import BadInput
from quant.fusing import said
from quant.generation import generate
from quant.int_attention import IntAttention, attach, choices, run_on
from quant.loading import load_model
from quant.plans import uniform_plan
from quant.quantization import check_options, quantize
from quant.schema import Plan, parse_bits
from quant.sharing import SharedAttention, detach, shared_map
from quant.sharing import attach as attach_sharing
from quant.sharing_choice import EVERY_STEP, Sharing
from quant.swapping import shallow_copy

from .families import FAMILIES, output
from .test_fusing import assert_same, latents

ORDINARY = (
    "dit",
    "pixart",
    "latte",
)  # families whose spatial self-attention is diffusers' plain one
W8A8 = parse_bits("w8a8")
FIRST = "transformer_blocks.0.attn1"


def processors(transformer: nn.Module) -> dict[str, type]:
    """Of every attention."""
    found = transformer.named_modules()
    return {name: type(m.processor) for name, m in found if hasattr(m, "processor")}


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("family", ORDINARY)
def test_spatial_self_attention_rounds_and_no_other(family):
    transformer = FAMILIES[family].model()
    call = FAMILIES[family].inputs(torch.float32, 500.0)
    exact, before, adapter = output(transformer, call), processors(transformer), adapter_for(transformer)  # fmt: skip
    attach(transformer, adapter, None)
    assert processors(transformer) == before
    attach(transformer, adapter, "int8")
    changed = {name for name, kind in processors(transformer).items() if kind is not before[name]}
    assert changed == set(adapter.spatial_attentions(transformer))
    assert 0 < relative(output(transformer, call), exact) < 0.05


def test_it_is_the_operation_on_the_layers_own_rows(model):
    changed = shallow_copy(model.transformer)
    attach(changed, model.adapter, "int8")
    attn: Any = changed.get_submodule(FIRST)
    x = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        q, k, v = (split_heads(attn, linear(x)) for linear in (attn.to_q, attn.to_k, attn.to_v))
        expected = attn.to_out[0](int_attention(q, k, v).transpose(1, 2).flatten(2))
        assert torch.equal(attn(x), expected)


def test_a_shared_map_is_an_int8_map_of_the_conditional_half(model):
    attn: Any = model.transformer.get_submodule(FIRST)
    x = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        q, k, v = (split_heads(attn, linear(x)) for linear in (attn.to_q, attn.to_k, attn.to_v))
        expected = int_attention(q[1:].repeat(2, 1, 1, 1), k[1:].repeat(2, 1, 1, 1), v)
        expected = attn.to_out[0](expected.transpose(1, 2).flatten(2))
        got = shared_map(attn, x, 1, IntAttention().attend)
    assert relative(got, expected) < 1e-6


@pytest.mark.parametrize("mode", ["map", "output"])
def test_with_sharing_both_are_saved_and_load_in_plain_diffusers_bit_for_bit(
    model, seen, tmp_path, mode
):
    made = quantize(
        model, "trdq", uniform_plan(model, W8A8, attention="int8"),
        {"alpha": 0.3, "sharing": mode, "sharing_set": "released"}, seen,
    )  # fmt: skip
    save_checkpoint(made, model, tmp_path / "c")
    assert check_checkpoint(tmp_path / "c").plan.attention == "int8"
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    for transformer in (made.transformer, loaded):
        kinds = processors(transformer)
        assert set(kinds.values()) <= {SharedAttention, IntAttention}
        assert SharedAttention in kinds.values()
    got = output(loaded, latents())
    assert torch.equal(got, output(made.transformer, latents()))
    detach(loaded)
    assert set(processors(loaded).values()) == {IntAttention}
    assert not torch.equal(output(loaded, latents()), got)


def test_sharing_can_be_attached_later(model):
    changed = shallow_copy(model.transformer)
    attach(changed, model.adapter, "int8")
    alone = output(changed, latents())
    names = model.adapter.spatial_attentions(changed)
    attach_sharing(changed, model.adapter, Sharing(mode="map", attentions=dict.fromkeys(names, EVERY_STEP)))  # fmt: skip
    assert relative(output(changed, latents()), alone) > 1e-6
    detach(changed)
    assert torch.equal(output(changed, latents()), alone)


def test_alone_it_is_saved_and_loads_in_plain_diffusers_bit_for_bit(model, tmp_path):
    made = quantize(model, "rtn", uniform_plan(model, W8A8, attention="int8"))
    without = quantize(model, "rtn", uniform_plan(model, W8A8))
    save_checkpoint(made, model, tmp_path / "c")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    assert torch.equal(output(loaded, latents()), output(made.transformer, latents()))
    assert not torch.equal(output(loaded, latents()), output(without.transformer, latents()))
    assert set(processors(model.transformer).values()).isdisjoint({IntAttention})


def test_blocks_fuse_around_it(model):
    made = quantize(model, "rtn", uniform_plan(model, W8A8, attention="int8"), backend="integer")
    assert said(made.transformer, 32).startswith("fused: 10 of 10 operations")
    assert assert_same(made.transformer, latents()).fused


def test_it_is_said_to_be_simulated(model):
    made = quantize(model, "rtn", uniform_plan(model, W8A8, attention="int8"), backend="integer")
    report = backend_report(made.transformer, 32)
    assert (report.backend, report.evidence) == ("mixed", "simulated")
    assert "int8 attention: simulate: no integer version" in report.why


def test_a_plan_that_keeps_the_layers_of_attention_is_told_of_too(model):
    plan = uniform_plan(model, W8A8, attention="int8")
    plan = plan.model_copy(update={"sites": {n: s for n, s in plan.sites.items() if ".ff." in n}})
    made = quantize(model, "rtn", plan).transformer
    assert set(processors(made).values()) == {IntAttention}
    assert "int8 attention: simulate" in backend_report(made, 32).why


@torch.no_grad()
@pytest.mark.parametrize("backend", ["simulate", "triton"])
def test_it_compiles_whole_and_exports_after_an_eager_call(model, monkeypatch, backend):
    """The custom op runs its definition on the CPU, where the version that launches kernels is refused otherwise."""
    monkeypatch.setattr(custom_op, "obstacle", lambda q: None)
    made = shallow_copy(model.transformer).eval()
    attach(made, model.adapter, "int8", backend)
    call = latents()
    expected = made(**call).sample
    attn: Any = made.get_submodule(FIRST)
    assert attn.processor.taken == backend
    torch._dynamo.reset()
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(made, (), call).module()
    calls = [node for node in exported.graph.nodes if "dqviz.int_attention" in str(node.target)]
    assert len(calls) == (2 if backend == "triton" else 0)
    for graph in (compiled, exported):
        assert relative(graph(**call).sample, expected) <= 1e-5


def test_a_plan_without_it_is_written_as_before(model):
    plan = uniform_plan(model, W8A8)
    assert "attention" not in plan.to_json()
    with_it = uniform_plan(model, W8A8, attention="int8")
    assert with_it.fingerprint != plan.fingerprint
    assert Plan.parse(with_it.to_json(), "plan") == with_it


def test_what_it_does_not_go_with_is_refused(model, seen):
    plan = uniform_plan(model, W8A8, attention="int8")
    with pytest.raises(BadInput, match=r"static integers inside attentions.*--option inside=false"):
        check_options(model, "taqdit", plan, {}, seen.timesteps)
    check_options(model, "taqdit", plan, {"inside": False}, seen.timesteps)
    with pytest.raises(BadInput, match="expected 'int8'"):
        Plan.parse({**plan.to_json(), "attention": "int4"}, "plan")
    for family, reason in (
        ("sd3", "SD3Transformer2DModel has no self-attention over picture tokens alone"),
        (
            "wan",
            "attention blocks.0.attn1 cannot take int8 scores: it is no attention of diffusers' own",
        ),
        ("sana", "it has the processor SanaLinearAttnProcessor2_0"),
    ):
        transformer = FAMILIES[family].model()
        with pytest.raises(BadInput, match=f"{reason}; leave attention int8 away"):
            attach(transformer, adapter_for(transformer), "int8")
    attn: Any = shallow_copy(model.transformer).get_submodule(FIRST)
    attn.set_processor(IntAttention())
    with pytest.raises(BadInput, match="called with a mask"):
        attn(torch.ones(1, 4, 64), attention_mask=torch.zeros(1, 1, 4))


@pytest.mark.parametrize("shared", [False, True])
def test_a_processor_that_replaces_it_is_bad_input(model, shared):
    """Sliced attention did, and nobody was told that the scores were no integers any more."""
    made = quantize(model, "rtn", uniform_plan(model, W8A8, attention="int8")).transformer
    if shared:
        names = model.adapter.spatial_attentions(made)
        attach_sharing(made, model.adapter, Sharing(mode="map", attentions=dict.fromkeys(names, EVERY_STEP)))  # fmt: skip
    for transformer in (made, shallow_copy(made)):
        output(transformer, latents())
        attn: Any = transformer.get_submodule(FIRST)
        attn.set_attention_slice(1)
        told = f"{FIRST} has the processor SlicedAttnProcessor: attention int8 does not go with"
        with pytest.raises(BadInput, match=told):
            output(transformer, latents())
        with pytest.raises(BadInput, match=told):
            backend_report(transformer, 32)
        attn.set_processor(IntAttention())
        if not shared:
            output(transformer, latents())


def test_it_costs_less_than_rounding_the_layers_does():
    """On a trained model: what pictures lose by int8 scores alone, and by W8A8 layers alone."""
    model = load_model("dit-emoji", device="cpu")
    sampler, samples = model.sampler(steps=4), model.samples(range(2))
    exact = generate(model, samples, sampler)
    scores = shallow_copy(model.transformer)
    attach(scores, model.adapter, "int8")
    layers = quantize(model, "rtn", uniform_plan(model, W8A8)).transformer
    drawn = [generate(model, samples, sampler, transformer=t) for t in (scores, layers)]
    lost = [relative(d.latents, exact.latents) for d in drawn]
    assert 0 < lost[0] < lost[1]


def test_a_loaded_checkpoint_computes_it_on_the_backend_asked_for(model, tmp_path, monkeypatch):
    monkeypatch.setattr("kernels.int_attention.custom_op.triton_obstacle", lambda *_: None)
    made = quantize(model, "rtn", uniform_plan(model, W8A8, attention="int8"))
    save_checkpoint(made, model, tmp_path / "c")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    names = dict.fromkeys(model.adapter.spatial_attentions(made.transformer), EVERY_STEP)
    attach_sharing(made.transformer, model.adapter, Sharing(mode="map", attentions=names))
    for transformer in (loaded, made.transformer):
        run_on(transformer, "triton")
        chosen = [choice.backend for choice in choices(transformer)]
        assert set(chosen) == {"triton"}
        assert len(chosen) == len(model.adapter.spatial_attentions(transformer))
