"""Tiles for the launcher: of the very shape, else of the nearest number of rows, else none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels import measured, tables
from kernels.int_linear import tiles

KIND: Any = {"packed": False, "group": 0, "after": ""}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    def row(m: int, bm: int, **other: Any) -> dict[str, Any]:
        like = {"k": 1152, "n": 4608, "packed": False, "group": 0, "after": ""}
        return {"m": m, **like, "tile": {"BM": bm}, "ratio": 1.1, **other}

    made = [row(1024, 64), row(16384, 128), row(1024, 256, packed=True), row(1024, 32, after="gelu")]  # fmt: skip
    place = tmp_path / "sm_90"
    place.mkdir()
    (place / "int_linear_tiles.json").write_text(json.dumps({"rows": made}), encoding="utf-8")
    return place / "int_linear_tiles.json"


@pytest.mark.parametrize(("m", "bm"), [(1024, 64), (3000, 64), (6000, 128), (10**6, 128), (1, 64)])
def test_the_nearest_number_of_rows_decides(table: Path, m: int, bm: int) -> None:
    assert tiles.nearest(table, m, 1152, 4608, **KIND) == {"BM": bm}


def test_other_kinds_have_other_tiles(table: Path) -> None:
    assert tiles.nearest(table, 1024, 1152, 4608, **{**KIND, "packed": True}) == {"BM": 256}
    assert tiles.nearest(table, 1024, 1152, 4608, **{**KIND, "after": "gelu"}) == {"BM": 32}
    assert tiles.nearest(table, 1024, 1152, 4608, **{**KIND, "after": "gate"}) == {}
    assert tiles.nearest(table, 1024, 1152, 1152, **KIND) == {}


def test_without_a_table_there_is_none(tmp_path: Path) -> None:
    assert tiles.nearest(tmp_path / "none.json", 1024, 1152, 4608, **KIND) == {}


def test_a_table_elsewhere_is_read_where_it_is_named(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tables.VARIABLE, str(table.parent.parent))
    monkeypatch.setattr(measured, "architecture", lambda index: "sm_90")
    assert tiles.tile("int_linear", torch.device("cuda", 0), 1024, 1152, 4608, **KIND) == {"BM": 64}
    assert tiles.tile("int_linear", torch.device("cpu"), 1024, 1152, 4608, **KIND) == {}
