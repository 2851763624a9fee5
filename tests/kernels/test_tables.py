"""Tables are checked where they are read: what is no table is one error that names file and fix."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kernels import tables
from kernels.int_linear import tiles, tuned
from kernels.tables import BrokenTable

SPEED = {"m": 64, "k": 64, "n": 32, "weight_bits": 4, "act_bits": 8, "corrected": False, "ratio": 2.0}  # fmt: skip
TILES = tiles.table("int_linear")
TILE = {"m": 64, "k": 64, "n": 32, "packed": True, "group": 0, "after": "", "tile": {"BM": 64}}


def written(folder: Path, text: str, device: str = "sm_90", op: str = tuned.OP) -> Path:
    path = tables.file(folder, device, op)
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def one(row: dict[str, Any], **other: Any) -> str:
    return json.dumps({"rows": [{**row, **other}]})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"rows": [', "Expecting value"),
        ("[" * 200_000, "recursion"),
        ("[]", "it has no rows"),
        ("{}", "it has no rows"),
        ('{"rows": 3}', "rows are 3, not a list"),
        ('{"rows": [3]}', "row 1 is 3, not an object"),
        ('{"rows": [{"m": 1}]}', "row 1 lacks 'k'"),
        (one({n: x for n, x in SPEED.items() if n != "corrected"}), "row 1 lacks 'corrected'"),
        (one(SPEED, m=0), "row 1 has m 0"),
        (one(SPEED, k=True), "row 1 has k True"),
        (one(SPEED, act_bits=0), "row 1 has act_bits 0"),
        (one(SPEED, corrected=1), "row 1 has corrected 1"),
        (one(SPEED, ratio=float("nan")), "row 1 has ratio nan"),
        (one(SPEED, seconds_fp32="fast"), "row 1 has seconds_fp32 'fast'"),
    ],
)
def test_what_is_no_table_says_so(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BrokenTable, match=re.escape(says)) as error:
        tables.read(path)
    assert str(error.value).startswith(f"{path} is no table of measured times (")
    assert str(error.value).endswith("delete it, and measure anew: dqviz bench --tune")


@pytest.mark.parametrize("wrong", [{"packed": 1}, {"group": None}, {"after": 0}, {"tile": 64}, {"tile": {"BM": "64"}}])  # fmt: skip
def test_a_row_of_tiles_has_columns_of_its_own(tmp_path: Path, wrong: dict[str, Any]) -> None:
    like: Any = {"packed": True, "group": 0, "after": ""}
    sound = written(tmp_path, one(TILE), op=TILES)
    assert tiles.nearest(sound, 64, 64, 32, **like) == {"BM": 64}
    broken = written(tmp_path, one(TILE, **wrong), "sm_80", TILES)
    with pytest.raises(BrokenTable, match=f"row 1 has {next(iter(wrong))}"):
        tiles.nearest(broken, 64, 64, 32, **like)


def test_tables_that_come_along_are_sound() -> None:
    assert all(tables.read(path)["rows"] for path in tables.PACKAGED.glob("*/int_linear*.json"))
