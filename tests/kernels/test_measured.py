"""What `auto` takes on a GPU, for every op that has a table: one rule, rows of this kind of device and of this kind of call alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels import fp8_linear, int_attention, measured, overview, tables
from kernels.dispatch import Choice
from kernels.int_linear import choose as choose_product
from kernels.int_linear import prepare
from kernels.int_linear.cases import example_weight
from kernels.tables import BrokenTable

Ask = Callable[..., Choice]
PRODUCT = {"m": 64, "k": 128, "n": 256}
HEADS = {"samples": 2, "heads": 16, "queries": 256, "keys": 256, "channels": 72}
WEIGHT_ONLY = {**PRODUCT, "weight_bits": 4, "act_bits": None, "group": None, "corrected": False}


def weight_only(times: int = 1, dtype: torch.dtype = torch.bfloat16, **weight: Any) -> Choice:
    x = torch.ones(times * 64, 128, dtype=dtype)
    return choose_product(x, prepare(example_weight(256, 128, **{"bits": 4, **weight})), None)


def floats(times: int = 1, backend: str | None = None) -> Choice:
    return fp8_linear.choose(torch.ones(times * 64, 128), 256, backend)


def attention(
    times: int = 1, dtype: torch.dtype = torch.bfloat16, channels: int = 72, keys: int | None = None
) -> Choice:
    return int_attention.choose(torch.empty(2, 16, times * 256, channels, dtype=dtype), keys=keys)


OPS: dict[str, tuple[str, dict[str, Any], Ask, str, str]] = {  # table, row, call, where, far from it
    "weights alone": ("int_linear", WEIGHT_ONLY, weight_only, "m=64 k=128 n=256", "m=320 k=128 n=256"),
    "8-bit floats": ("fp8_linear", PRODUCT, floats, "m=64 k=128 n=256", "m=320 k=128 n=256"),
    "attention": ("int_attention", HEADS, attention, "samples=2 heads=16 queries=256 keys=256", "samples=2 heads=16 queries=1280 keys=1280"),
}  # fmt: skip
every_op = pytest.mark.parametrize("name", OPS)
UNKNOWN = "simulate: the Triton version was not measured on this GPU: dqviz bench --tune"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Tensors of the CPU stand for those of an sm_90; gpu(op, *rows) writes the only table, of a folder of its own."""
    places = (tmp_path / str(i) for i in range(99))  # what a folder said stays chosen

    def only(op: str, *rows: dict[str, Any], device: str = "sm_90") -> Path:
        place = next(places)
        path = tables.file(place, device, op)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"rows": rows}), encoding="utf-8")
        monkeypatch.setattr(tables, "folders", lambda: (place,))
        return path

    monkeypatch.setattr(tables, "folders", lambda: (tmp_path / "none",))
    monkeypatch.setattr(measured, "version", lambda device: "triton")
    monkeypatch.setattr(measured, "architecture", lambda index: "sm_90")
    for op in ("int_linear", "int_attention"):
        monkeypatch.setattr(f"kernels.{op}.custom_op.triton_obstacle", lambda *about: None)
    monkeypatch.setattr("kernels.fp8_linear.custom_op.float8_obstacle", lambda *about: None)
    return only


@every_op
def test_triton_is_taken_where_a_row_near_enough_gained(
    name: str, gpu: Callable[..., Path]
) -> None:
    op, row, choose, near, far = OPS[name]
    assert choose() == Choice("simulate", UNKNOWN)
    gpu(op, {**row, "ratio": 3.1})
    assert choose() == choose(2) == Choice("triton", f"triton: triton measured 3.10x at {near}")
    assert choose(5) == Choice("simulate", f"simulate: no shape near {far} was measured")
    for ratio, backend in ((1.04, "simulate"), (1.05, "triton")):
        gpu(op, {**row, "ratio": ratio})
        assert choose() == Choice(backend, f"{backend}: triton measured {ratio:.2f}x at {near}")


@every_op
def test_rows_of_another_gpu_or_another_op_say_nothing(name: str, gpu: Callable[..., Path]) -> None:
    op, row, choose, *_ = OPS[name]
    gpu(op, {**row, "ratio": 3.1}, device="sm_80")
    assert choose().why == UNKNOWN
    gpu(op, {**row, "ratio": 3.1}, device="cpu-avx2")
    assert choose().why == UNKNOWN
    (other,) = {"fp8_linear", "int_linear"} - {op} if op != "int_attention" else {"fp8_linear"}
    gpu(other, {**WEIGHT_ONLY, "ratio": 3.1})
    assert choose().why == UNKNOWN


def test_products_with_row_codes_and_those_without_have_rows_of_their_own(
    gpu: Callable[..., Path],
) -> None:
    """Also on a processor, whose bits are the nearest: null is near to none."""
    gpu("int_linear", {**WEIGHT_ONLY, "act_bits": 8, "ratio": 3.1})
    assert weight_only().why == UNKNOWN
    gpu("int_linear", {**WEIGHT_ONLY, "ratio": 3.1})
    coded = choose_product(torch.ones(64, 128), prepare(example_weight(256, 128, 4)), 8)
    assert coded.why == UNKNOWN
    bits = measured.Kind((), (("weight_bits", 4), ("act_bits", 8)))
    shape = tuple(PRODUCT.items())
    found = measured.choice("int_linear", "integer", "sm_90", shape, bits)
    assert found.why == "simulate: the integer path was not measured on this device"


