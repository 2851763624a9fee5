"""Codebooks in int8: the same integers on every backend, bytes held, codes that come back, files old and new."""

from __future__ import annotations

import copy
import json
import threading

import pytest
import torch
from diffusers import DiTTransformer2DModel

import kernels
from kernels import bitpack
from quant.checkpoint import CONFIG, save_checkpoint
from quant.fusing import said
from quant.held_codes import is_released
from quant.layer_making import layer_of_codes
from quant.layers import QuantLinear
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.residency import counted, hold
from quant.schema import Format, Plan, SitePlan, parse_bits
from quant.site_tensors import Transform
from quant.sizes import size_of
from quant.streaming import put_away, value
from quant.vectors import VectorCodes, codebook_shape, kmeans
from tests.kernels.linears import needs_onednn

from .test_fusing import EVERYTHING
from .test_held_codes import call
from .test_layers import ONE
from .test_shared_inputs import CountedCodes

CHANNELS, OUTS = 96, 48
OPTIONS = {"iterations": 1, "codebook": "int8"}
MODES = ("speed", "memory")


@pytest.fixture
def gpu_here(monkeypatch):
    """Operations of a GPU are taken on the CPU, where they are their definitions."""
    for op in ("quantize_rows", "int_linear.custom_op", "vq_linear.custom_op"):
        monkeypatch.setattr(f"kernels.{op}.triton_obstacle", lambda *_: None)


def found(bits=2, outs=OUTS, channels=CHANNELS, change=lambda codebook: codebook) -> VectorCodes:
    """Codes of a seeded weight; `change` is done to the codebook before it is rounded."""
    w = torch.randn(outs, channels, generator=torch.Generator().manual_seed(3))
    codes = kmeans(w, Format.of_codebook(bits), torch.Generator().manual_seed(0), 3)
    return codes._replace(codebook=change(codes.codebook))


def layer_from(codes: VectorCodes, act_bits=7, backend=None, symmetric=True) -> QuantLinear:
    bits = next(
        b for b in (2, 3, 4) if codebook_shape(Format.of_codebook(b), *codes.shape) == codes.codebook.shape
    )  # fmt: skip
    act = None if act_bits is None else Format(bits=act_bits, symmetric=symmetric)
    return layer_of_codes(
        codes,
        torch.linspace(-1, 1, len(codes.codes)),
        plan=SitePlan(weight=Format.of_codebook(bits), activations=(act,)),
        windows=ONE,
        channel_scale=None,
        signs=None,
        dtype=torch.float32,
        backend=backend,
    )


def inputs(rows=33, channels=CHANNELS) -> torch.Tensor:
    return torch.randn(2, rows, channels, generator=torch.Generator().manual_seed(5)) + 0.2


def exact(codes: VectorCodes, x, act_bits=7, symmetric=True) -> torch.Tensor:
    """In float64, word by word."""
    rows = kernels.quantize_rows(x.reshape(-1, x.shape[-1]), act_bits, symmetric)
    a = rows.codes.double() - (0 if rows.zero is None else rows.zero.double())
    q = codes.codebook.double()[codes.codes.long()].flatten(1)
    y = (a @ q.T) * rows.scale.double() * codes.scale.double()
    return y + torch.linspace(-1, 1, len(q)).double()


def relative(got, expected) -> float:
    return float((got.flatten(0, -2).double() - expected).norm() / expected.norm())


def released(layer: QuantLinear) -> bool:
    return any(is_released(buffer) for buffer in layer.buffers())


# -- what is stored


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codewords_are_whole_numbers_and_lose_half_a_step_at_most(bits):
    before = found(bits)
    after = before.stored("int8")
    assert after.codebook.dtype == torch.int8
    assert int(after.codebook.abs().max()) == 127
    assert after.scale.shape == (1,)
    assert after.shape == before.shape
    off = (after.decode() - before.decode()).abs().max()
    assert 0 < float(off) <= float(after.scale) / 2 * (1 + 1e-5)
    assert before.stored("fp32").kind == "fp32"
    assert before.stored("fp16").codebook.dtype == torch.float16


