"""Models under `auto` where a GPU was measured: blocks fuse, weights are held once, or all is simulated."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch

import kernels
from kernels import measured, tables
from kernels.dispatch import Choice
from quant.backend_report import backend_report
from quant.fusing import said
from quant.held_codes import is_released
from quant.layers import QuantLinear
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits

from .families import output
from .test_fusing import EVERYTHING, latents


@pytest.fixture
def gpu_here(monkeypatch):
    """Operations of a GPU are taken on the CPU, where they are their definitions."""
    own = ("int_linear.custom_op", "int_attention.custom_op")
    for op in ("quantize_rows", "adaln_quantize", "gelu_quantize", *own):
        monkeypatch.setattr(f"kernels.{op}.triton_obstacle", lambda *_: None)
    for op in ("quantize_rows", "fp8_linear.custom_op"):
        monkeypatch.setattr(f"kernels.{op}.float8_obstacle", lambda *_: None)
    monkeypatch.setattr(measured, "version", lambda device: "triton")
    monkeypatch.setattr(measured, "architecture", lambda index: "sm_90")


@pytest.mark.parametrize(
    ("taken", "fused"), [("simulate", "simulation is the definition (10)"), ("triton", EVERYTHING)]
)
def test_blocks_fuse_where_the_triton_version_was_measured_faster(
    gpu_here, taken, fused, model, monkeypatch
):
    choice = Choice(taken, f"{taken}: measured")
    monkeypatch.setattr(kernels.int_linear.tuned, "choice", lambda *_: choice)
    plan = uniform_plan(model, parse_bits("w4a8"))
    here, there = (
        quantize(model, "rtn", plan, backend=b).transformer for b in ("simulate", "auto")
    )
    got, expected = output(there, latents()), output(here, latents())
    assert float((got - expected).norm() / expected.norm()) <= 1e-3
    assert fused in said(there, 32)
    layers = [m for m in there.modules() if isinstance(m, QuantLinear) and m.multiplies_codes(0)]
    assert layers
    for layer in layers:
        assert layer.why(32) == choice
        assert any(map(is_released, layer.buffers())) == (taken == "triton")


UNKNOWN = "simulate: the Triton version was not measured on this GPU: dqviz bench --tune"
OPS = {"w4a16": "int_linear", "fp8": "fp8_linear"}


def rows_of(transformer, bits):
    """Of a table that knows every site with stored codes, for 32 rows."""
    about = {"weight_bits": 4, "act_bits": None, "group": None, "corrected": True}
    layers = [m for m in transformer.modules() if isinstance(m, QuantLinear)]
    return [
        {"m": 32, "k": x.in_features, "n": x.out_features, "ratio": 2.0}
        | (about if bits == "w4a16" else {})
        for x in layers
    ]


def halved(transformer):
    """A copy in bfloat16, whose tensors are its own."""
    return deepcopy(transformer).bfloat16()


def off(got, expected):
    return float((got.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("bits", OPS)
def test_weights_alone_and_8_bit_floats_multiply_where_a_table_says_so(
    gpu_here, bits, model, monkeypatch, tmp_path
):
    """In the dtype that was measured, by the layers of a whole model; compiled too."""
    plan = uniform_plan(model, parse_bits(bits), weight_symmetric=False)
    call = {n: x.bfloat16() if x.is_floating_point() else x for n, x in latents().items()}

    def made(backend):
        return halved(quantize(model, "rtn", plan, backend=backend).transformer)

    monkeypatch.setattr(tables, "folders", lambda: (tmp_path / "none",))
    auto, simulated = made("auto"), made("simulate")
    expected = output(simulated, call)
    assert torch.equal(output(auto, call), expected)
    assert UNKNOWN in backend_report(auto, 32).why
    path = tables.file(tmp_path / "some", "sm_90", OPS[bits])
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"rows": rows_of(auto, bits)}), encoding="utf-8")
    monkeypatch.setattr(tables, "folders", lambda: (tmp_path / "some",))
    got, asked = output(auto, call), output(made("triton"), call)
    assert torch.equal(got, asked), "what the backend gives that is asked for"
    assert off(got, expected) <= 2e-2
    report = backend_report(auto, 32)
    assert report.backend == "triton"
    assert report.evidence == "measured"
    assert "triton: triton measured 2.00x at m=32" in report.why
    compiled = torch.compile(auto, fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()
    assert off(output(compiled, call), got) <= 2e-2


def test_float32_stays_simulated_with_its_reason(gpu_here, model, monkeypatch, tmp_path):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a16")), backend="auto")
    output(made.transformer, latents())
    said_of = backend_report(made.transformer, 32)
    assert said_of.backend == "simulate"
    assert "float32 rows were not measured, those of 16 bit are" in said_of.why


def test_attention_is_the_gpus_where_its_table_says_so(gpu_here, model, monkeypatch, tmp_path):
    plan = uniform_plan(model, parse_bits("w4a8"), attention="int8")
    call = {n: x.bfloat16() if x.is_floating_point() else x for n, x in latents().items()}
    auto = halved(quantize(model, "rtn", plan, backend="auto").transformer)
    monkeypatch.setattr(tables, "folders", lambda: (tmp_path / "none",))
    output(auto, call)
    assert f"int8 attention: {UNKNOWN}" in backend_report(auto, 32).why
    module = auto.get_submodule(model.adapter.spatial_attentions(auto)[0])
    shape = {"samples": 2, "heads": module.heads, "queries": 16, "keys": 16}
    row = {**shape, "channels": module.inner_dim // module.heads, "ratio": 2.0}
    path = tables.file(tmp_path / "some", "sm_90", "int_attention")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"rows": [row]}), encoding="utf-8")
    monkeypatch.setattr(tables, "folders", lambda: (tmp_path / "some",))
    output(auto, call)
    assert module.processor.taken == "triton"
    said_of = backend_report(auto, 32)
    assert "int8 attention: triton: triton measured 2.00x at samples=2" in said_of.why
    assert said_of.backend == "mixed", "products have no table"
