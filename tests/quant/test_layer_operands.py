"""What surrounds a product of stored integers, on every backend: a low-rank branch, rows as they are, block rotations."""

from __future__ import annotations

import pytest
import torch

import kernels
from quant.conformance import synthetic
from quant.conformance.trial import ONE
from quant.layer_making import layer_of_codes
from quant.layers import QuantLinear
from quant.rounding import round_to_nearest
from quant.schema import Format, SitePlan
from quant.site_tensors import LowRank
from quant.transforms import BlockRotation, random_signs

CHANNELS, OUTS, RANK = 96, 40, 6


@pytest.fixture
def gpu_here(monkeypatch):
    """Operations of a GPU are taken on the CPU, where they are their definitions."""
    for op in ("quantize_rows", "int_linear.custom_op"):
        monkeypatch.setattr(f"kernels.{op}.triton_obstacle", lambda *_: None)


def make(act_bits, backend, *, rank=RANK, scale=False, rotate=False, group=None) -> QuantLinear:
    """A seeded layer of 4 bits."""
    generator = torch.Generator().manual_seed(1)
    kind = {"granularity": "group", "group_size": group} if group else {}
    act = None if act_bits is None else Format(bits=act_bits)
    plan = SitePlan(weight=Format(bits=4, symmetric=False, **kind), activations=(act,))
    down = torch.randn(rank, CHANNELS, generator=generator).half()
    up = torch.randn(OUTS, rank, generator=generator).half()
    return layer_of_codes(
        round_to_nearest(synthetic.weight(OUTS, CHANNELS, seed=2), plan.weight),
        torch.linspace(-1, 1, OUTS),
        plan=plan,
        windows=ONE,
        channel_scale=torch.linspace(0.5, 2, CHANNELS) if scale else None,
        signs=random_signs(CHANNELS, 0, "x") if rotate else None,
        low_rank=LowRank(down, up) if rank else None,
        dtype=torch.float32,
        backend=backend,
    )


def inputs(dtype=torch.float32) -> torch.Tensor:
    return torch.randn(2, 5, CHANNELS, generator=torch.Generator().manual_seed(3)).to(dtype)


def exact(layer: QuantLinear, x: torch.Tensor) -> torch.Tensor:
    """In float64, from what the layer stores."""
    rows, fmt = layer.input_transform(x.reshape(-1, CHANNELS)), layer.plan.activations[0]
    a = rows if fmt is None else kernels.quantize_rows(rows, fmt.bits).dequantize()
    y = a.double() @ layer.dequantized_weight().double().T + layer.bias.double()
    if layer.transform.rank:
        y = y + rows.double() @ layer.down.double().T @ layer.up.double().T
    return y.reshape(*x.shape[:-1], OUTS)


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("backend", ["simulate", "integer", "triton"])
@pytest.mark.parametrize("act_bits", [8, None])
@pytest.mark.parametrize("changed", [{}, {"scale": True, "rotate": True}], ids=["plain", "changed"])
@pytest.mark.parametrize("rank", [0, RANK])
def test_the_branch_is_added_whatever_multiplies(gpu_here, backend, act_bits, changed, rank):
    layer, x = make(act_bits, backend, rank=rank, **changed), inputs()
    assert relative(layer(x), exact(layer, x)) <= 1e-6


def test_the_branch_is_not_lost_in_the_tolerance():
    layer, x = make(8, "simulate"), inputs()
    assert relative(make(8, "simulate", rank=0)(x), exact(layer, x)) > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("act_bits", [8, None])
def test_in_half_precision_rows_go_in_as_they_are(gpu_here, dtype, act_bits, monkeypatch):
    """On a GPU; what the transform makes of them is rounded once."""
    seen = []
    right = kernels.int_linear.custom_op.int_linear

    def spied(*arguments):
        seen.append(arguments)
        return right(*arguments)

    monkeypatch.setattr(kernels.int_linear.custom_op, "int_linear", spied)
    for changed in ({}, {"scale": True}):
        layer, x = make(act_bits, "triton", **changed), inputs(dtype)
        got = layer(x)
        assert got.dtype == dtype
        assert relative(got, exact(layer, x)) <= 2 * torch.finfo(dtype).eps
        rows, branch = seen[-1][0], seen[-1][13]
        assert branch.dtype == dtype
        assert rows.dtype == (torch.int8 if act_bits else dtype)


