"""Measured speeds of the integer path on one kind of device, and the choice that follows from them.

A table is ``<folder>/<device>/int_linear.json`` (`kernels.tables` says where), written by ``dqviz bench --tune`` or
``benchmarks/int_linear.py --save``: ``{"date", "torch", "cores", "cpu", "rows": [{"m", "k", "n", "weight_bits", "act_bits",
"corrected", "seconds_fp32", "seconds_simulate", "seconds_integer", "ratio"}, ...]}`` with ratio = simulate / integer; cores
are the threads that computed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from .. import tables
from ..dispatch import Choice
from ..tables import NEAR, WORTH, Row
from . import cpu

OP = "int_linear"


@lru_cache(maxsize=1)
def device_name() -> str:
    """Kind of processor, as far as it decides the integer path: ``cpu-avx2``, ``cpu-avx512-vnni``."""
    name = f"cpu-{torch.backends.cpu.get_cpu_capability().lower()}"
    return name if not cpu.available() or cpu.saturates() else f"{name}-vnni"


def choice(m: int, k: int, n: int, weight_bits: int, act_bits: int, corrected: bool) -> Choice:
    """Integer if the nearest measured shape, at the nearest bits, gained at least `WORTH`."""
    return _choice(tables.folders(), (m, k, n), weight_bits, act_bits, corrected)


@lru_cache(maxsize=4096)
def _choice(
    folders: tuple[Path, ...],
    shape: tuple[int, int, int],
    weight_bits: int,
    act_bits: int,
    corrected: bool,
) -> Choice:
    def distance(row: Row) -> float:
        return tables.distance(shape, (row["m"], row["k"], row["n"]))

    def unlike(row: Row) -> int:
        return abs(row["weight_bits"] - weight_bits) + abs(row["act_bits"] - act_bits)

    measured = False
    for table in tables.rows(device_name(), OP, folders):
        own = [row for row in table if row["corrected"] == corrected]
        measured = measured or bool(own)
        row = min(own, key=lambda row: (distance(row), unlike(row)), default=None)
        if row is not None and distance(row) <= NEAR:
            backend = "integer" if row["ratio"] >= WORTH else "simulate"
            where = f"m={row['m']} k={row['k']} n={row['n']}"
            return Choice(backend, f"{backend}: integer measured {row['ratio']:.2f}x at {where}")
    if not measured:
        return Choice("simulate", "simulate: the integer path was not measured on this device")
    m, k, n = shape
    return Choice("simulate", f"simulate: no shape near m={m} k={k} n={n} was measured")
