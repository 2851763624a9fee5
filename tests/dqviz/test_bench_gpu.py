"""`dqviz bench --tune` on a GPU, whose kernels are their definitions here: tiles, and the speeds that `auto` decides by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dqviz import machine
from dqviz.benching import (  # fmt: skip
    bench,
    float_tiling,
    floats,
    heads,
    linears,
    run,
    stored,
    subject,
    tiling,
    timing,
    tuning,
)
from dqviz.benching.rows import shown
from dqviz.benching.subject import Heads, Layer, subject_of
from kernels import fp8_linear, int_attention, measured, tables
from kernels.fp8_linear import custom_op as float_op
from kernels.int_linear import choose, custom_op, prepare, tiles
from quant.errors import BadInput
from quant.latency import latency_of
from tests.dqviz.test_bench import asked

OLD_GPU = "a GPU of compute capability 8.0 has no 8-bit floats, 8.9 and above do"
TILES, FLOAT_TILES = tiling.TABLE, float_tiling.TABLE
SPEEDS = {"bf16": 9.0, "simulate": 6.0, "triton": 2.0, tiling.DEFAULT: 4.0}
CPU = torch.device("cpu")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Tiles in the order in which they were asked; one does not compile, one is wrong."""
    asked_for: list[Any] = []

    def launcher(op: Callable[..., torch.Tensor]) -> Callable[..., Any]:
        def launch(*given: Any, tile: dict[str, int]) -> torch.Tensor:
            asked_for.append(tile)
            if tile == tiles.TRIED[1]:
                raise RuntimeError("out of shared memory")
            made = op(*given)
            return made * 2 if tile == tiles.TRIED[2] else made

        return lambda: launch

    monkeypatch.setattr(tiling, "launcher", launcher(custom_op.int_linear))
    monkeypatch.setattr(float_tiling, "launcher", launcher(float_op.fp8_linear))
    return asked_for


@pytest.fixture
def gpu_here(monkeypatch: pytest.MonkeyPatch, launched: list[Any]) -> None:
    """The CPU stands for an idle sm_90, on which operations are their definitions."""
    monkeypatch.setattr(machine, "busy", lambda: 1.0)
    monkeypatch.setattr(machine.Others, "percent", lambda others: 1.0)
    monkeypatch.setitem(run.TABLES, "cpu", run.TABLES["cuda"])
    monkeypatch.setitem(tuning.FULL, "cpu", tuning.FULL["cuda"])
    monkeypatch.setattr(measured, "version", lambda device: "triton")
    monkeypatch.setattr(measured, "architecture", lambda index: "sm_90")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    for op in ("int_linear.custom_op", "int_attention.custom_op", "quantize_rows"):
        monkeypatch.setattr(f"kernels.{op}.triton_obstacle", lambda *about: None)
    floats_here(monkeypatch, None)