def test_sites_with_branches_make_their_codes_once_and_share_rows(monkeypatch):
    calls = {"codes": 0, "rows": 0}
    for name, owner in (("quantize_rows", "codes"), ("to_input", "rows")):
        right = getattr(__import__("quant.layers", fromlist=[name]), name)

        def counted(*args, right=right, owner=owner, **kwargs):
            calls[owner] += 1
            return right(*args, **kwargs)

        monkeypatch.setattr(f"quant.layers.{name}", counted)
    apart = [make(8, "integer", scale=True) for _ in range(3)]
    together = [make(8, "integer", scale=True) for _ in range(3)]
    for layer in together[1:]:
        layer.share_basis("first", together[0])
        layer.share_codes(together[0])
    x = inputs()
    expected = [layer(x) for layer in apart]
    assert calls == {"codes": 3, "rows": 3}
    got = [layer(x) for layer in together]
    assert calls == {"codes": 4, "rows": 4}
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert together[0]._codes._last is together[0]._transformed._last is None


@pytest.mark.parametrize("known", [True, False], ids=["one-operation", "apart"])
def test_a_block_rotation_and_its_codes_are_one_operation(gpu_here, monkeypatch, known):
    """Where it has a version; elsewhere rows are rotated first, to the same integers."""
    if known:
        monkeypatch.setattr("kernels.block_rotation.custom_op.triton_obstacle", lambda *_: None)
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.linalg.qr(torch.randn(32, 32, generator=generator))[0] for _ in "12")
    blocks = BlockRotation(first, torch.randperm(CHANNELS, generator=generator), second)
    plan = SitePlan(weight=Format(bits=4), activations=(Format(bits=8, symmetric=False),))
    layer = layer_of_codes(
        round_to_nearest(synthetic.weight(OUTS, CHANNELS, seed=2), plan.weight),
        None,
        plan=plan,
        windows=ONE,
        channel_scale=torch.linspace(0.5, 2, CHANNELS),
        signs=None,
        blocks=blocks,
        dtype=torch.float32,
        backend="triton",
    )
    calls, x = [], inputs()
    right = torch.ops.dqviz.block_rotation
    monkeypatch.setattr(
        "kernels.block_rotation.custom_op.block_rotation",
        lambda *given: calls.append(given) or right(*given),
    )
    got = layer(x)
    assert len(calls) == known
    layer.backend = "simulate"
    layer.forget()
    assert relative(got, layer(x).double()) <= 1e-6


def test_weights_alone_are_read_as_stored_where_a_gpu_multiplies(gpu_here):
    layer = make(None, "triton", rank=0)
    layer(inputs())
    assert layer.why(8) == ("triton", "triton: asked for")
    assert "weight" not in layer.prepared, "nothing was expanded"
    for backend in ("simulate", "integer", "auto"):
        name, why = make(None, backend, rank=0).why(8)
        assert name == "simulate"
        assert "the stored integers are expanded" in why


def test_a_weight_alone_with_a_branch_compiles_whole(gpu_here):
    layer, x = make(None, "triton", scale=True), inputs(torch.bfloat16)
    expected = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), expected)


def test_weights_alone_are_refused_like_others_where_there_is_no_version():
    with pytest.raises(RuntimeError, match=r"cannot run with backend triton: .*CUDA"):
        make(None, "triton")(inputs())


def test_groups_without_a_version_name_themselves(gpu_here):
    with pytest.raises(RuntimeError, match="groups of 32 have no Triton version"):
        make(None, "triton", group=32)(inputs())