@pytest.mark.parametrize(
    ("weight", "row"),
    [
        ({"bits": 2}, {}),
        ({"bits": 8}, {"weight_bits": 8}),
        ({"symmetric": False}, {"corrected": True}),
        ({"group_size": 64}, {"group": 64}),
        ({"group_size": 64, "symmetric": False}, {"group": 64, "corrected": True}),
    ],
)
def test_only_weights_of_the_same_kind_count(
    weight: dict[str, Any], row: dict[str, Any], gpu: Callable[..., Path]
) -> None:
    own = {**WEIGHT_ONLY, **row}
    others = [
        other
        for w in (4, 8)
        for g in (None, 64, 128)
        for c in (False, True)
        if (other := {**own, "weight_bits": w, "group": g, "corrected": c, "ratio": 0.5}) != {**own, "ratio": 0.5}
    ]  # fmt: skip
    gpu("int_linear", *others, {**own, "ratio": 3.1})
    assert weight_only(**weight).backend == "triton"
    gpu("int_linear", *others)
    assert weight_only(**weight).why == UNKNOWN


@pytest.mark.parametrize("name", ["weights alone", "attention"])
def test_float32_is_not_judged_by_times_of_16_bit(name: str, gpu: Callable[..., Path]) -> None:
    """In float32 the same product is several of bfloat16; float16 is as fast."""
    op, row, choose, *_ = OPS[name]
    gpu(op, {**row, "ratio": 3.1})
    assert choose(dtype=torch.float16).backend == "triton"
    found = choose(dtype=torch.float32)
    assert found.backend == "simulate"
    assert "float32 were not measured" in found.why or "float32 rows were not" in found.why


def test_heads_of_other_widths_and_other_keys_have_rows_of_their_own(
    gpu: Callable[..., Path],
) -> None:
    gpu("int_attention", {**HEADS, "ratio": 3.1})
    assert attention(channels=64).why == UNKNOWN
    assert attention(keys=77).why == "simulate: no shape near samples=2 heads=16 queries=256 keys=77 was measured"  # fmt: skip
    assert attention(keys=200).backend == "triton"
    assert attention(channels=160).why.startswith("simulate: heads of 160 channels; a program")


def test_what_prevents_a_version_comes_first(
    gpu: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu("fp8_linear", {**PRODUCT, "ratio": 3.1})
    said = "a GPU of compute capability 8.0 has no 8-bit floats, 8.9 and above do"
    monkeypatch.setattr("kernels.fp8_linear.custom_op.float8_obstacle", lambda *about: said)
    assert floats() == Choice("simulate", f"simulate: {said}")
    with pytest.raises(RuntimeError, match=r"fp8_linear cannot run with backend triton: a GPU of"):
        floats(backend="triton")


def test_a_processor_reads_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> None:
        pytest.fail("a table was read")

    monkeypatch.setattr(tables, "folders", asked)
    assert weight_only().why == "simulate: activations are not quantized"
    assert floats().why == "simulate: GPUs alone multiply 8-bit floats"
    assert attention().why == "simulate: the default"


@every_op
def test_a_broken_table_is_an_error_that_names_it(name: str, gpu: Callable[..., Path]) -> None:
    op, row, choose, *_ = OPS[name]
    for wrong in ({"ratio": 0}, {next(iter(row)): 1.5}, {"seconds_triton": "fast"}):
        path = gpu(op, {**row, "ratio": 3.1, **wrong})
        with pytest.raises(BrokenTable, match=f"row 1 has {next(iter(wrong))}") as error:
            choose()
        assert str(error.value).startswith(f"{path} is no table of measured times")
    path = gpu(op, {n: v for n, v in row.items() if n != next(iter(row))} | {"ratio": 2.0})
    with pytest.raises(BrokenTable, match=f"row 1 lacks '{next(iter(row))}'"):
        choose()


def test_the_list_of_ops_says_which_have_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    floats = "kernels.quantize_rows.custom_op.float8_obstacle"
    monkeypatch.setattr(overview, "triton_obstacle", lambda device: None)
    monkeypatch.setattr(floats, lambda device: None)
    said = {op.name: op.why for op in overview.here()}
    for op in ("fp8_linear", "int_attention"):
        assert said[op] == "auto: triton where it was measured faster here, else simulate"
    assert said["quantize_rows"] == "auto: simulate, no other version was measured faster here"
    monkeypatch.setattr(floats, lambda device: "a GPU of compute capability 8.0 has none")
    said = {op.name: op.why for op in overview.here()}
    assert said["fp8_linear"] == "triton: a GPU of compute capability 8.0 has none; auto: simulate, no other version was measured faster here"  # fmt: skip
    assert said["int_attention"].startswith("auto: triton")
