"""What `auto` takes on a GPU: the Triton version where a table of that architecture says that it was faster, of the same kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels import measured, overview, tables
from kernels.int_linear import choose, cpu, custom_op, int_linear, prepare, tiles, tuned, why
from kernels.int_linear.cases import example_weight
from tests.kernels.linears import relative, rows_of

Table = Callable[..., None]
ROW = {"m": 64, "k": 128, "n": 256, "weight_bits": 4, "act_bits": 8, "group": None}
GPU = torch.device("cuda", 0)
TILES = tiles.table("int_linear")


def written(folder: Path, rows: list[dict[str, Any]], table: str = tuned.OP) -> None:
    path = tables.file(folder, "sm_90", table)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows}), encoding="utf-8")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """table(**row, ...) makes measured rows the only knowledge of an sm_90, where tensors of the CPU stand for its own."""
    places = (tmp_path / str(i) for i in range(99))  # what a folder said stays chosen

    def only(*rows: dict[str, Any]) -> None:
        place = next(places)
        written(place, [{**ROW, "corrected": False, "ratio": 3.1, **row} for row in rows])
        monkeypatch.setattr(tables, "folders", lambda: (place,))

    monkeypatch.setattr(tables, "folders", lambda: (tmp_path / "none",))
    monkeypatch.setattr(measured, "architecture", lambda index: "sm_90")
    monkeypatch.setattr(custom_op, "triton_obstacle", lambda *about: None)
    monkeypatch.setattr("kernels.quantize_rows.triton_obstacle", lambda *about: None)
    monkeypatch.setattr(measured, "version", lambda device: "triton")
    return only


def test_auto_takes_triton_where_it_was_measured_faster(table: Table) -> None:
    w, x = prepare(example_weight(256, 128, 4)), rows_of(64, 128)
    unknown = "simulate: the Triton version was not measured on this GPU: dqviz bench --tune"
    assert why(x, w) == unknown
    table({})
    assert choose(x, w) == ("triton", "triton: triton measured 3.10x at m=64 k=128 n=256")
    assert choose(x, w, backend="simulate").backend == "simulate"
    assert why(rows_of(500, 128), w) == "simulate: no shape near m=500 k=128 n=256 was measured"
    expected = int_linear(x, w.weight, backend="simulate")
    assert relative(int_linear(x, w), expected) <= 1e-6
    assert list(w.forms) == ["triton"]
    table({"group": 64})
    assert why(x, w) == unknown


@pytest.mark.parametrize(
    ("ratio", "backend"), [(0.89, "simulate"), (1.04, "simulate"), (1.05, "triton")]
)
def test_auto_wants_five_percent(table: Table, ratio: float, backend: str) -> None:
    table({"ratio": ratio})
    chosen = choose(rows_of(64, 128), prepare(example_weight(256, 128, 4)))
    assert chosen == (backend, f"{backend}: triton measured {ratio:.2f}x at m=64 k=128 n=256")


@pytest.mark.parametrize("act_bits", [8, 4])
@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "act_symmetric", "row"),
    [
        (4, None, True, True, {}),
        (2, None, True, True, {}),
        (5, None, True, True, {"weight_bits": 8}),
        (8, None, True, True, {"weight_bits": 8}),
        (4, None, True, False, {"corrected": True}),
        (4, None, False, True, {"corrected": True}),
        (8, None, False, True, {"weight_bits": 8, "corrected": True}),
        (4, 128, True, True, {}),  # one group: a scale for each row
        (4, 64, True, True, {"group": 64}),
        (3, 64, False, True, {"group": 64, "corrected": True}),
        (5, 64, False, True, {"weight_bits": 8, "group": 64}),  # q - z is what is multiplied
    ],
)
def test_only_rows_of_the_same_kind_count(
    table: Table,
    bits: int,
    group: int | None,
    symmetric: bool,
    act_symmetric: bool,
    row: dict[str, Any],
    act_bits: int,
) -> None:
    """Every other kind was measured slower, and would be taken for this one by the nearest bits."""
    stored, x = example_weight(256, 128, bits, symmetric, group), rows_of(64, 128)
    own = {**ROW, "corrected": False, **row}
    others = [
        {"weight_bits": w, "group": g, "corrected": c, "ratio": 0.5}
        for w in (4, 8)
        for g in (None, 64, 128)
        for c in (False, True)
        if (w, g, c) != (own["weight_bits"], own["group"], own["corrected"])
    ]
    for found, backend in (([row, *others], "triton"), (others, "simulate")):
        table(*found)
        chosen = choose(x, prepare(stored), act_bits, act_symmetric)
        assert chosen.backend == backend
        assert ("measured 3.10x" if backend == "triton" else "was not measured") in chosen.why


def test_what_was_not_measured_is_simulated_with_its_reason(table: Table) -> None:
    table({}, {"group": 32})
    x, w = rows_of(64, 128), example_weight(256, 128, 4)
    assert why(x, w) == "simulate: triton was not measured with weights expanded in every call"
    assert (
        why(x, prepare(w), None) == "simulate: float32 rows were not measured, those of 16 bit are"
    )
    groups = prepare(example_weight(256, 128, 4, group_size=32))
    assert why(x, groups).startswith("simulate: weight groups of 32 have no Triton version")


def test_the_list_of_ops_says_what_auto_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "available", lambda: True)
    monkeypatch.setattr(overview, "triton_obstacle", lambda device: None)
    said = {op.name: op.why for op in overview.here()}
    assert "auto: integer or triton where it was measured faster here" in said["int_linear"]
    assert "auto: simulate, no other version was" in said["quantize_rows"]
    monkeypatch.setattr(overview, "triton_obstacle", lambda device: "no CUDA device")
    said = {op.name: op.why for op in overview.here()}
    assert "auto: integer where it was measured faster here" in said["int_linear"]


def test_a_gpu_reads_tables_of_its_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speeds and tiles lie beside each other, and none is taken for the other."""
    monkeypatch.setenv(tables.VARIABLE, str(tmp_path))
    names = ["sm_80", "sm_90"]
    monkeypatch.setattr(measured, "architecture", names.__getitem__)
    assert [measured.version(torch.device(d)) for d in ("cuda", "cpu")] == ["triton", "integer"]
    assert tuned.device_name(torch.device("cuda", 1)) == "sm_90"
    assert tuned.device_name().startswith("cpu-")
    kind = tuned.kind("triton", example_weight(256, 128, 4), 8, True)
    own = {"k": 128, "n": 256, "packed": True, "group": 0, "after": "", "tile": {"BM": 64}}
    written(tmp_path, [{"m": 64, **own}], TILES)
    shape, second = (64, 128, 256), torch.device("cuda", 1)
    assert tiles.tile("int_linear", second, *shape, packed=True, group=0, after="") == {"BM": 64}
    assert "was not measured" in tuned.choice(second, (63, 128, 256), kind).why
    written(tmp_path, [{**ROW, "corrected": False, "ratio": 2.0}])
    assert tuned.choice(second, shape, kind).backend == "triton"
    assert "was not measured" in tuned.choice(GPU, shape, kind).why, "an sm_80 has none"
    assert tiles.tile("int_linear", second, *shape, packed=True, group=0, after="") == {"BM": 64}
