"""The table of tiles that the Triton version of `int_linear` takes on this kind of GPU: tried on a model's own shapes.

Beside the default tile, in one run, from row codes to bfloat16. A tile whose numbers differ from the default's, or that does
not compile, is no candidate; one that gains less than `tiles.WORTH` is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from kernels.int_linear import OP, tiles
from kernels.int_linear.operand import operand

from .linears import AGREE, weight_of
from .subject import Layer
from .timing import able, fastest

TABLE = tiles.table(OP.name)
AFTER = ("", "gelu", "gate")  # what the same pass does after the product
BRANCHED = ("branch", "branch, gate")  # likewise, with a low-rank branch before it
RANK = 32  # of that: what `svdquant` takes unless it is told
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
    afters = (*AFTER, *BRANCHED)
    return [Case(*s, bits <= 4, 0, after) for s in shapes for bits in BITS for after in afters]


def measure(
    case: Case, runs: int, device: torch.device, pause: Callable[[], None] = lambda: None
) -> dict[str, Any] | str:
    """The best tile of a shape and its gain, default / tile; or why there is none."""
    found = best(launcher(), arguments(case, device), runs, device, pause)
    return found if isinstance(found, str) else {**case._asdict(), **found}


def best(
    launch: Callable[..., torch.Tensor],
    given: Sequence[Any],
    runs: int,
    device: torch.device,
    pause: Callable[[], None],
) -> dict[str, Any] | str:
    """Of all tiles of one launch; see `measure`."""
    exact = launch(*given, tile={}).float()
    calls: dict[str, Callable[[], object]] = {}
    named: dict[str, Mapping[str, int]] = {DEFAULT: {}}
    for tile in tiles.TRIED:
        named[str(tile)] = tile
        calls[str(tile)] = partial(launch, *given, tile=tile)
    calls = {name: call for name, call in able(calls, {}).items() if _agrees(call, exact)}
    calls[DEFAULT] = partial(launch, *given, tile={})
    taken = fastest(calls, runs, device, pause)
    fast = min(taken, key=taken.__getitem__)
    ratio = taken[DEFAULT] / taken[fast]
    if ratio < tiles.WORTH:
        return "no tile gains"
    return {"tile": dict(named[fast]), "ratio": round(ratio, 3)}


def _agrees(call: Callable[[], Any], exact: torch.Tensor) -> bool:
    return float((call().float() - exact).norm() / exact.norm()) <= AGREE[torch.bfloat16]


def launcher() -> Callable[..., torch.Tensor]:
    """Of the kernel; Triton is imported here."""
    from kernels.int_linear.triton_impl import int_linear

    return int_linear


def arguments(case: Case, device: torch.device) -> tuple[Any, ...]:
    """Of `torch.ops.dqviz.int_linear`: random row codes and a random weight."""
    m, k, n = case.m, case.k, case.n
    own = operand(weight_of(k, n, 4 if case.packed else 8, device))
    codes = torch.randint(-127, 128, (m, k), dtype=torch.int8, device=device)
    row_scale = torch.rand(m, 1, device=device) * 0.01 + 0.001
    *ends, gelu = after_of(m, n, case.after, device)
    given = (codes, row_scale, None, *own[:4], *ends, own.group, gelu, torch.bfloat16)
    if case.after not in BRANCHED:
        return given
    branch = torch.randn(m, RANK, device=device, dtype=torch.bfloat16)
    return (*given, branch, torch.randn(n, RANK, device=device, dtype=torch.float16))


def after_of(
    m: int, n: int, after: str, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, bool]:
    """Random bias, gate and residual in bfloat16, the gate that of one sample, and whether there is a GELU."""
    bias, gate, residual = torch.randn(n, device=device), None, None
    if after.endswith("gate"):
        gate = torch.randn(1, n, device=device, dtype=torch.bfloat16)
        residual = torch.randn(m, n, device=device, dtype=torch.bfloat16)
    return bias, gate, residual, after.endswith("gelu")
