"""`dqviz bench --tune` on a GPU, whose kernels are their definitions here: tiles, and the speeds that `auto` decides by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dqviz import machine
from dqviz.benching import bench, linears, run, tiling, tuning
from dqviz.benching.rows import shown
from dqviz.benching.subject import Layer, subject_of
from kernels import tables
from kernels.int_linear import choose, custom_op, prepare, tiles, tuned
from quant.errors import BadInput
from quant.latency import latency_of
from tests.dqviz.test_bench import asked


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Tiles in the order in which they were asked; one does not compile, one is wrong."""
    asked_for: list[Any] = []

    def launch(*given: Any, tile: dict[str, int]) -> torch.Tensor:
        asked_for.append(tile)
        if tile == tiles.TRIED[1]:
            raise RuntimeError("out of shared memory")
        made = custom_op.int_linear(*given)
        return made * 2 if tile == tiles.TRIED[2] else made

    monkeypatch.setattr(tiling, "launcher", lambda: launch)
    return asked_for


@pytest.fixture
def gpu_here(monkeypatch: pytest.MonkeyPatch, launched: list[Any]) -> None:
    """The CPU stands for an idle sm_90, on which operations are their definitions."""
    monkeypatch.setattr(machine, "busy", lambda: 1.0)
    monkeypatch.setattr(machine.Others, "percent", lambda others: 1.0)
    monkeypatch.setitem(run.TABLES, "cpu", run.TABLES["cuda"])
    monkeypatch.setitem(tuning.FULL, "cpu", tuning.FULL["cuda"])
    monkeypatch.setattr(tuned, "path", lambda device: "triton")
    monkeypatch.setattr(tuned, "device_name", lambda *device: "sm_90")
    monkeypatch.setattr(tiles, "architecture", lambda index: "sm_90")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    for op in ("int_linear.custom_op", "quantize_rows"):
        monkeypatch.setattr(f"kernels.{op}.triton_obstacle", lambda *about: None)


def test_on_a_gpu_tiles_and_speeds_are_tuned_and_auto_takes_triton(
    tiny_dit: Path, gpu_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"bf16": 9.0, "simulate": 6.0, "triton": 2.0, tiling.DEFAULT: 4.0}
    monkeypatch.setattr(tuning, "fastest", lambda calls, *_: {n: seconds[n] for n in calls})
    monkeypatch.setattr(tiling, "fastest", lambda calls, *_: {n: seconds.get(n, 3.0) for n in calls})  # fmt: skip
    monkeypatch.setattr(tuning.cases, "__defaults__", ((1,),))
    made = bench(asked(tiny_dit, tune=True, runs=7))
    named = [tables.file(tables.own(), "sm_90", name) for name in (tiles.TABLE, tuned.OP)]
    assert made["tables"] == [str(path) for path in named]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in named]
    layers = subject_of(str(tiny_dit), "cpu").layers(1)
    assert [len(table["rows"]) for table in found] == [6 * len(layers), 12 * len(layers)]
    assert made["left_out"] == {}
    layer = layers[0]
    x = torch.randn(layer.m, layer.k)
    for bits in (3, 8):
        stored_weight = prepare(linears.weight_of(layer.k, layer.n, bits, zeros=True))
        assert choose(x, stored_weight).why.startswith("triton: triton measured 3.00x")
    speeds = [row for row in made["rows"] if "corrected" in row]
    assert {(r["backend"], r["peer"], r["ratio"]) for r in speeds} == {("triton", "simulate", 3.0), ("triton", "bfloat16", 4.5)}  # fmt: skip
    text = shown(made)
    assert all(f"table: {path}" in text for path in named)
    assert sum("triton, groups of 64, corrected" in line for line in text.splitlines()) == 2 * len(layers)  # fmt: skip
    with pytest.raises(BadInput, match="unknown device 'sm_90'"):
        latency_of("sm_90")  # plans are priced over float32, which was not measured there


@pytest.mark.parametrize("group", [None, 64])
def test_what_computes_otherwise_gets_no_row(
    group: int | None, gpu_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong numbers, and a kernel that does not start; wrong sums also where outputs hide them."""
    case = tuning.Case(8, 128, 32, 4, 8, group, True)
    device, right = torch.device("cpu"), custom_op._product
    row = tuning.measure(case, 1, device)
    assert isinstance(row, dict)
    assert row["seconds_triton"] > 0

    def told(change: Callable[[torch.Tensor, torch.dtype], torch.Tensor]) -> object:
        with monkeypatch.context() as wrong:
            wrong.setattr(custom_op, "_product", lambda *a: change(right(*a), a[6]))
            return tuning.measure(case, 1, device)

    class OutOfResources(Exception):
        pass

    def fails(y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        raise OutOfResources("out of resource: shared memory")

    assert told(lambda y, dtype: 1.1 * y) == "its numbers are off by 1.0e-01"
    assert told(fails) == "out of resource: shared memory"
    if group is None:
        said = told(lambda y, dtype: y + 1 if dtype == torch.int32 else y)
        assert said == "its integer sums are not those of the definition: report it"


@pytest.mark.parametrize("after", tiling.AFTER)
@pytest.mark.parametrize("packed", [True, False])
def test_the_best_tile_that_computes_the_same_is_kept(
    packed: bool, after: str, launched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def faster(*lowered: int) -> Callable[..., dict[str, float]]:
        taken = {str(tile): 4.0 for tile in tiles.TRIED} | {tiling.DEFAULT: 4.0}
        taken |= {str(tiles.TRIED[i]): 2.0 - i / 10 for i in lowered}
        return lambda calls, *_: {name: taken[name] for name in calls}

    case = tiling.Case(8, 64, 32, packed, 0, after)
    monkeypatch.setattr(tiling, "fastest", faster(1, 2, 3, 4))
    row = tiling.measure(case, 1, torch.device("cpu"))
    assert row == {**case._asdict(), "tile": tiles.TRIED[4], "ratio": 2.5}
    assert {} in launched
    monkeypatch.setattr(tiling, "fastest", faster())
    assert tiling.measure(case, 1, torch.device("cpu")) == "no tile gains"


def test_a_saved_tile_is_what_the_launcher_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(tiles, "architecture", lambda index: "sm_90")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setenv(tables.VARIABLE, str(tmp_path))
    case = tiling.cases([Layer(512, 1152, 4608)], gpu)[0]
    row = {**case._asdict(), "tile": tiles.TRIED[1], "ratio": 1.2}
    path = tiling.save([case], [row], tmp_path, gpu)
    assert json.loads(path.read_text(encoding="utf-8"))["device"] == "NVIDIA H200"
    assert tiles.tile(gpu, 512, 1152, 4608, case.packed, 0, case.after) == tiles.TRIED[1]
