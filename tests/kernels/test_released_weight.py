"""Weights whose stored codes were let go for the layout of a product, the CPU's or a GPU's: the same bits, made again."""

from __future__ import annotations

import copy

import pytest
import torch

from kernels import bitpack
from kernels.int_linear import (
    PackedWeight,
    Prepared,
    ReleasedWeight,
    cpu,
    custom_op,
    int_linear,
    prepare,
)
from kernels.int_linear.cases import example_weight
from tests.kernels.linears import needs_onednn, rows_of


@pytest.fixture
def gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operation of a GPU is taken on the CPU, where it is its definition."""
    monkeypatch.setattr(custom_op, "triton_obstacle", lambda *about: None)


def released(bits: int = 4, symmetric: bool = True, n: int = 21, k: int = 50) -> Prepared:
    """A prepared weight after one product."""
    prepared = prepare(example_weight(n, k, bits, symmetric), "integer")
    int_linear(rows_of(3, k), prepared, act_bits=7)
    assert type(prepared.weight) is ReleasedWeight
    return prepared


@needs_onednn
@pytest.mark.parametrize("shape", [(21, 50), (1, 3), (64, 128)])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_come_back_to_the_bit(bits: int, symmetric: bool, shape: tuple[int, int]) -> None:
    n, k = shape
    stored, again = example_weight(n, k, bits, symmetric), released(bits, symmetric, n, k).weight
    assert torch.equal(again.packed, stored.packed)
    assert again.packed.is_contiguous()
    assert torch.equal(again.codes(), stored.codes())
    assert torch.equal(again.integers(), stored.integers())
    assert (again.out_features, again.size_bytes) == (n, stored.size_bytes)


@pytest.mark.parametrize("act_bits", [8, None])
@pytest.mark.parametrize("group", [None, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_the_operand_of_a_gpu_gives_them_back(
    gpu_here: None, bits: int, symmetric: bool, group: int | None, act_bits: int | None
) -> None:
    """Zeros in the middle of codes, at their ends and outside; rows of one code; a group that is cut short."""
    stored = example_weight(9, 150, bits, symmetric, group, seed=bits)
    if stored.zero is not None:
        middle = 2 ** (bits - 1)
        stored.zero[0], stored.zero[1], stored.zero[2] = middle, middle - 1, 0
        stored.zero[3] = 127 if bits > 4 else 2**bits + 3
        if group and bits > 4:  # q - z has to be an int8
            stored.zero[:] = stored.zero.clamp(2**bits - 128, 128)
    prepared, x = prepare(stored, "triton"), rows_of(3, 150)
    y = int_linear(x, prepared, None, act_bits)
    again = prepared.weight
    assert type(again) is ReleasedWeight
    assert torch.equal(again.packed, stored.packed)
    assert torch.equal(again.integers(), stored.integers())
    assert torch.equal(int_linear(x, prepared, None, act_bits), y)
    expected = int_linear(x, stored, None, act_bits, True, "simulate")
    torch.testing.assert_close(int_linear(x, prepared, None, act_bits, True, "simulate"), expected)


@pytest.mark.parametrize("residency", ["speed", "memory"])
def test_nothing_is_let_go_in_a_graph(
    gpu_here: None, residency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(example_weight(21, 50, 4), "triton", residency)  # type: ignore[arg-type]
    with monkeypatch.context() as traced:
        traced.setattr(torch.compiler, "is_compiling", lambda: True)
        int_linear(rows_of(3, 50), prepared)
    assert type(prepared.weight) is PackedWeight


@needs_onednn
def test_the_stored_codes_themselves_are_not_held() -> None:
    """Nothing that a prepared weight reaches has them."""
    held = released()
    (operand,) = held.forms.values()
    assert isinstance(operand, cpu.Operand)
    reached = [*vars(held.weight).values(), *operand]
    assert not [t for t in reached if isinstance(t, torch.Tensor) and t.dtype == torch.uint8]


@needs_onednn
@pytest.mark.parametrize("act_bits", [4, 8, None])
def test_other_backends_and_bits_compute_with_them(act_bits: int | None) -> None:
    prepared, x = released(symmetric=False), rows_of(5, 50)
    expected = int_linear(x, example_weight(21, 50, 4, False), None, act_bits, True, "simulate")
    assert torch.equal(int_linear(x, prepared, None, act_bits, True, "simulate"), expected)
    if act_bits is not None:
        torch.testing.assert_close(int_linear(x, prepared, None, act_bits), expected)


@needs_onednn
def test_a_copy_holds_its_codes_whole() -> None:
    twin = copy.deepcopy(released())
    assert type(twin.weight) is PackedWeight
    assert torch.equal(twin.weight.packed, example_weight(21, 50, 4).packed)


@needs_onednn
def test_what_gives_other_codes_does_not_take_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    others = torch.zeros(21, 50, dtype=torch.uint8)
    monkeypatch.setattr(cpu, "_codes", lambda operand, weight: others)
    prepared = prepare(example_weight(21, 50, 4), "integer")
    int_linear(rows_of(3, 50), prepared)
    assert type(prepared.weight) is PackedWeight


@needs_onednn
def test_in_mode_memory_nothing_is_let_go() -> None:
    prepared = prepare(example_weight(21, 50, 4), "integer", "memory")
    int_linear(rows_of(3, 50), prepared)
    assert type(prepared.weight) is PackedWeight


@needs_onednn
def test_codes_that_are_kept_are_not_made_again_to_be_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored, x = example_weight(21, 50, 4), rows_of(3, 50)
    expected = int_linear(x, released(), act_bits=7)
    monkeypatch.setattr(bitpack, "pack", lambda *_: pytest.fail("codes were made again"))
    prepared = prepare(stored, "integer", keeps_codes=True)
    assert torch.equal(int_linear(x, prepared, act_bits=7), expected)
    assert prepared.weight is stored


@needs_onednn
def test_inputs_of_other_bits_share_one_operand_where_nothing_saturates() -> None:
    prepared = prepare(example_weight(21, 50, 4), "integer")
    for act_bits in (8, 4, 7):
        int_linear(rows_of(3, 50), prepared, act_bits=act_bits)
    assert len(prepared.forms) == 1 + cpu.saturates()