def floats_here(monkeypatch: pytest.MonkeyPatch, obstacle: str | None) -> None:
    for op in ("fp8_linear.custom_op", "quantize_rows"):
        monkeypatch.setattr(f"kernels.{op}.float8_obstacle", lambda *about: obstacle)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way takes what the test says, and batches are those of one sample."""

    def fastest(calls: timing.Calls, *_: object) -> dict[str, float]:
        return {name: SPEEDS.get(name, 3.0) for name in calls}

    for maker in (tuning, tiling, floats, heads):
        monkeypatch.setattr(maker, "fastest", fastest)
    for module in (subject, heads):
        monkeypatch.setattr(module, "SPREAD", (1,))


@pytest.mark.usefixtures("gpu_here", "clocks")
def test_on_a_gpu_tiles_and_speeds_are_tuned_and_auto_takes_triton(tiny_dit: Path) -> None:
    made = bench(asked(tiny_dit, tune=True, runs=7))
    names = (TILES, FLOAT_TILES, "int_linear", "fp8_linear", "int_attention")
    named = {name: tables.file(tables.own(), "sm_90", name) for name in names}
    assert made["tables"] == [str(path) for path in named.values()]
    found = {name: tables.read(path)["rows"] for name, path in named.items()}
    network = subject_of(str(tiny_dit), "cpu")
    layers, (one,) = network.layers(1), network.attentions(1)
    counted = {name: len(rows) for name, rows in found.items()}
    shapes = len(layers)  # 5 afters by 2 bits; 3; 12 with codes, 10 without; one with 8-bit floats
    assert counted == dict(zip(names, (10 * shapes, 3 * shapes, 22 * shapes, shapes, 1), strict=True))  # fmt: skip
    assert made["left_out"] == {}
    layer = layers[0]
    x = torch.randn(layer.m, layer.k)
    for bits in (3, 8):
        stored_weight = prepare(linears.weight_of(layer.k, layer.n, bits, zeros=True))
        assert choose(x, stored_weight).why.startswith("triton: triton measured 3.00x")
        alone = choose(x.bfloat16(), stored_weight, None)
        assert alone.why.startswith("triton: triton measured 3.00x")
    assert fp8_linear.choose(x, layer.n).why.startswith("triton: triton measured 3.00x")
    q = torch.empty(one.samples, one.heads, one.tokens, one.channels, dtype=torch.bfloat16)
    assert int_attention.choose(q).why.startswith("triton: triton measured 3.00x")
    speeds = [row for row in made["rows"] if "tile" not in row]
    assert {(r["backend"], r["peer"], r["ratio"]) for r in speeds} == {("triton", "simulate", 3.0), ("triton", "bfloat16", 4.5)}  # fmt: skip
    assert {(r["op"], r["bits"]) for r in speeds} == {
        *(("int_linear", bits) for bits in ("w8a8", "w4a8", "w8a16", "w4a16")),
        ("fp8_linear", "w8a8 e4m3"),
        ("int_attention", "q8k8"),
    }
    assert all(row["count"] for row in made["rows"])
    text = shown(made)
    assert all(f"table: {path}" in text for path in named.values())
    said = [line for line in text.splitlines() if "triton, groups of 64, corrected" in line]
    assert len(said) == 3 * len(layers)  # w4a8, w8a8 and w4a16; w8a16 has nothing to correct
    with pytest.raises(BadInput, match="unknown device 'sm_90'"):
        latency_of("sm_90")  # plans are priced over float32, which was not measured there


@pytest.mark.usefixtures("gpu_here", "clocks")
def test_a_gpu_without_8_bit_floats_gets_no_table_of_them(
    tiny_dit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor keeps rows of one that was there."""
    floats_here(monkeypatch, OLD_GPU)
    made = bench(asked(tiny_dit, tune=True, runs=7))
    written = {Path(path).stem for path in made["tables"]}
    assert written == {TILES, "int_linear", "int_attention"}
    assert {why for said, why in made["left_out"].items() if "fp8_linear" in said} == {OLD_GPU}
    assert {said.split(",")[0] for said in made["left_out"]} == {f"table {FLOAT_TILES}", "table fp8_linear"}  # fmt: skip
    assert f"more: {OLD_GPU}" in shown(made)
    layer = subject_of(str(tiny_dit), "cpu").layers(1)[0]
    case = floats.Case(*layer[:3])
    path = stored.file(tables.own(), CPU, floats.TABLE)
    stored.save(path, stored.place(CPU), [case], [{**case._asdict(), "ratio": 3.0}])
    made = bench(asked(tiny_dit, tune=True, runs=7))
    assert str(path) in made["tables"]
    assert tables.read(path)["rows"] == ()


def test_attentions_are_counted_by_shape_with_their_samples(tiny_dit: Path) -> None:
    network = subject_of(str(tiny_dit), "cpu")
    (one,), (four,) = (network.attentions(batch) for batch in (1, 4))
    module: Any = network.transformer.get_submodule("transformer_blocks.0.attn1")
    blocks = len(network.adapter.spatial_attentions(network.transformer))
    rows = network.layers(1)[0].m
    assert one.heads * one.channels == module.inner_dim
    assert one.heads == module.heads
    assert one.samples * one.tokens == rows
    assert one.count == blocks
    assert four == one._replace(samples=4 * one.samples)
    assert subject_of("latte-1", "cuda").attentions(1) == [Heads(32, 16, 1024, 72, 28)]
    for other in ("flux-dev", "wan2.1-1.3b"):  # over text too; of another class
        assert subject_of(other, "cuda").attentions(1) == []


