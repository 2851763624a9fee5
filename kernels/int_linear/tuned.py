"""Measured speeds of the faster path on one kind of device, and the choice that follows from them.

A table is ``<folder>/<device>/int_linear.json`` (`kernels.tables` says where), written by ``dqviz bench --tune`` or
``benchmarks/int_linear.py --save``: ``{"date", "torch", "cores", "cpu", "rows": [{"m", "k", "n", "weight_bits", "act_bits",
"group", "corrected", "seconds_fp32", "seconds_simulate", "seconds_integer", "ratio"}, ...]}`` with ratio = simulate / integer;
cores are the threads that computed. On a GPU it says the "device", and rows have ``seconds_bf16`` and ``seconds_triton``.

On the CPU bits that were not measured take the nearest. A GPU multiplies nibbles up to 4 bits and bytes beyond, two
kernels, and inputs as bytes: rows of 4 and 8 bits with inputs of 8 stand for all.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from .. import tables
from ..dispatch import Choice
from ..tables import NEAR, WORTH, Row
from . import cpu, tiles
from .operand import apart_of, packs
from .weight import PackedWeight

OP = "int_linear"
PATHS = {"integer": "the integer path", "triton": "the Triton version"}
CPU = torch.device("cpu")


class Kind(NamedTuple):
    """Columns of the rows that say something about a product: those that agree, and those whose nearest value does."""

    same: tuple[tuple[str, object], ...]
    near: tuple[tuple[str, int], ...] = ()


def path(device: torch.device) -> str:
    """The version that is measured beside the definition on a device."""
    return "triton" if device.type == "cuda" else "integer"


def device_name(device: torch.device = CPU) -> str:
    """Kind of device, as far as it decides: ``cpu-avx2``, ``cpu-avx512-vnni``, ``sm_90``."""
    return tiles.architecture(device.index or 0) if device.type == "cuda" else _processor()


@lru_cache(maxsize=1)
def _processor() -> str:
    name = f"cpu-{torch.backends.cpu.get_cpu_capability().lower()}"
    return name if not cpu.available() or cpu.saturates() else f"{name}-vnni"


def kind(version: str, weight: PackedWeight, act_bits: int, act_symmetric: bool) -> Kind:
    """Of a product that a version can compute."""
    if version == "integer":
        corrected = cpu.corrected(weight, act_bits, act_symmetric)
        bits = ("weight_bits", weight.bits), ("act_bits", act_bits)
        return Kind((("corrected", corrected),), bits)
    group = weight.group_size if weight.scale.shape[1] > 1 else None
    corrected = not act_symmetric or apart_of(weight) is not None
    bits = ("weight_bits", 4 if packs(weight) else 8), ("act_bits", 8)
    return Kind((*bits, ("group", group), ("corrected", corrected)))


def choice(device: torch.device, shape: tuple[int, int, int], kind: Kind) -> Choice:
    """The faster path of a device if the nearest measured shape (m, k, n), at the nearest bits, gained at least `WORTH`."""
    return _choice(path(device), device_name(device), tables.folders(), shape, kind)


@lru_cache(maxsize=4096)
def _choice(
    version: str, name: str, folders: tuple[Path, ...], shape: tuple[int, int, int], kind: Kind
) -> Choice:
    def distance(row: Row) -> float:
        return tables.distance(shape, (row["m"], row["k"], row["n"]))

    def unlike(row: Row) -> int:
        return sum(abs(row[column] - value) for column, value in kind.near)

    measured = False
    for table in tables.rows(name, OP, folders):
        own = [row for row in table if all(row.get(c) == value for c, value in kind.same)]
        measured = measured or bool(own)
        row = min(own, key=lambda row: (distance(row), unlike(row)), default=None)
        if row is not None and distance(row) <= NEAR:
            backend = version if row["ratio"] >= WORTH else "simulate"
            where = f"m={row['m']} k={row['k']} n={row['n']}"
            return Choice(backend, f"{backend}: {version} measured {row['ratio']:.2f}x at {where}")
    if not measured:
        here = "GPU: dqviz bench --tune" if version == "triton" else "device"
        return Choice("simulate", f"simulate: {PATHS[version]} was not measured on this {here}")
    m, k, n = shape
    return Choice("simulate", f"simulate: no shape near m={m} k={k} n={n} was measured")
