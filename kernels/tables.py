"""Where measured tables lie: ``<folder>/<device>/<op>.json``, by kind of device; tiles of a GPU in one of their own. No torch in here.

A user's folder comes first, the tables that come along after it: ``DQVIZ_CONFIGS``, else ``$DQVIZ_HOME/configs``, else
``./configs`` (`dqviz bench --tune` writes there). A shape that the first table says nothing about is looked for in the next.
What was chosen by a table stays chosen while the process runs. Rows are checked once, where a table is read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

VARIABLE, HOME = "DQVIZ_CONFIGS", "DQVIZ_HOME"
PACKAGED = Path(__file__).parent / "configs"
WORTH = 1.05  # smallest measured gain for which `auto` leaves the definition
NEAR = 1.0  # largest distance of a measured shape that still tells something

Row = Mapping[str, Any]


class BrokenTable(ValueError):
    """A file that is no table of measured times: says which file, what is wrong, and the fix."""


def _whole(value: object) -> bool:
    return type(value) is int and value > 0


def _bits(value: object) -> bool:
    """Of an input; null where it is not quantized."""
    return value is None or _whole(value)


def _number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value < math.inf


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _tile(value: object) -> bool:
    return isinstance(value, dict) and all(type(x) is int for x in value.values())


_SHAPE = dict.fromkeys("mkn", _whole)
_TILE = {"after": lambda value: isinstance(value, str), "tile": _tile}
_SECONDS = "seconds_"  # how columns of measured times begin; a device has its own
COLUMNS: Mapping[str, Mapping[str, Callable[[object], bool]]] = {  # of every row, by op
    "int_linear": _SHAPE
    | {"weight_bits": _whole, "act_bits": _bits, "corrected": _flag, "ratio": _number},
    "fp8_linear": _SHAPE | {"ratio": _number},
    "int_attention": dict.fromkeys(("samples", "heads", "queries", "keys", "channels"), _whole)
    | {"ratio": _number},
    "int_linear_tiles": _SHAPE
    | _TILE
    | {"packed": _flag, "group": lambda value: type(value) is int and value >= 0},
    "fp8_linear_tiles": _SHAPE | _TILE,
}


def folders() -> tuple[Path, ...]:
    """Of tables, in the order in which they are asked."""
    return (own(), PACKAGED)


def own() -> Path:
    """The folder of tables that were measured by whoever uses this machine."""
    return _own(os.environ.get(VARIABLE), os.environ.get(HOME))


@lru_cache(maxsize=8)
def _own(named: str | None, home: str | None) -> Path:
    return Path(named) if named else Path(home or ".") / "configs"


def file(folder: Path, device: str, op: str) -> Path:
    """The table of an op on a device."""
    return folder / device / f"{op}.json"


def devices(op: str) -> dict[str, tuple[Path, ...]]:
    """Every device that has a table of an op, with its tables in the order in which they are asked."""
    found: dict[str, tuple[Path, ...]] = {}
    for folder in folders():
        for path in sorted(folder.glob(f"*/{op}.json")):
            found[path.parent.name] = (*found.get(path.parent.name, ()), path)
    return found


def read(path: Path) -> Mapping[str, Any]:
    """A table, its rows under ``rows``; without a file there are none.

    Raises BrokenTable, naming file and fix, where it is none.
    """
    if not path.is_file():
        return {"rows": ()}
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, written: int) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or "rows" not in found:
            raise ValueError("it has no rows")
        rows = found["rows"]
        why = _wrong(rows, COLUMNS.get(path.stem, {}))
    except (ValueError, RecursionError) as error:
        why = str(error)
    if why is not None:
        raise BrokenTable(
            f"{path} is no table of measured times ({why}); delete it, and measure anew: dqviz bench --tune"
        )
    return {**found, "rows": tuple(rows)}


def _wrong(rows: object, columns: Mapping[str, Callable[[object], bool]]) -> str | None:
    """What is wrong with the first row that cannot be used."""
    if not isinstance(rows, list):
        return f"rows are {rows!r:.40}, not a list"
    for n, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            return f"row {n} is {row!r:.40}, not an object"
        for name in columns:
            if name not in row:
                return f"row {n} lacks '{name}'"
        checks = {**columns} | {name: _number for name in row if name.startswith(_SECONDS)}
        for name, fits in checks.items():
            if not fits(row[name]):
                return f"row {n} has {name} {row[name]!r:.40}"
    return None


def rows(device: str, op: str, among: Sequence[Path]) -> Iterator[tuple[Row, ...]]:
    """Of every folder that has any."""
    for folder in among:
        if found := read(file(folder, device, op))["rows"]:
            yield found


def distance(one: Sequence[int], other: Sequence[int]) -> float:
    """Of two shapes, such as (m, k, n): the most doublings of any one dimension."""
    return max(abs(math.log2(max(a, 1) / max(b, 1))) for a, b in zip(one, other, strict=True))
