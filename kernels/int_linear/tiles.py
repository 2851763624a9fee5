"""Tiles of products that were found by trying, per kind of GPU; `kernels.fp8_linear` has its own.

A table is ``<folder>/<architecture>/<op>_tiles.json`` (`kernels.tables` says where), written by ``dqviz bench --tune`` or from
the rows of ``make gpu``:
``{"device", "date", "versions", "rows": [{"m", "k", "n", "packed", "group", "after", "tile": {"BM", "BN", "num_warps",
"num_stages", ..}, "ratio"}, ...]}`` with ratio = time of the default tile / time of this one; 8-bit floats have no "packed" and no
"group". A shape takes the row of its own m, else that of the nearest m with the same k, n and kind, else the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import measured, tables

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


def table(op: str) -> str:
    """Name of the table of an op."""
    return f"{op}_tiles"


def after(gelu: bool, gate: Tensor | None, branch: Tensor | None = None) -> str:
    """What the same pass does after a product, as rows name it: "gelu", "gate", "branch", "branch, gate"; "" for nothing."""
    parts = ["branch"] if branch is not None else []
    parts += ["gate"] if gate is not None else ["gelu"] if gelu else []
    return ", ".join(parts)


def tile(
    op: str, device: torch.device, m: int, k: int, n: int, **like: object
) -> Mapping[str, Any]:
    """Launch constants for a product [m, k] x [n, k]^T of a kind, empty where nothing is known."""
    if device.type != "cuda":
        return {}
    name = measured.architecture(device.index or 0)
    paths = (tables.file(folder, name, table(op)) for folder in tables.folders())
    found = (nearest(path, m, k, n, **like) for path in paths)
    return next((tile for tile in found if tile), {})


@lru_cache(maxsize=4096)
def nearest(path: Path, m: int, k: int, n: int, **like: object) -> Mapping[str, Any]:
    """From one table: of the rows that agree in k, n and all of `like`."""
    like = {"k": k, "n": n, **like}
    rows = tables.read(path)["rows"]
    fitting = [row for row in rows if all(row[name] == like[name] for name in like)]
    if not fitting:
        return {}
    return min(fitting, key=lambda row: abs(math.log2(row["m"] / max(m, 1))))["tile"]
