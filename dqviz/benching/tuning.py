"""The table that `--backend auto` decides by on this kind of device: measured, and written into a folder.

Each time is the least of interleaved runs in one process, with the whole op inside, as a layer runs it: quantizing float32
rows, the product, scales and bias, to the dtype of the model; weights are prepared before. Before timing, integer sums of
both paths are compared, and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import tables
from kernels.int_linear import Prepared, accumulate, multiply, prepare, tuned
from kernels.int_linear.operand import GROUPS
from kernels.quantize_rows import quantize_rows

from .. import machine
from . import stored, tiling
from .linears import BITS, doubt, weight_of
from .subject import Layer
from .timing import fastest

SPREAD = (1, 4)  # times the rows of a layer: with a doubling to either side, batches of 1 to 8
FULL = {"cpu": ("fp32", torch.float32), "cuda": ("bf16", torch.bfloat16)}  # precision of a model


class Case(NamedTuple):
    """One row to measure.

    The correction is provoked by asymmetric inputs: on a CPU it costs the same pass either way. On a GPU the weight has
    zeros too, which is the most that a kernel corrects; 8-bit groups have theirs in their integers.
    """

    m: int
    k: int
    n: int
    weight_bits: int
    act_bits: int
    group: int | None
    corrected: bool

    @property
    def work(self) -> int:
        """Operations, thrice: every way does them."""
        return 6 * self.m * self.k * self.n


def cases(
    layers: Iterable[Layer], device: torch.device, spread: Iterable[int] = SPREAD
) -> list[Case]:
    """Of layers, and of their larger batches."""
    shapes = dict.fromkeys((times * x.m, x.k, x.n) for x in layers for times in spread)
    if tuned.path(device) == "integer":
        kinds = [(*bits, None) for bits in BITS]
    else:
        kinds = [(bits, 8, group) for bits in tiling.BITS for group in (None, *GROUPS)]
    return [Case(*shape, *kind, fixed) for shape in shapes for kind in kinds for fixed in (False, True)]  # fmt: skip


def measure(
    case: Case, runs: int, device: torch.device, pause: Callable[[], None] = lambda: None
) -> dict[str, Any] | str:
    """One row of the table, or why there is none: the path is not exact here, or other numbers came of it."""
    version, (name, dtype) = tuned.path(device), FULL[device.type]
    zeros = case.corrected and version == "triton" and not (case.group and case.weight_bits > 4)
    w = prepare(weight_of(case.k, case.n, case.weight_bits, device, case.group, zeros))
    x, bias = torch.randn(case.m, case.k, device=device), torch.randn(case.n, device=device)
    floats = x.to(dtype), w.weight.dequantize().to(dtype), bias.to(dtype)
    simulate, faster = (
        partial(_layer, x, w, bias, case, backend, dtype) for backend in ("simulate", version)
    )
    why = doubt(simulate, faster, dtype) or _unequal(x, w, case, version)
    if why is not None:
        return why
    calls = {name: partial(F.linear, *floats), "simulate": simulate, version: faster}
    seconds = fastest(calls, runs, device, pause)
    return {
        **case._asdict(),
        **{f"seconds_{name}": round(s, 7) for name, s in seconds.items()},
        "ratio": round(seconds["simulate"] / seconds[version], 3),
    }


def _layer(
    x: Tensor, weight: Prepared, bias: Tensor, case: Case, backend: str, dtype: torch.dtype
) -> Tensor:
    """A layer's way from float32 rows to its output."""
    made_by = "triton" if backend == "triton" else "simulate"
    rows = quantize_rows(x, case.act_bits, not case.corrected, backend=made_by)
    return multiply(rows, weight, bias, case.act_bits, backend, dtype=dtype)


def _unequal(x: Tensor, weight: Prepared, case: Case, version: str) -> str | None:
    """What is wrong with the integer sums of a version; groups have none."""
    if case.group is not None:
        return None
    symmetric = not case.corrected
    sums = [accumulate(x, weight, case.act_bits, symmetric, b) for b in ("simulate", version)]
    return None if torch.equal(*sums) else "its integer sums are not those of the definition: report it"  # fmt: skip


def place(device: torch.device) -> dict[str, Any]:
    """Where times are measured; cores are the threads that compute."""
    if device.type == "cuda":
        return tiling.place(device)
    return {
        "torch": torch.__version__,
        "cpu": machine.processor(),
        "cores": torch.get_num_threads(),
    }


def check(folder: Path, device: torch.device) -> None:
    """Stop where rows could not be put into the table there; raises as `stored.check` does."""
    stored.check(_file(folder, device), place(device))


def save(
    asked: Collection[Case], rows: Iterable[Mapping[str, Any]], folder: Path, device: torch.device
) -> Path:
    """Put rows of all that was asked into the table of this kind of device; raises as `stored.save` does."""
    return stored.save(_file(folder, device), place(device), asked, rows)


def _file(folder: Path, device: torch.device) -> Path:
    return tables.file(folder, tuned.device_name(device), tuned.OP)