@pytest.mark.usefixtures("gpu_here")
@pytest.mark.parametrize(("group", "act_bits"), [(None, 8), (64, 8), (None, None), (64, None)])
def test_what_computes_otherwise_gets_no_row(
    group: int | None, act_bits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong numbers, and a kernel that does not start; wrong sums also where outputs hide them."""
    case = tuning.Case(8, 128, 32, 4, act_bits, group, True)
    right = custom_op._product
    row = tuning.measure(case, 1, CPU)
    assert isinstance(row, dict)
    assert row["seconds_triton"] > 0

    def told(change: Callable[[torch.Tensor, torch.dtype], torch.Tensor]) -> object:
        with monkeypatch.context() as wrong:
            wrong.setattr(custom_op, "_product", lambda *a: change(right(*a), a[6]))
            return tuning.measure(case, 1, CPU)

    class OutOfResources(Exception):
        pass

    def fails(y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        raise OutOfResources("out of resource: shared memory")

    assert told(lambda y, dtype: 1.1 * y) == "its numbers are off by 1.0e-01"
    assert told(fails) == "out of resource: shared memory"
    if group is None and act_bits is not None:
        said = told(lambda y, dtype: y + 1 if dtype == torch.int32 else y)
        assert said == "its integer sums are not those of the definition: report it"


@pytest.mark.usefixtures("gpu_here")
def test_wrong_floats_and_attentions_get_no_row_either(monkeypatch: pytest.MonkeyPatch) -> None:
    product, attention = floats.Case(8, 128, 32), heads.Case(2, 2, 16, 16, 40)
    for row in (floats.measure(product, 1, CPU), heads.measure(attention, 1, CPU)):
        assert isinstance(row, dict)
        assert {"seconds_bf16", "seconds_simulate", "seconds_triton", "ratio"} < set(row)
    wide = heads.measure(attention._replace(channels=160), 1, CPU)
    assert wide == "heads of 160 channels; a program holds 128 at most"
    ours, other = float_op.fp8_linear, int_attention.custom_op.int_attention
    monkeypatch.setattr(float_op, "fp8_linear", lambda *given: 1.1 * ours(*given))
    monkeypatch.setattr(int_attention.custom_op, "int_attention", lambda *given: 1.1 * other(*given))  # fmt: skip
    for said in (floats.measure(product, 1, CPU), heads.measure(attention, 1, CPU)):
        assert str(said).startswith("its numbers are off by 1.0e-01")


def test_a_definition_that_does_not_fit_costs_its_rows_alone() -> None:
    def fails() -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    one = torch.ones(2)
    assert linears.doubt(fails, lambda: one, one.dtype) == "CUDA out of memory"
    assert linears.doubt(lambda: one, fails, one.dtype) == "CUDA out of memory"
    assert linears.doubt(lambda: one, lambda: one, one.dtype) is None


def faster(*lowered: int) -> Callable[..., dict[str, float]]:
    """A clock on which some tiles gain, later ones more."""
    taken = {str(tile): 4.0 for tile in tiles.TRIED} | {tiling.DEFAULT: 4.0}
    taken |= {str(tiles.TRIED[i]): 2.0 - i / 10 for i in lowered}
    return lambda calls, *_: {name: taken[name] for name in calls}


CASES = (
    *(tiling.Case(8, 64, 32, packed, 0, after) for after in (*tiling.AFTER, *tiling.BRANCHED) for packed in (True, False)),
    *(float_tiling.Case(8, 64, 32, after) for after in tiling.AFTER),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_best_tile_that_computes_the_same_is_kept(
    case: Any, launched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = tiling if isinstance(case, tiling.Case) else float_tiling
    floats_here(monkeypatch, None)
    monkeypatch.setattr(tiling, "fastest", faster(1, 2, 3, 4))
    row = maker.measure(case, 1, CPU)
    assert row == {**case._asdict(), "tile": tiles.TRIED[4], "ratio": 2.5}
    assert {} in launched
    monkeypatch.setattr(tiling, "fastest", faster())
    assert maker.measure(case, 1, CPU) == "no tile gains"


def test_what_is_tiled_is_what_its_case_says() -> None:
    """The names of rows are those that the launcher asks by."""
    for case in CASES:
        op, maker = (
            ("int_linear", tiling)
            if isinstance(case, tiling.Case)
            else ("fp8_linear", float_tiling)
        )
        names = [a.name for a in getattr(torch.ops.dqviz, op).default._schema.arguments]
        given = dict(zip(names, maker.arguments(case, CPU)))  # a branch may stay away
        assert tiles.after(given["gelu"], given["gate"], given.get("branch")) == case.after


def test_a_saved_tile_is_what_the_launcher_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(measured, "architecture", lambda index: "sm_90")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setenv(tables.VARIABLE, str(tmp_path))
    for op, maker in (("int_linear", tiling), ("fp8_linear", float_tiling)):
        cases = maker.cases([Layer(512, 1152, 4608)], gpu)
        rows = [{**cases[0]._asdict(), "tile": tiles.TRIED[1], "ratio": 1.2}]
        path = stored.file(tmp_path, gpu, maker.TABLE)
        stored.save(path, stored.place(gpu), cases, rows)
        assert json.loads(path.read_text(encoding="utf-8"))["device"] == "NVIDIA H200"
        like = {n: v for n, v in cases[0]._asdict().items() if n not in "mkn"}
        assert tiles.tile(op, gpu, 512, 1152, 4608, **like) == tiles.TRIED[1]
        other = {**like, "after": "gate"}
        assert tiles.tile(op, gpu, 512, 1152, 4608, **other) == {}


def test_larger_batches_are_measured_too() -> None:
    found = heads.cases([Heads(2, 16, 256, 72)], torch.device("cuda"))
    assert found == [heads.Case(b, 16, 256, 256, 72) for b in (2, 8)]
    assert floats.cases([Layer(512, 64, 32)], CPU) == [floats.Case(m, 64, 32) for m in (512, 2048)]
