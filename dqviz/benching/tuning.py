"""The table that `--backend auto` decides by on this kind of processor: measured, and written into a folder.

Each time is the least of interleaved runs in one process, with the whole op inside: quantizing the input, the product,
scales and bias; weights are prepared before. Before timing, the sums of both paths are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from kernels import tables
from kernels.int_linear import accumulate, cpu, int_linear, prepare, tuned
from quant.errors import DQVizError

from .. import machine
from . import stored
from .linears import BITS, weight_of
from .subject import Layer
from .timing import fastest

SPREAD = (1, 4)  # times the rows of a layer: with a doubling to either side, batches of 1 to 8


class Case(NamedTuple):
    """One row to measure; the correction is provoked by asymmetric inputs: it costs the same pass either way."""

    m: int
    k: int
    n: int
    weight_bits: int
    act_bits: int
    corrected: bool

    @property
    def work(self) -> int:
        """Operations, thrice: every way does them."""
        return 6 * self.m * self.k * self.n


def cases(layers: Iterable[Layer], spread: Iterable[int] = SPREAD) -> list[Case]:
    """Of layers, and of their larger batches."""
    shapes = dict.fromkeys((times * x.m, x.k, x.n) for x in layers for times in spread)
    return [Case(*shape, *bits, fixed) for shape in shapes for bits in BITS for fixed in (False, True)]  # fmt: skip


def measure(
    case: Case, runs: int, pause: Callable[[], None] = lambda: None
) -> dict[str, Any] | None:
    """One row of the table; None where integer arithmetic would not be exact on this processor."""
    m, k, n, weight_bits, act_bits, corrected = case
    w = prepare(weight_of(k, n, weight_bits))
    if cpu.obstacle(w.weight, act_bits, torch.device("cpu")):
        return None
    x, bias = torch.randn(m, k), torch.randn(n)
    full = w.weight.dequantize()
    sums = [accumulate(x, w, act_bits, not corrected, b) for b in ("simulate", "integer")]
    if not torch.equal(*sums):
        raise DQVizError(f"integer sums differ at {case}: report it")
    seconds = fastest(
        {
            "fp32": lambda: F.linear(x, full, bias),
            "simulate": lambda: int_linear(x, w, bias, act_bits, not corrected, "simulate"),
            "integer": lambda: int_linear(x, w, bias, act_bits, not corrected, "integer"),
        },
        runs,
        pause=pause,
    )
    return {
        **case._asdict(),
        **{f"seconds_{name}": round(s, 7) for name, s in seconds.items()},
        "ratio": round(seconds["simulate"] / seconds["integer"], 3),
    }


def place() -> dict[str, Any]:
    """Where times are measured; cores are the threads that compute."""
    return {
        "torch": torch.__version__,
        "cpu": machine.processor(),
        "cores": torch.get_num_threads(),
    }


def check(folder: Path) -> None:
    """Stop where rows could not be put into the table there; raises as `save` does."""
    stored.kept(_file(folder), place())


def save(asked: Collection[Case], rows: Iterable[Mapping[str, Any]], folder: Path) -> Path:
    """Put rows of all that was asked into the table of this kind of processor; raises as `stored.save` does."""
    return stored.save(_file(folder), place(), asked, rows)


def _file(folder: Path) -> Path:
    return tables.file(folder, tuned.device_name(), tuned.OP)