@pytest.mark.parametrize("equal", ["in pairs", "all zero", "distinct"])
def test_codes_name_the_first_of_codewords_that_are_equal(equal):
    def change(codebook):
        if equal == "in pairs":
            codebook[1::2] = codebook[::2]
        return torch.zeros_like(codebook) if equal == "all zero" else codebook

    before = found(change=change)
    after = before.stored("int8")
    words = after.codebook[after.codes.long()]
    assert torch.equal(words, kernels.vq_linear.rounded(before.codebook)[0][before.codes.long()])
    assert all((after.codebook[:c] != after.codebook[c]).any(1).all() for c in after.codes.unique().tolist())  # fmt: skip
    assert len(after.codes.unique()) < len(before.codes.unique()) or equal == "distinct"


def test_a_damaged_scale_is_named():
    damaged = found().stored("int8")._replace(scale=torch.tensor([torch.inf]))
    with pytest.raises(Exception, match=r"fc1: the codebook holds NaN or infinity"):
        damaged.check("fc1")


def test_what_a_site_lists_and_what_older_checkpoints_did():
    for kind in ("fp32", "fp16", "int8"):
        transform = Transform(codebook=kind)
        assert Transform.from_json(transform.to_json()) == transform
    assert "codebook" not in Transform().to_json()
    older = {"scale": False, "rotate": False, "half_codebook": True, "learned_bias": True}
    assert Transform.from_json(older) == Transform(codebook="fp16", learned_bias=True)


# -- what is multiplied


@needs_onednn
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("act_bits", [7, 4])
def test_every_backend_multiplies_the_same_integers(gpu_here, bits, act_bits):
    codes, outputs = found(bits).stored("int8"), {}
    for backend in ("simulate", "integer", "triton", "auto"):
        layer = layer_from(codes, act_bits, backend)
        for mode in MODES:
            hold(layer, mode)
            outputs[backend, mode] = layer(inputs())
            assert released(layer) == (mode == "speed" and layer.why(66)[0] != "simulate")
            assert torch.equal(layer.codes, bitpack.pack(codes.codes, codes.code_bits))
    assert all(relative(y, exact(codes, inputs(), act_bits)) <= 1e-6 for y in outputs.values())
    for mode in MODES:
        assert torch.equal(outputs["integer", mode], outputs["simulate", "speed"])


@needs_onednn
@pytest.mark.parametrize("backend", ["simulate", "integer"])
@pytest.mark.parametrize("mode", MODES)
def test_rows_with_zeros_of_their_own(backend, mode):
    codes = found().stored("int8")
    layer = layer_from(codes, 7, backend, symmetric=False)
    hold(layer, mode)
    assert relative(layer(inputs()), exact(codes, inputs(), 7, False)) <= 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_inputs_that_are_not_rounded_meet_the_decoded_weight(mode):
    codes = found().stored("int8")
    layer = layer_from(codes, None)
    hold(layer, mode)
    expected = torch.nn.functional.linear(inputs(), codes.decode(), layer.bias)
    torch.testing.assert_close(layer(inputs()), expected)
    assert torch.equal(layer.dequantized_weight(), codes.decode())


def test_floating_codebooks_have_no_integer_sums_and_say_so():
    for kind in ("fp32", "fp16"):
        layer = layer_from(found().stored(kind), 8, "integer")
        assert layer.why(9) == (
            "simulate",
            f"simulate: codebook of 2 bits x int8 per row has no integer sums: its codewords are in {kind}, not int8",
        )


