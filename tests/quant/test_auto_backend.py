"""Models under `auto` where a GPU was measured: blocks fuse, weights are held once, or all is simulated."""

from __future__ import annotations

import pytest

import kernels
from kernels.dispatch import Choice
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
    for op in ("quantize_rows", "adaln_quantize", "gelu_quantize", "int_linear.custom_op"):
        monkeypatch.setattr(f"kernels.{op}.triton_obstacle", lambda *_: None)
    monkeypatch.setattr(kernels.int_linear.tuned, "path", lambda device: "triton")


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
