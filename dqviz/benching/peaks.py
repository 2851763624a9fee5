"""The most that a device does in a second, for a floor under times: of a GPU by its data sheet, of a processor as it was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kernels.int_linear import cpu
from quant.roofline import device_named

from .timing import fastest

SIDE = 1024  # of the square product that finds a processor's rate
COPIED = 2**24  # numbers: 64 MiB, more than caches hold
RUNS = 15


@dataclass(frozen=True)
class Peaks:
    """None where it is not known."""

    source: str
    bytes_per_second: float | None = None
    floating: float | None = None  # operations a second of products in full precision
    integers: float | None = None  # of 8-bit integers

    def floor(self, moved: int, operations: int, integers: bool) -> float | None:
        """The least seconds, max(moved / bandwidth, operations / peak).

        Less may be taken where operands lie in a cache, whose bandwidth is not looked at.
        """
        peak = self.integers if integers else self.floating
        if peak is None or self.bytes_per_second is None:
            return None
        return max(moved / self.bytes_per_second, operations / peak)


def peaks_of(device: torch.device) -> Peaks:
    """By the name of a GPU; by a copy and square products on a processor, a second at most."""
    if device.type == "cuda":
        known = device_named(torch.cuda.get_device_name(device))
        if known is None:
            return Peaks("not known: no data sheet of this GPU is in quant/roofline.py")
        return Peaks(known.source, known.bandwidth, known.bf16, known.int8)
    x, y = torch.ones(COPIED), torch.empty(COPIED)
    a = torch.randn(SIDE, SIDE)
    calls: dict[str, Callable[[], object]] = {"copy": lambda: y.copy_(x), "floating": lambda: a @ a}
    if cpu.available():
        calls["integers"] = _integers()
    taken = fastest(calls, RUNS)
    rate = {name: 2 * SIDE**3 / taken[name] for name in taken if name != "copy"}
    return Peaks(
        f"a copy of {4 * COPIED // 2**20} MiB and products of {SIDE} x {SIDE}, in this run",
        8 * COPIED / taken["copy"],
        rate["floating"],
        rate.get("integers"),
    )


def _integers() -> Callable[[], object]:
    """oneDNN's product alone, without what a layer does around it."""
    ops = torch.ops.onednn
    codes = torch.full((SIDE, SIDE), 3, dtype=torch.uint8)
    packed = ops.qlinear_prepack(torch.ones(SIDE, SIDE, dtype=torch.int8), [SIDE, SIDE])
    ones, zeros = torch.ones(SIDE), torch.zeros(SIDE, dtype=torch.int64)
    about = (None, 1.0, 0, torch.float32, "none", [], "")
    return lambda: ops.qlinear_pointwise(codes, 1.0, 0, packed, ones, zeros, *about)
