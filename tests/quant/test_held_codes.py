"""Codes that a layer holds once: bytes in both modes, the same bits whoever asks, and when."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from diffusers import DiTTransformer2DModel

import kernels
from quant.checkpoint import save_checkpoint
from quant.errors import BadInput
from quant.held_codes import is_released
from quant.layers import QuantLinear
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.residency import counted, hold
from quant.schema import Format, SitePlan, parse_bits
from quant.step import at
from quant.storage import stored_tensors
from quant.streaming import put_away, value
from tests.kernels.linears import needs_onednn

from .test_layers import TWO, inputs, make

pytestmark = needs_onednn


@pytest.fixture
def gpu_here(monkeypatch):
    """Operations of a GPU are taken on the CPU, where they are their definitions."""
    for op in ("quantize_rows", "int_linear.custom_op"):
        monkeypatch.setattr(f"kernels.{op}.triton_obstacle", lambda *_: None)


def ran(**kind) -> tuple[QuantLinear, torch.Tensor]:
    """A layer of which an integer product has the codes, and its output."""
    layer = make(**{"act_bits": 7, "backend": "integer", **kind})[0]
    y = layer(inputs())
    assert released(layer)
    return layer, y


def released(layer: QuantLinear) -> bool:
    """Whether what stands in the buffer are no codes."""
    return any(is_released(buffer) for buffer in layer.buffers())


def untouched(**kind) -> torch.Tensor:
    """The codes of the same layer before anything ran."""
    return make(**{"act_bits": 7, **kind})[0].codes


@pytest.mark.parametrize(("bits", "stored"), [(8, 0.25), (4, 0.125)])
def test_both_modes_hold_what_they_promise(bits, stored):
    plan = SitePlan(weight=Format(bits=bits), activations=(Format(bits=7),))
    layer = make(plan=plan, channels=512, outs=512, backend="integer")[0]
    network = torch.nn.ModuleList([layer])

    def ratio():
        layer(inputs(channels=512))
        held = counted(network)
        bytes_ = held.stored_bytes + held.expanded_bytes - layer.bias.nbytes
        return bytes_ / (4 * 512 * 512)

    for mode, most in (("speed", 0.27), ("memory", stored + 0.01), ("speed", 0.27)):
        hold(network, mode)
        assert stored <= ratio() <= most
    with pytest.raises(BadInput, match=r"unknown residency 'disk'.*speed, memory"):
        hold(network, "disk")


@pytest.mark.parametrize("act_bits", [8, None])
@pytest.mark.parametrize(("bits", "held"), [(8, 1.0), (5, 1.0), (4, 0.5), (2, 0.5)])
@pytest.mark.parametrize("group", [None, 64])
def test_a_gpu_holds_a_weight_once(gpu_here, bits, held, group, act_bits):
    """Bytes a weight, beside scales and sums; the same numbers and codes after mode memory and back."""
    kind = {"granularity": "group", "group_size": group} if group else {}
    act = None if act_bits is None else Format(bits=act_bits)
    plan = SitePlan(weight=Format(bits=bits, **kind), activations=(act,))
    layer = make(plan=plan, channels=512, outs=512, backend="triton")[0]
    network, stored, outputs = torch.nn.ModuleList([layer]), layer.codes, []
    for mode, bytes_ in (("speed", held), ("memory", bits / 8), ("speed", held)):
        hold(network, mode)
        outputs.append(layer(inputs(channels=512)))
        found = counted(network)
        beside = layer.bias.nbytes + 3 * layer.scale.nbytes + 4 * 512
        total = found.stored_bytes + found.expanded_bytes
        assert bytes_ * 512 * 512 <= total <= bytes_ * 512 * 512 + beside
        assert released(layer) == (mode == "speed")
        assert torch.equal(layer.codes, stored)
    assert all(torch.equal(y, outputs[0]) for y in outputs)


@pytest.mark.parametrize("act_bits", [8, None])
def test_a_compiled_layer_reads_what_the_call_before_it_let_go(gpu_here, act_bits):
    layer = make(act_bits=act_bits, backend="triton")[0]
    y = layer(inputs())
    assert released(layer)
    torch._dynamo.reset()
    graph = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(graph(inputs()), y)
    assert released(layer)
    assert torch.equal(layer.codes, make(act_bits=act_bits)[0].codes)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_whoever_asks_gets_the_stored_bits(bits):
    layer, _ = ran(weight_bits=bits)
    expected = untouched(weight_bits=bits)
    for codes in (
        layer.codes,
        layer.get_buffer("codes"),
        layer.state_dict()["codes"],
        torch.nn.Sequential(layer).state_dict()["0.codes"],
        layer.packed_weight().packed,
        dict(copy.deepcopy(layer).named_buffers())["codes"],
    ):
        assert torch.equal(codes, expected)
    assert released(layer), "asking changes nothing"


def test_a_pass_makes_no_codes_again(monkeypatch):
    layer, y = ran()
    monkeypatch.setattr(kernels.bitpack, "pack", lambda *_: pytest.fail("codes were made again"))
    assert torch.equal(layer(inputs()), y)
    layer.why(64)


@pytest.fixture
def packed(monkeypatch) -> list[int]:
    """Number of codes of every tensor that is packed from now on."""
    found: list[int] = []
    pack = kernels.bitpack.pack

    def counting(codes, *args):
        found.append(codes.numel())
        return pack(codes, *args)

    monkeypatch.setattr(kernels.bitpack, "pack", counting)
    return found


def test_the_first_pass_makes_them_once_to_compare(packed):
    layer, _, _ = make(act_bits=7, backend="integer")
    packed.clear()
    layer(inputs())
    assert released(layer)
    assert packed == [48 * 96]


def test_codes_that_stay_anyway_are_not_compared(packed, model, seen, tmp_path):
    """On disk, and of each window: to let them go would free nothing."""
    layer, y = ran()
    put_away({"0": layer}, tmp_path / "layer.safetensors")
    plan, options = uniform_plan(model, parse_bits("w4a7")), {"alpha": 0.3, "tier": "C"}
    made = quantize(model, "trdq", plan, options, seen, backend="integer").transformer
    packed.clear()
    for _ in range(2):
        assert torch.equal(layer(inputs()), y)
        for timestep in (seen.timesteps[0], seen.timesteps[-1]):
            call(made, timestep)
    assert not packed
    assert value(torch.nn.Sequential(layer), "0.codes").equal(untouched())


@pytest.mark.parametrize("change", ["forget", "float16", "copy", "memory", "simulate"])
def test_numbers_are_the_same_after_every_change(change):
    layer, y = ran(rotate=True)
    match change:
        case "forget":
            layer.forget()
        case "float16":
            layer.half().float()
        case "copy":
            layer = copy.deepcopy(layer)
        case "memory":
            hold(layer, "memory")
        case "simulate":
            layer.backend = "simulate"
            assert layer.why(64)[0] == "simulate"
    tolerance = 1e-3 if change == "float16" else 1e-6
    assert float((layer(inputs()) - y).norm() / y.norm()) <= tolerance
    assert torch.equal(layer.codes, untouched(rotate=True))


def test_loading_other_codes_is_not_lost():
    layer, y = ran()
    others = make(4, 7)[0].state_dict()
    others["codes"] = others["codes"].flip(0).contiguous()
    layer.load_state_dict(others)
    assert torch.equal(layer.codes, others["codes"])
    assert not torch.equal(layer(inputs()), y), "what was made of the old ones is gone"


def test_no_layout_outlives_the_one_that_products_read():
    """What was made twice, as by two threads at once, is held once."""
    layer, y = ran()
    for _ in range(2):
        layer._prepared.clear()
        assert torch.equal(layer(inputs()), y)
        held = dict(layer.named_buffers())["codes"]
        assert held.held_by is layer.prepared["packed"].weight


def test_codes_that_are_set_anew_are_not_taken_for_the_old_ones():
    layer, y = ran()
    others = untouched().flip(0).contiguous()
    layer.register_buffer("codes", others)
    layer(inputs())
    assert torch.equal(layer.codes, others)
    layer.forget()
    assert not torch.equal(layer(inputs()), y)
    assert torch.equal(layer.codes, others)


def test_a_state_that_lacks_codes_is_an_error_and_leaves_them():
    layer, y = ran()
    lacking = {name: t for name, t in layer.state_dict().items() if name != "codes"}
    with pytest.raises(RuntimeError, match=r'Missing key.*"codes"'):
        layer.load_state_dict(lacking)
    assert torch.equal(layer.codes, untouched())
    assert torch.equal(layer(inputs()), y)


def test_what_stands_for_them_has_no_numbers_to_mistake_for_theirs():
    layer, _ = ran()
    (held,) = (b for name, b in layer.named_buffers() if name == "codes")
    assert (held.shape, held.dtype) == (layer.codes.shape, torch.uint8)
    with pytest.raises(NotImplementedError, match="meta"):
        held.cpu()


def test_formats_of_windows_share_one_weight():
    """8 bits in one window, 4 in the other: codes are let go once, sums are those of simulation."""
    acts = (Format(bits=7), Format(bits=4))
    plan = SitePlan(weight=Format(bits=4), activations=acts)
    integer, simulated = (
        make(plan=plan, windows=TWO, backend=backend)[0] for backend in ("integer", "simulate")
    )
    for timestep in (900.0, 100.0, 900.0):
        with at(timestep):
            y, expected = integer(inputs()), simulated(inputs())
        assert float((y - expected).norm() / expected.norm()) <= 1e-6
        assert released(integer)
    assert torch.equal(integer.codes, simulated.codes)


@pytest.mark.parametrize("tier", ["A", "B", "C"])
def test_every_storage_of_windows_saves_and_draws_the_same(tier, model, seen, tmp_path):
    """A requantizes at each window, B has codes for all, C for each: only B lets stored ones go."""
    plan, options = uniform_plan(model, parse_bits("w4a7")), {"alpha": 0.3, "tier": tier}
    made = quantize(model, "trdq", plan, options, seen, backend="integer")
    before = {name: t.clone() for name, t in made.transformer.state_dict().items()}
    drawn = {}
    for mode in ("speed", "memory"):
        hold(made.transformer, mode)
        drawn[mode] = [call(made.transformer, t) for t in (seen.timesteps[0], seen.timesteps[-1])]
        after = made.transformer.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)
        layers = [m for m in made.transformer.modules() if isinstance(m, QuantLinear)]
        assert any(map(released, layers)) == (tier == "B" and mode == "speed")
    assert all(map(torch.equal, drawn["speed"], drawn["memory"]))


def test_a_checkpoint_is_the_same_before_and_after(model, tmp_path):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a8")), backend="integer")
    save_checkpoint(made, model, tmp_path / "before")
    expected = call(made.transformer)
    assert any(is_released(b) for b in made.transformer.buffers())
    save_checkpoint(made, model, tmp_path / "after")
    files = [
        tmp_path / name / "diffusion_pytorch_model.safetensors" for name in ("before", "after")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "after").eval()
    for layer in loaded.modules():
        if isinstance(layer, QuantLinear):
            layer.backend = "integer"
    y = call(loaded)
    assert float((y - expected).norm() / expected.norm()) <= 1e-6


def test_saving_makes_the_codes_of_one_layer_at_a_time(packed, model):
    """To list the names took all of them, held at once."""
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a7")), backend="integer")
    names = list(made.transformer.state_dict())
    call(made.transformer)
    layers = {n: m for n, m in made.transformer.named_modules() if isinstance(m, QuantLinear)}
    assert all(map(released, layers.values()))
    packed.clear()
    stored = stored_tensors(made.transformer, torch.float32)
    assert not packed
    assert sorted([*stored.tensors, *stored.shared]) == sorted(names)
    for name, layer in layers.items():
        assert stored.tensors[f"{name}.codes"].shape == layer.codes.shape
        assert packed == [layer.in_features * layer.out_features] * 2
        packed.clear()


def test_a_checkpoint_makes_the_codes_of_each_layer_once(packed, model, tmp_path):
    """They were made for the digests of all, and again for the file."""
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a7")), backend="integer")
    call(made.transformer)
    layers = [m for m in made.transformer.modules() if isinstance(m, QuantLinear)]
    assert all(map(released, layers))
    packed.clear()
    save_checkpoint(made, model, tmp_path / "checkpoint")
    assert sorted(packed) == sorted(m.in_features * m.out_features for m in layers)
    assert all(map(released, layers)), "nothing is held twice after it"


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inference", [False, True])
def test_codes_made_again_in_inference_mode_can_be_loaded_into(bits, inference):
    layer = make(bits, 7, backend="integer")[0]
    state = make(bits, 7)[0].state_dict()
    with torch.inference_mode(inference):
        layer(inputs())
    assert released(layer)
    with torch.inference_mode():
        hold(layer, "memory")
    layer.load_state_dict(state)
    assert torch.equal(layer.codes, state["codes"])


def test_layers_that_ran_are_put_on_disk_whole(tmp_path):
    layer, y = ran(rotate=True)
    network = torch.nn.Sequential(layer)
    put_away({"0": layer}, tmp_path / "layer.safetensors")
    for _ in range(2):
        assert torch.equal(network(inputs()), y)
        assert counted(network).stored_bytes == 0, "nothing stays in memory between two passes"
        assert torch.equal(value(network, "0.codes"), untouched(rotate=True))


def test_two_forwards_at_once_while_codes_come_and_go():
    layer, expected = ran()
    stop, faults = threading.Event(), []

    def forwards():
        while not stop.is_set():
            if not torch.equal(layer(inputs()), expected):
                faults.append("output")

    def checked(work):
        try:
            work()
        except Exception as error:
            faults.append(repr(error))
            raise

    threads = [threading.Thread(target=checked, args=(forwards,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    stored = untouched()
    for _ in range(60):
        layer.forget()
        if not torch.equal(layer.codes, stored):
            faults.append("codes")
        if not torch.equal(layer.state_dict()["codes"], stored):
            faults.append("state")
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    layer.forget()
    assert torch.equal(dict(layer.named_buffers())["codes"], stored)


@torch.no_grad()
def call(transformer, timestep=5.0) -> torch.Tensor:
    """One evaluation of a tiny transformer."""
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return transformer(x, timestep=torch.tensor([timestep] * 2), class_labels=torch.tensor([1, 1000])).sample  # fmt: skip
