"""Tiles of the Triton version that were found by trying, per kind of GPU.

A table is ``<folder>/<architecture>/int_linear_tiles.json`` (`kernels.tables` says where), written by ``dqviz bench --tune`` or from
the rows of ``make gpu``:
``{"device", "date", "versions", "rows": [{"m", "k", "n", "packed", "group", "after", "tile": {"BM", "BN", "num_warps",
"num_stages", ..}, "ratio"}, ...]}`` with ratio = time of the default tile / time of this one. A shape takes the row of its own
m, else that of the nearest m with the same k, n and kind, else the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .. import tables

TABLE = "int_linear_tiles"
WORTH = 1.02  # smallest gain over the default for which a tile is kept


def _tile(
    bm: int, bn: int, warps: int, stages: int, registers: int | None = None
) -> dict[str, int]:
    limit = {} if registers is None else {"maxnreg": registers}
    return {"BM": bm, "BN": bn, "num_warps": warps, "num_stages": stages, **limit}


# The first lets two programs share a multiprocessor where the compiler took a few registers too many for that.
TRIED = (
    _tile(128, 128, 8, 3, 128),
    _tile(128, 64, 4, 4),
    _tile(128, 256, 8, 3),
    _tile(128, 128, 8, 4),
    _tile(128, 128, 4, 3),
    _tile(64, 128, 4, 4),
    _tile(256, 128, 8, 3),
    _tile(128, 64, 8, 3, 128),
    _tile(64, 64, 4, 4),
    _tile(128, 128, 8, 2, 128),
    _tile(64, 256, 8, 3),
    _tile(256, 64, 8, 3),
)


@lru_cache(maxsize=16)
def architecture(index: int) -> str:
    """Of a GPU, as tables are filed: ``sm_90``, ``gfx942``."""
    if torch.version.hip:
        return torch.cuda.get_device_properties(index).gcnArchName.partition(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(index))


def tile(
    device: torch.device, m: int, k: int, n: int, packed: bool, group: int, after: str
) -> Mapping[str, Any]:
    """Launch constants for a product [m, k] x [n, k]^T, empty where nothing is known; `after`: "", "gelu" or "gate"."""
    if device.type != "cuda":
        return {}
    name = architecture(device.index or 0)
    found = (nearest(f / name, m, k, n, packed, group, after) for f in tables.folders())
    return next((tile for tile in found if tile), {})


@lru_cache(maxsize=4096)
def nearest(
    folder: Path, m: int, k: int, n: int, packed: bool, group: int, after: str
) -> Mapping[str, Any]:
    """From the table in a folder."""
    like = {"k": k, "n": n, "packed": packed, "group": group, "after": after}
    rows = tables.read(folder / f"{TABLE}.json")["rows"]
    fitting = [row for row in rows if all(row[name] == like[name] for name in like)]
    if not fitting:
        return {}
    return min(fitting, key=lambda row: abs(math.log2(row["m"] / max(m, 1))))["tile"]
