"""What `auto` takes by measured times: the same rule for every op that has a table.

A row of ``<folder>/<device>/<op>.json`` (`kernels.tables` says where, and which columns an op has) says how much faster than the
definition another version was at one shape, ``ratio``. Tables are written by ``dqviz bench --tune``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from . import tables
from .dispatch import Choice
from .tables import NEAR, WORTH, Row

PATHS = {"integer": "the integer path", "triton": "the Triton version"}
Shape = tuple[tuple[str, int], ...]  # columns of a row whose values may differ by a doubling


class Kind(NamedTuple):
    """Columns of the rows that say something about a call: those that agree, and those whose nearest value does."""

    same: tuple[tuple[str, object], ...] = ()
    near: tuple[tuple[str, int], ...] = ()


ALIKE = Kind()  # every row of a table


def version(device: torch.device) -> str:
    """The version that is measured beside the definition on a device."""
    return "triton" if device.type == "cuda" else "integer"


@lru_cache(maxsize=16)
def architecture(index: int) -> str:
    """Of a GPU, as tables are filed: ``sm_90``, ``gfx942``."""
    if torch.version.hip:
        return torch.cuda.get_device_properties(index).gcnArchName.partition(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(index))


def on_gpu(
    op: str, device: torch.device, shape: Shape, reason: str | None, kind: Kind = ALIKE
) -> Choice:
    """Of an op that has a version for GPUs, which `reason` prevents where it is not None."""
    if reason is not None:
        return Choice("simulate", f"simulate: {reason}")
    return choice(op, "triton", architecture(device.index or 0), shape, kind)


def choice(op: str, version: str, device: str, shape: Shape, kind: Kind) -> Choice:
    """The version if the nearest measured shape, at the nearest values, gained at least `WORTH` on this kind of device."""
    return _choice(op, version, device, tables.folders(), shape, kind)


@lru_cache(maxsize=4096)
def _choice(
    op: str, version: str, device: str, folders: tuple[Path, ...], shape: Shape, kind: Kind
) -> Choice:
    names, sizes = zip(*shape, strict=True)

    def distance(row: Row) -> float:
        return tables.distance(sizes, [row[name] for name in names])

    def unlike(row: Row) -> float:
        return sum(math.inf if row[c] is None else abs(row[c] - v) for c, v in kind.near)

    measured = False
    for table in tables.rows(device, op, folders):
        own = [row for row in table if all(row.get(c) == value for c, value in kind.same)]
        own = [row for row in own if unlike(row) < math.inf]
        measured = measured or bool(own)
        row = min(own, key=lambda row: (distance(row), unlike(row)), default=None)
        if row is not None and distance(row) <= NEAR:
            backend = version if row["ratio"] >= WORTH else "simulate"
            where = _said((name, row[name]) for name in names)
            return Choice(backend, f"{backend}: {version} measured {row['ratio']:.2f}x at {where}")
    if not measured:
        here = "GPU: dqviz bench --tune" if version == "triton" else "device"
        return Choice("simulate", f"simulate: {PATHS[version]} was not measured on this {here}")
    return Choice("simulate", f"simulate: no shape near {_said(shape)} was measured")


def _said(sizes: Iterable[tuple[str, int]]) -> str:
    return " ".join(f"{name}={size}" for name, size in sizes)
