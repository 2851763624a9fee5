"""The table of tiles that the Triton version of `int_linear` takes on this kind of GPU: tried on a model's own shapes.

Beside the default tile, in one run, from row codes to bfloat16. A tile whose numbers differ from the default's, or that does
not compile, is no candidate; one that gains less than `tiles.WORTH` is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kernels import tables
from kernels.int_linear import tiles
from kernels.int_linear.operand import operand

from . import stored
from .linears import AGREE, weight_of
from .subject import Layer
from .timing import able, fastest

AFTER = ("", "gelu", "gate")  # what the same pass does after the product
BITS = (8, 4)  # of a weight: whole bytes, and halves
DEFAULT = "default"


class Case(NamedTuple):
    """One shape of one kind."""

    m: int
    k: int
    n: int
    packed: bool
    group: int
    after: str

    @property
    def work(self) -> int:
        """Operations of all that is tried."""
        return 2 * self.m * self.k * self.n * (1 + len(tiles.TRIED))


def cases(layers: Iterable[Layer], device: torch.device) -> list[Case]:
    """Of layers, on any GPU: a scale for each output, every kind of weight, and all that can come after."""
    shapes = dict.fromkeys((x.m, x.k, x.n) for x in layers)
    return [Case(*s, bits <= 4, 0, after) for s in shapes for bits in BITS for after in AFTER]


def measure(
    case: Case, runs: int, device: torch.device, pause: Callable[[], None] = lambda: None
) -> dict[str, Any] | str:
    """The best tile of a shape and its gain, default / tile; or why there is none."""
    launch, given = launcher(), arguments(case, device)
    exact = launch(*given, tile={}).float()
    calls: dict[str, Callable[[], object]] = {}
    named: dict[str, Mapping[str, int]] = {DEFAULT: {}}
    for tile in tiles.TRIED:
        named[str(tile)] = tile
        calls[str(tile)] = partial(launch, *given, tile=tile)
    calls = {name: call for name, call in able(calls, {}).items() if _agrees(call, exact)}
    calls[DEFAULT] = partial(launch, *given, tile={})
    taken = fastest(calls, runs, device, pause)
    best = min(taken, key=taken.__getitem__)
    ratio = taken[DEFAULT] / taken[best]
    if ratio < tiles.WORTH:
        return "no tile gains"
    return {**case._asdict(), "tile": dict(named[best]), "ratio": round(ratio, 3)}


def _agrees(call: Callable[[], Any], exact: torch.Tensor) -> bool:
    return float((call().float() - exact).norm() / exact.norm()) <= AGREE[torch.bfloat16]


def launcher() -> Callable[..., torch.Tensor]:
    """Of the kernel; Triton is imported here."""
    from kernels.int_linear.triton_impl import int_linear

    return int_linear


def arguments(case: Case, device: torch.device) -> tuple[Any, ...]:
    """Of `torch.ops.dqviz.int_linear`: random row codes and a random weight; a gate is that of one sample."""
    m, k, n = case.m, case.k, case.n
    own = operand(weight_of(k, n, 4 if case.packed else 8, device))
    codes = torch.randint(-127, 128, (m, k), dtype=torch.int8, device=device)
    row_scale = torch.rand(m, 1, device=device) * 0.01 + 0.001
    gate = residual = None
    if case.after == "gate":
        gate = torch.randn(1, n, device=device, dtype=torch.bfloat16)
        residual = torch.randn(m, n, device=device, dtype=torch.bfloat16)
    bias = torch.randn(n, device=device)
    rest = (own.group, case.after == "gelu", torch.bfloat16)
    return (codes, row_scale, None, *own[:4], bias, gate, residual, *rest)


def place(device: torch.device) -> dict[str, Any]:
    """Where tiles are tried."""
    return {"torch": torch.__version__, "device": torch.cuda.get_device_name(device)}


def check(folder: Path, device: torch.device) -> None:
    """Stop where rows could not be put into the table there; raises as `stored.check` does."""
    stored.check(_file(folder, device), place(device))


def save(
    asked: Collection[Case], rows: Iterable[Mapping[str, Any]], folder: Path, device: torch.device
) -> Path:
    """Put rows of all that was asked into the table of this kind of GPU; raises as `stored.save` does."""
    return stored.save(_file(folder, device), place(device), asked, rows)


def _file(folder: Path, device: torch.device) -> Path:
    return tables.file(folder, tiles.architecture(device.index or 0), tiles.TABLE)
