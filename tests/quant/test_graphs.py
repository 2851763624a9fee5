"""Quantized transformers as graphs: compiled whole, exported, a graph for each window of steps."""

from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from quant.checkpoint import save_checkpoint
from quant.fusing import said
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Format, SitePlan, parse_bits

from .test_layers import inputs, make

METHODS = [
    ("viditq", "w4a8", {"transform": "both", "alpha": 0.4}, "integer"),
    ("svdquant", "w4a4", {"alpha": 0.5}, "simulate"),
]


def latents(timestep: int = 5) -> dict[str, torch.Tensor]:
    """Arguments of one call, both guidance branches."""
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)).repeat(2, 1, 1, 1)
    return {
        "hidden_states": x,
        "timestep": torch.tensor([timestep] * 2),
        "class_labels": torch.tensor([1, 1000]),
    }


def tokens() -> dict[str, torch.Tensor]:
    """Arguments of one block."""
    x = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(4))
    return {**latents(), "hidden_states": x}


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).norm() / b.norm()) <= 1e-5


@pytest.fixture(autouse=True)
def graphs_of_other_tests_are_forgotten():
    torch._dynamo.reset()


@torch.no_grad()
def test_a_quantized_transformer_compiles_whole_and_exports(model):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a8"))).transformer
    call = latents()
    expected = made(**call).sample
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(made, (), call).module()
    for graph in (compiled, exported):
        assert close(graph(**call).sample, expected)


@pytest.mark.parametrize(
    ("method", "bits", "options", "backend"), METHODS, ids=[m for m, *_ in METHODS]
)
@torch.no_grad()
def test_a_block_compiles_whole_whatever_stands_before_its_codes(
    method, bits, options, backend, model, seen
):
    plan = uniform_plan(model, parse_bits(bits))
    made = quantize(model, method, plan, options, seen, backend=backend).transformer
    block = made.transformer_blocks[0]
    call = tokens()
    expected = block(**call)
    assert close(torch.compile(block, fullgraph=True, backend="aot_eager")(**call), expected)


@pytest.mark.parametrize("method", ["rtn", "viditq"])
@torch.no_grad()
def test_a_loaded_checkpoint_compiles_whole(method, model, seen, tmp_path):
    plan = uniform_plan(model, parse_bits("w4a8"))
    save_checkpoint(quantize(model, method, plan, seen=seen), model, tmp_path / "made")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "made").eval()
    expected = loaded(**latents()).sample
    compiled = torch.compile(loaded, fullgraph=True, backend="aot_eager")
    assert close(compiled(**latents()).sample, expected)


@torch.no_grad()
def test_a_fused_block_compiles_whole_and_exports(model):
    plan = uniform_plan(model, parse_bits("w4a8"))
    made = quantize(model, "rtn", plan, backend="integer").transformer
    assert said(made, 32).startswith("fused: 10 of 10 ")
    block, call = made.transformer_blocks[0], tokens()
    expected = block(**call)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(block, (), call).module()
    for graph in (compiled, exported):
        assert close(graph(**call), expected)


@torch.no_grad()
def test_a_block_of_8_bit_floats_compiles_whole(model, monkeypatch):
    """As a GPU is asked for it; on the CPU its operations are their definitions."""
    for where in ("fp8_linear.custom_op", "quantize_rows"):
        monkeypatch.setattr(f"kernels.{where}.float8_obstacle", lambda *_: None)
    plan = uniform_plan(model, parse_bits("fp8"))
    made = quantize(model, "rtn", plan, backend="triton").transformer
    block, call = made.transformer_blocks[0], tokens()
    expected = block(**call)
    assert close(torch.compile(block, fullgraph=True, backend="aot_eager")(**call), expected)
    assert close(torch.export.export(block, (), call).module()(**call), expected)


@torch.no_grad()
def test_a_fused_block_never_waits_for_a_number(model, monkeypatch):
    """Tensors without numbers stop at whatever asks for one: nothing does, so a GPU's step can be captured."""
    for op in ("quantize_rows", "adaln_quantize", "gelu_quantize", "int_linear.custom_op"):
        monkeypatch.setattr(f"kernels.{op}.triton_obstacle", lambda *_: None)
    plan = uniform_plan(model, parse_bits("w4a8"))
    made = quantize(model, "rtn", plan, backend="triton").transformer
    block, call = made.transformer_blocks[0], tokens()
    assert close(
        block(**call), quantize(model, "rtn", plan).transformer.transformer_blocks[0](**call)
    )
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = block(**{name: mode.from_tensor(t) for name, t in call.items()})
        assert y.shape == (2, 16, 64)
        with pytest.raises(DataDependentOutputException):
            bool(y.any())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@torch.no_grad()
def test_a_step_is_captured_in_a_cuda_graph(model):
    plan = uniform_plan(model, parse_bits("w4a8"))
    made = quantize(model, "rtn", plan, backend="triton").transformer.cuda()
    block = made.transformer_blocks[0]
    call = {name: t.cuda() for name, t in tokens().items()}
    for _ in range(3):
        expected = block(**call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = block(**call)
    graph.replay()
    assert close(got, expected)
    call["hidden_states"].mul_(2)
    graph.replay()
    assert close(got, block(**call))


def two_windows(model, sampler) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A transformer with 8 bits in the noisy half and 2 in the other, and one of its blocks."""
    plan = uniform_plan(model, parse_bits("w8a8"), sampler=sampler, windows=2)
    acts = (Format(bits=8), Format(bits=2))
    sites = {
        n: SitePlan(weight=s.weight, activations=acts) if s.quantized else s
        for n, s in plan.sites.items()
    }
    made = quantize(model, "rtn", plan.model_copy(update={"sites": sites})).transformer
    assert isinstance(made, DiTTransformer2DModel)
    return made, made.transformer_blocks[0]


@torch.no_grad()
def test_blocks_compiled_apart_are_one_graph_for_each_window_not_for_each_step(model, sampler):
    """The transformer announces its timestep outside the graphs."""
    made, block = two_windows(model, sampler)
    steps = (990, 800, 600, 400, 200, 10)
    expected = [made(**latents(t)).sample for t in steps]
    graphs = []

    def counted(graph, _):
        graphs.append(graph)
        return graph

    block.compile(fullgraph=True, backend=counted)
    assert all(close(made(**latents(t)).sample, e) for t, e in zip(steps, expected, strict=True))
    assert len(graphs) == 2


@torch.no_grad()
def test_a_layer_that_has_not_run_says_so_when_it_is_traced(model):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a8"))).transformer
    with pytest.raises(RuntimeError, match="call the transformer once"):
        torch.export.export(made, (), latents())


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler: g++")
@torch.no_grad()
def test_inductor_compiles_integer_products():
    layer, x = make(4, 8, rotate=True, backend="integer")[0], inputs(rows=5)
    network = torch.nn.Sequential(layer, torch.nn.GELU("tanh"))
    expected = network(x), network(2 * x)
    compiled = torch.compile(network, fullgraph=True)
    assert close(compiled(x), expected[0])
    assert close(compiled(2 * x), expected[1])
