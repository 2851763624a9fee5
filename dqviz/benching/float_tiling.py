"""Tiles that the Triton version of `fp8_linear` takes on this kind of GPU, tried as those of `int_linear` are (`tiling.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from kernels.fp8_linear import OP, custom_op
from kernels.int_linear import tiles

from .floats import weight_of
from .subject import Layer
from .tiling import AFTER, after_of, best

TABLE = tiles.table(OP.name)


class Case(NamedTuple):
    """One shape of one kind."""

    m: int
    k: int
    n: int
    after: str

    @property
    def work(self) -> int:
        """Operations of all that is tried."""
        return 2 * self.m * self.k * self.n * (1 + len(tiles.TRIED))


def cases(layers: Iterable[Layer], device: torch.device) -> list[Case]:
    """Of layers, and all that can come after."""
    shapes = dict.fromkeys((x.m, x.k, x.n) for x in layers)
    return [Case(*shape, after) for shape in shapes for after in AFTER]


def measure(
    case: Case, runs: int, device: torch.device, pause: Callable[[], None] = lambda: None
) -> dict[str, Any] | str:
    """The best tile of a shape and its gain, default / tile; or why there is none."""
    reason = custom_op.float8_obstacle(device, case.k)
    if reason is not None:
        return reason
    found = best(launcher(), arguments(case, device), runs, device, pause)
    return found if isinstance(found, str) else {**case._asdict(), **found}


def launcher() -> Callable[..., torch.Tensor]:
    """Of the kernel; Triton is imported here."""
    from kernels.fp8_linear.triton_impl import fp8_linear

    return fp8_linear


def arguments(case: Case, device: torch.device) -> tuple[Any, ...]:
    """Of `torch.ops.dqviz.fp8_linear`: random codes of rows and of a weight."""
    rows, weight = (weight_of(case.k, count, device) for count in (case.m, case.n))
    own = rows.codes, rows.scale, weight.codes, weight.scale
    return (*own, *after_of(case.m, case.n, case.after, device), torch.bfloat16)