@needs_onednn
def test_why_says_what_runs_and_how_codes_are_decoded():
    layer = layer_from(found().stored("int8"), 7, "integer")
    assert layer.why(9) == ("integer", "integer: asked for; codes into a codebook are decoded once")
    layer.backend = "auto"
    hold(layer, "memory")
    by_tiles = "codes into a codebook are decoded by tiles in every call"
    assert layer.why(9) == ("simulate", f"simulate: the default; {by_tiles}")
    layer.backend = "triton"
    with pytest.raises(RuntimeError, match="vq_linear cannot run with backend triton"):
        layer(inputs())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", ["simulate", "integer", "triton"])
@torch.no_grad()
def test_a_compiled_layer_gives_the_same(gpu_here, mode, backend):
    layer = layer_from(found().stored("int8"), 7, backend)
    hold(layer, mode)
    expected = layer(inputs())
    torch._dynamo.reset()
    graph = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(graph(inputs()), expected)


# -- what is held


@needs_onednn
@pytest.mark.parametrize(("bits", "stored"), [(2, 1 / 16), (3, 3 / 32), (4, 1 / 8)])
def test_mode_speed_holds_a_byte_for_each_weight_and_mode_memory_what_is_stored(bits, stored):
    layer = layer_from(found(bits, 512, 512).stored("int8"), 7, "integer")
    before, ratios = layer.codes, {}
    for mode in ("speed", "memory", "speed"):
        hold(layer, mode)
        layer(inputs(channels=512))
        held = counted(torch.nn.ModuleList([layer]))
        ratios[mode] = (held.stored_bytes + held.expanded_bytes - layer.bias.nbytes) / (4 * 512 * 512)  # fmt: skip
        assert released(layer) == (mode == "speed")
        assert torch.equal(layer.codes, before)
    assert 0.25 <= ratios["speed"] <= 0.27
    assert stored <= ratios["memory"] <= stored + 0.01


@needs_onednn
@pytest.mark.parametrize("equal", ["in pairs", "all zero", "distinct"])
@pytest.mark.parametrize(("bits", "outs"), [(2, OUTS), (2, 2), (3, OUTS), (4, OUTS)])
def test_released_codes_come_back_to_the_bit(bits, outs, equal):
    """Also into small codebooks, and where codewords are equal."""

    def change(codebook):
        if equal == "in pairs":
            codebook[1::2] = codebook[::2]
        return torch.zeros_like(codebook) if equal == "all zero" else codebook

    codes = found(bits, outs, change=change).stored("int8")
    layer = layer_from(codes, 7, "integer")
    expected = bitpack.pack(codes.codes, codes.code_bits)
    y = layer(inputs())
    assert released(layer)
    for again in (layer.codes, layer.state_dict()["codes"], copy.deepcopy(layer).codes):
        assert torch.equal(again, expected)
    layer.half().float()
    assert not released(layer)
    assert torch.equal(layer.codes, expected)
    assert torch.equal(layer.codebook, codes.codebook)
    assert torch.equal(layer.codebook_scale, codes.scale)
    layer.load_state_dict(layer_from(codes).state_dict())
    assert torch.equal(layer(inputs()), y)


@needs_onednn
def test_codes_that_name_another_of_equal_codewords_stay_beside():
    """As in a file that somebody else wrote: they could not come back, so they are not let go."""
    codes = found(change=lambda c: c.index_copy(0, torch.tensor([1]), c[:1])).stored("int8")
    assert 0 in codes.codes
    other = codes._replace(codes=torch.where(codes.codes == 0, 1, codes.codes))
    layer, canonical = layer_from(other, 7, "integer"), layer_from(codes, 7, "integer")
    assert torch.equal(layer(inputs()), canonical(inputs()))
    assert released(canonical)
    assert not released(layer)
    assert torch.equal(layer.codes, bitpack.pack(other.codes, codes.code_bits))


