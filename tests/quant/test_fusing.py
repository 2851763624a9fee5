"""Fused blocks: the same integers enter every product, the same numbers leave; what is not fused says why."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import nn

import kernels
from quant.adapters import adapter_for
from quant.backend_report import backend_report
from quant.checkpoint import save_checkpoint
from quant.conformance.trial import ONE
from quant.fusing import FusedForward, Link, Links, attach, fused_of, said
from quant.layer_making import layer_of_codes
from quant.layers import QuantLinear
from quant.plans import uniform_formats, uniform_plan
from quant.quantization import quantize
from quant.rounding import Ranges, round_to_nearest
from quant.schema import Format, SitePlan, parse_bits
from quant.shared_inputs import share_bases, share_codes
from quant.sharing import attach as attach_sharing
from quant.sharing_choice import EVERY_STEP, Sharing
from quant.swapping import shallow_copy, swap

from .families import FAMILIES, output

NOTHING = Links(Link(None), None, Link(None))
EVERYTHING = (
    "fused: 10 of 10 operations between layers"  # two blocks: 2 entries, 2 gates, 1 GELU each
)
METHODS = {
    "rtn": ({}, 10, ""),
    "smoothquant": ({"alpha": 0.5}, 10, ""),
    "viditq": ({"transform": "both", "alpha": 0.4}, 10, ""),
    "viditq folded": ({"transform": "both", "alpha": 0.4, "fold": "all"}, 10, ""),
    "trdq": ({"alpha": 0.3}, 4, "block rotations have no operation with LayerNorm"),
    "static-step": ({}, 6, "static ranges stand before an operation that finds its own"),
    "svdquant": ({"alpha": 0.5}, 4, "a branch in 16 bit reads rows"),
}


def latents(timestep: int = 5) -> dict[str, torch.Tensor]:
    """Arguments of one call of the tiny DiT, both guidance branches."""
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)).repeat(2, 1, 1, 1)
    return {
        "hidden_states": x,
        "timestep": torch.tensor([timestep] * 2),
        "class_labels": torch.tensor([1, 1000]),
    }


@contextmanager
def unfused():
    """Blocks run as diffusers has them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FusedForward, "links", lambda *_: NOTHING)
        yield


class Products:
    """What goes into the integer products of one call, and what the call gives."""

    def __init__(self, transformer: nn.Module, call: dict) -> None:
        self.codes: list[kernels.quantize_rows.RowCodes] = []
        self.fused = self.branches = 0
        right = kernels.int_linear.multiply

        def multiply(rows, weight, bias, bits, backend, after, dtype, branch):
            self.codes.append(rows)
            self.fused += after is not None
            self.branches += branch is not None
            return right(rows, weight, bias, bits, backend, after, dtype, branch)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(kernels.int_linear, "multiply", multiply)
            self.output = output(transformer, call)


def assert_same(transformer: nn.Module, call: dict) -> Products:
    """Fused and unfused calls multiply the same integers, and give the same numbers."""
    with unfused():
        expected = Products(transformer, call)
    got = Products(transformer, call)
    assert len(got.codes) == len(expected.codes)
    for a, b in zip(got.codes, expected.codes, strict=True):
        assert torch.equal(a.codes, b.codes)
        assert torch.equal(a.scale, b.scale)
        assert (a.zero is None) == (b.zero is None)
        assert a.zero is None or torch.equal(a.zero, b.zero)
    error = (got.output - expected.output).norm() / expected.output.norm()
    assert float(error) <= 1e-5
    assert expected.fused == 0
    return got


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_the_same_integers_whatever_the_method_does_to_inputs(name, symmetric, model, seen):
    options, count, reason = METHODS[name]
    plan = uniform_plan(model, parse_bits("w4a8"), activation_symmetric=symmetric)
    made = quantize(model, name.split()[0], plan, options, seen, backend="integer").transformer
    assert_same(made, latents(999))
    assert said(made, 32).startswith(f"fused: {count} of 10 ")
    assert reason in said(made, 32)


def test_a_branch_is_added_in_the_product_that_takes_gate_and_residual(model, seen):
    plan = uniform_plan(model, parse_bits("w4a8"))
    options = {"alpha": 0.5}
    made = quantize(model, "svdquant", plan, options, seen, backend="integer").transformer
    got = assert_same(made, latents())
    assert got.fused == 4
    assert got.branches == len(got.codes)
    sites = [
        made.get_submodule(f"transformer_blocks.0.{name}")
        for name in ("attn1.to_out.0", "ff.net.2")
    ]
    for site in sites:
        site.up = torch.zeros_like(site.up)
    assert float((output(made, latents()) - got.output).norm() / got.output.norm()) > 1e-3


def rounded(transformer: nn.Module, bits: str = "w4a8", backend: str = "integer") -> nn.Module:
    """Every site rounded to nearest, whatever the family."""
    adapter = adapter_for(transformer)
    sites = adapter.sites(transformer)
    formats = uniform_formats(sites, parse_bits(bits), windows=1)
    made = shallow_copy(transformer)
    for site in sites:
        if site.name in formats:
            swap(made, site.name, layer(transformer, site.name, formats[site.name], backend))
    share_bases(made, sites)
    share_codes(made, sites)
    attach(made, adapter)
    return made.eval()


