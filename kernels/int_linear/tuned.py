"""Measured speeds of the integer path on one kind of device, and the choice that follows from them.

A table is ``kernels/configs/<device>/int_linear.json``, written by ``benchmarks/int_linear.py --save``:
``{"date", "torch", "cores", "cpu", "rows": [{"m", "k", "n", "weight_bits", "act_bits", "corrected",
"seconds_fp32", "seconds_simulate", "seconds_integer", "ratio"}, ...]}`` with ratio = simulate / integer.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path

import torch

from ..dispatch import Choice
from . import cpu

FOLDER = Path(__file__).parent.parent / "configs"
WORTH = 1.05  # smallest measured gain for which `auto` leaves the definition
NEAR = 1.0  # largest distance of a measured shape, in doublings of any one dimension


@lru_cache(maxsize=1)
def device_name() -> str:
    """Kind of processor, as far as it decides the integer path: ``cpu-avx2``, ``cpu-avx512-vnni``."""
    name = f"cpu-{torch.backends.cpu.get_cpu_capability().lower()}"
    return name if not cpu.available() or cpu.saturates() else f"{name}-vnni"


@lru_cache(maxsize=4)
def rows(folder: Path) -> tuple[dict, ...]:
    """The measured rows of this device, none if it was not measured."""
    path = folder / device_name() / "int_linear.json"
    if not path.is_file():
        return ()
    return tuple(json.loads(path.read_text(encoding="utf-8"))["rows"])


@lru_cache(maxsize=4096)
def choice(m: int, k: int, n: int, weight_bits: int, act_bits: int, corrected: bool) -> Choice:
    """Integer if the nearest measured shape, at the nearest bits, gained at least `WORTH`."""
    table = [row for row in rows(FOLDER) if row["corrected"] == corrected]
    if not table:
        return Choice("simulate", "simulate: the integer path was not measured on this device")

    def distance(row: dict) -> float:
        return max(abs(math.log2(row[d] / max(size, 1))) for d, size in zip("mkn", (m, k, n)))

    def unlike(row: dict) -> int:
        return abs(row["weight_bits"] - weight_bits) + abs(row["act_bits"] - act_bits)

    row = min(table, key=lambda row: (distance(row), unlike(row)))
    if distance(row) > NEAR:
        return Choice("simulate", f"simulate: no shape near m={m} k={k} n={n} was measured")
    backend = "integer" if row["ratio"] >= WORTH else "simulate"
    return Choice(
        backend,
        f"{backend}: integer measured {row['ratio']:.2f}x at m={row['m']} k={row['k']} n={row['n']}",
    )