@needs_onednn
def test_layers_that_ran_are_put_on_disk_whole(tmp_path):
    codes = found().stored("int8")
    layer = layer_from(codes, 7, "integer")
    y, network = layer(inputs()), torch.nn.Sequential(layer)
    put_away({"0": layer}, tmp_path / "layer.safetensors")
    for _ in range(2):
        assert torch.equal(network(inputs()), y)
        assert counted(network).stored_bytes == 0
        assert value(network, "0.codes").equal(bitpack.pack(codes.codes, codes.code_bits))


@needs_onednn
def test_two_forwards_at_once_while_codes_come_and_go():
    codes = found().stored("int8")
    layer, stored = layer_from(codes, 7, "integer"), bitpack.pack(codes.codes, codes.code_bits)
    expected, stop, faults = layer(inputs()), threading.Event(), []

    def forwards():
        while not stop.is_set():
            if not torch.equal(layer(inputs()), expected):
                faults.append("output")

    threads = [threading.Thread(target=forwards) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        layer.forget()
        if not torch.equal(layer.codes, stored):
            faults.append("codes")
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults


# -- in a model


def plan_of(model, bits="w2a7") -> Plan:
    return uniform_plan(model, parse_bits(bits), also=("adaln",))


@needs_onednn
@pytest.mark.parametrize(
    ("method", "options"),
    [("kmeans-vq", OPTIONS), ("vq4dit", {"preset": "brief", "codebook": "int8"})],
)
def test_a_checkpoint_loads_bit_identical(model, tmp_path, method, options):
    made = quantize(model, method, plan_of(model), options, backend="integer")
    expected = call(made.transformer)
    assert any(map(is_released, made.transformer.buffers()))
    report = save_checkpoint(made, model, tmp_path / "c")
    predicted = size_of(str(model.path), method, parse_bits("w2a7"), options=options)
    assert report == predicted
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c", dtype=torch.float16).eval()
    layers = [m for m in loaded.modules() if isinstance(m, QuantLinear)]
    assert {m.codebook.dtype for m in layers} == {torch.int8}
    assert {m.codebook_scale.dtype for m in layers} == {torch.float32}
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    for layer in loaded.modules():
        if isinstance(layer, QuantLinear):
            layer.backend = "integer"
    assert torch.equal(call(loaded), expected)


def test_a_checkpoint_of_before_with_a_codebook_in_float16_loads(model, tmp_path):
    made = quantize(model, "kmeans-vq", plan_of(model, "w2a16"), {**OPTIONS, "codebook": "fp16"})
    save_checkpoint(made, model, tmp_path / "c")
    described = json.loads((tmp_path / "c" / CONFIG).read_text())
    for listed in described["quantization_config"]["transforms"].values():
        assert listed.pop("codebook") == "fp16"
        listed["half_codebook"] = True
    (tmp_path / "c" / CONFIG).write_text(json.dumps(described))
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    assert torch.equal(call(loaded), call(made.transformer))


def test_a_codebook_in_int8_takes_a_quarter_and_a_scale():
    full, whole = (
        size_of("dit-xl-2", "kmeans-vq", parse_bits("w2a8"), options={"codebook": kind})
        for kind in ("fp32", "int8")
    )
    count = 196
    assert full.codebooks == whole.codebooks == count
    assert whole.parts["codebooks"] == full.parts["codebooks"] // 4 + 4 * count


@needs_onednn
def test_blocks_fuse_and_sites_that_read_one_tensor_make_its_codes_once(model, monkeypatch):
    here, there = (
        quantize(model, "kmeans-vq", plan_of(model), OPTIONS, backend=backend).transformer
        for backend in ("simulate", "integer")
    )
    expected = call(here)
    assert said(there, 32) == EVERYTHING
    assert float((call(there) - expected).norm() / expected.norm()) <= 1e-5
    counts, layers = CountedCodes(monkeypatch), there.transformer_blocks[0].attn1
    x = torch.randn(2, 16, layers.to_q.in_features)
    for layer in (layers.to_q, layers.to_k, layers.to_v):
        layer(x)
    assert (counts.made, counts.asked) == (1, 3)