def layer(
    transformer: nn.Module, name: str, plan, backend: str = "integer", **parts
) -> QuantLinear:
    linear = transformer.get_submodule(name)
    weight = linear.weight.detach().float()
    if "migration" in parts:
        weight = weight * parts["migration"]
    codes = round_to_nearest(weight, plan.weight)
    given = {"channel_scale": None, "signs": None, "dtype": linear.weight.dtype} | parts
    return layer_of_codes(codes, linear.bias, plan=plan, windows=ONE, backend=backend, **given)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("migrated", [False, True])
def test_static_ranges_of_gelu_outputs_with_shift_and_migration(shifted, migrated):
    """As TaQ-DiT makes them."""
    family = FAMILIES["dit"]
    plain = family.model()
    made = rounded(plain)
    static = Format(bits=8, symmetric=False, granularity="tensor", static=True)
    plan = SitePlan(weight=Format(bits=4, symmetric=False), activations=(static,))
    name = "transformer_blocks.0.ff.net.2"
    c = plain.get_submodule(name).in_features
    parts = {"ranges": Ranges(torch.tensor([[0.02]]), torch.tensor([[60]]))}
    if shifted:
        parts["shift"] = torch.linspace(-0.3, 0.6, c)
    if migrated:
        parts["migration"] = torch.arange(c) % 5 + 1
    swap(made, name, layer(plain, name, plan, **parts))
    got = assert_same(made, family.inputs(torch.float32, 5.0))
    assert said(made, 32) == EVERYTHING
    assert got.codes[5].zero is not None, "the sixth product of the first block"


@pytest.mark.parametrize("name", ["dit", "pixart", "latte"])
def test_families_whose_blocks_are_alike_fuse_alike(name):
    family = FAMILIES[name]
    made = rounded(family.model())
    got = assert_same(made, family.inputs(torch.float32, 5.0))
    assert got.fused == 4


@pytest.mark.parametrize("rotated", [False, True])
def test_operations_of_a_gpu_give_the_same_here(rotated, model, seen, monkeypatch):
    """What a GPU is asked for, with int8 codes between: on the CPU these operations are their definitions."""
    for op in ("quantize_rows", "adaln_quantize", "gelu_quantize", "int_linear.custom_op"):
        monkeypatch.setattr(f"kernels.{op}.triton_obstacle", lambda *_: None)
    method = "quarot" if rotated else "rtn"
    plan = uniform_plan(model, parse_bits("w4a8"), activation_symmetric=False)
    here, there = (
        quantize(model, method, plan, {}, seen, backend=b).transformer
        for b in ("simulate", "triton")
    )
    got, expected = Products(there, latents()), Products(here, latents())
    assert (got.fused, expected.fused) == (4, 0)
    for index, (a, b) in enumerate(zip(got.codes, expected.codes, strict=True)):
        assert a.codes.dtype == torch.int8
        off = (a.codes.float() + 128 - b.codes).abs()
        if (
            index < 3
        ):  # q, k, v of the first block: before any product, whose sums differ in the last digit
            assert torch.equal(a.scale, b.scale)
            assert float(off.max()) == 0
        assert float(off.max()) <= 1
        assert float(off.mean()) <= 1e-3
    assert float((got.output - expected.output).norm() / expected.output.norm()) <= 1e-3


def test_gate_and_residual_follow_products_of_8_bit_floats(model, monkeypatch):
    """On a GPU that has them; on the CPU the operation is its definition. Codes behind LayerNorm and GELU are made apart."""
    for where in ("fp8_linear.custom_op", "quantize_rows"):
        monkeypatch.setattr(f"kernels.{where}.float8_obstacle", lambda *_: None)
    plan = uniform_plan(model, parse_bits("fp8"))
    here, there = (quantize(model, "rtn", plan, backend=b).transformer for b in ("auto", "triton"))
    fused, right = [], kernels.fp8_linear.multiply

    def multiply(rows, weight, bias, backend, after=None, dtype=torch.float32):
        fused.append(after is not None)
        return right(rows, weight, bias, backend, after, dtype)

    monkeypatch.setattr(kernels.fp8_linear, "multiply", multiply)
    expected = output(here, latents())
    assert not fused
    got = output(there, latents())
    assert (sum(fused), len(fused)) == (4, 12)  # two blocks of six layers
    assert float((got - expected).norm() / expected.norm()) <= 1e-3
    assert said(there, 32) == (
        "fused: 4 of 10 operations between layers; not fused: "
        "codes in 8-bit floats have no operation with LayerNorm or GELU (6)"
    )
    assert "simulation is the definition" in said(here, 32)


def test_half_precision_is_rounded_less_often_and_stays_near():
    family = FAMILIES["dit"]
    made, call = rounded(family.model(torch.bfloat16)), family.inputs(torch.bfloat16, 5.0)
    with unfused():
        expected = output(made, call)
    got = output(made, call)
    assert got.dtype == torch.bfloat16
    assert 0 < float((got.float() - expected.float()).norm() / expected.float().norm()) <= 2e-2


def test_simulation_is_never_fused():
    family = FAMILIES["dit"]
    for backend, fused in (("simulate", 0), ("integer", 4)):
        made = rounded(family.model(), backend=backend)
        assert Products(made, family.inputs(torch.float32, 5.0)).fused == fused
        assert ("operations" in backend_report(made, 32).why) == (backend == "integer")
    assert "simulation is the definition (10)" in said(
        rounded(family.model(), backend="simulate"), 32
    )


def test_other_activations_than_tanh_gelu_run_as_they_are():
    assert "the activation is GEGLU (12)" in said(rounded(FAMILIES["latte"].model()), 32)


class Adapted(nn.Module):
    """A layer with a low-rank adapter beside it, as PEFT wraps one."""

    def __init__(self, base_layer: nn.Module, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Linear(base_layer.in_features, rank)
        self.up = nn.Linear(rank, base_layer.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.up(self.down(x))


@pytest.mark.parametrize(
    ("site", "left"),
    [("attn1.to_q", 9), ("attn1.to_out.0", 9), ("ff.net.0.proj", 9), ("ff.net.2", 8)],
)
def test_what_stands_beside_a_wrapped_layer_is_not_fused_with_it(site, left):
    family = FAMILIES["dit"]
    made = rounded(family.model())
    name = f"transformer_blocks.0.{site}"
    parent, _, last = name.rpartition(".")
    owner = made.get_submodule(parent)
    owner.register_module(last, Adapted(made.get_submodule(name)))
    assert_same(made, family.inputs(torch.float32, 5.0))
    assert said(made, 32).startswith(f"fused: {left} of 10 ")
    assert "Adapted stands where a quantized layer would" in said(made, 32)


@pytest.mark.parametrize(
    ("watched", "left"),
    [("attn1", 8), ("attn1.to_q", 9), ("norm1", 5), ("norm3", 7), ("ff", 7), ("ff.net.2", 8)],
)
def test_whoever_watches_a_layer_sees_what_it_gets(watched, left):
    family = FAMILIES["dit"]
    made = rounded(family.model())
    call = family.inputs(torch.float32, 5.0)
    seen = []
    module = made.get_submodule(f"transformer_blocks.0.{watched}")
    with unfused():
        expected = output(made, call)
    handle = module.register_forward_hook(lambda _, args, y: seen.append(args[0]))
    assert torch.equal(output(made, call), expected)
    assert len(seen) == 1
    assert said(made, 32).startswith(f"fused: {left} of 10 ")
    handle.remove()
    assert said(made, 32) == EVERYTHING


def test_attention_that_is_shared_between_branches_runs_as_it_is(model):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a8")), backend="integer")
    shared = Sharing(mode="map", attentions={"transformer_blocks.0.attn1": EVERY_STEP})
    attach_sharing(made.transformer, model.adapter, shared)
    got = assert_same(made.transformer, latents())
    assert got.fused == 3
    assert "attention runs as SharedAttention (2)" in said(made.transformer, 32)


def test_masks_and_other_arguments_run_the_definition():
    family = FAMILIES["pixart"]
    made = rounded(family.model())
    block, x = made.transformer_blocks[0], torch.randn(2, 16, 32)
    rest = {"encoder_hidden_states": torch.randn(2, 5, 32), "timestep": torch.randn(2, 192)}
    mask = torch.zeros(2, 1, 16)
    mask[..., 8:] = -1e4
    with torch.no_grad():
        masked, plain = block(x, attention_mask=mask, **rest), block(x, None, **rest)
        with unfused():
            assert torch.equal(block(x, attention_mask=mask, **rest), masked)
    assert not torch.equal(masked, plain)


def test_windows_fuse_with_their_own_formats(model, sampler):
    plan = uniform_plan(model, parse_bits("w8a8"), sampler=sampler, windows=2)
    acts = (Format(bits=7), Format(bits=3, symmetric=False))
    sites = {
        n: SitePlan(weight=s.weight, activations=acts) if s.quantized else s
        for n, s in plan.sites.items()
    }
    plan = plan.model_copy(update={"sites": sites})
    made = quantize(model, "rtn", plan, backend="integer").transformer
    largest = [
        max(float(rows.codes.abs().max()) for rows in assert_same(made, latents(t)).codes)
        for t in (999, 1)
    ]
    assert largest == [63, 7]


def test_copies_and_checkpoints_fuse_too(model, tmp_path):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a8")), backend="integer")
    save_checkpoint(made, model, tmp_path / "c")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c", dtype=torch.float32).eval()
    for site in (m for m in loaded.modules() if isinstance(m, QuantLinear)):
        site.backend = "integer"
    copied = shallow_copy(made.transformer)
    copied.transformer_blocks[0].attn1.to_q.bias = torch.ones(64)
    assert fused_of(copied.transformer_blocks[0]).block is copied.transformer_blocks[0]
    expected = assert_same(made.transformer, latents())
    assert torch.equal(assert_same(loaded, latents()).output, expected.output)
    assert not torch.equal(assert_same(copied, latents()).output, expected.output)
