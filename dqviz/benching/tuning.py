"""The table that `--backend auto` decides by on this kind of device: measured, and written into a folder.

Each time is the least of interleaved runs in one process, with the whole op inside, as a layer runs it: quantizing float32
rows, the product, scales and bias, to the dtype of the model; weights are prepared before. Before timing, integer sums of
both paths are compared, and outputs. On a GPU products with rows that are not quantized are measured too, from rows in the dtype
of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import measured
from kernels.int_linear import Prepared, accumulate, int_linear, multiply, prepare, tuned
from kernels.int_linear.operand import GROUPS
from kernels.quantize_rows import quantize_rows

from . import tiling
from .linears import BITS, doubt, weight_of
from .subject import Layer, spread
from .timing import columns, fastest

TABLE = tuned.OP
FULL = {"cpu": ("fp32", torch.float32), "cuda": ("bf16", torch.bfloat16)}  # precision of a model


class Case(NamedTuple):
    """One row to measure.

    The correction is provoked by asymmetric inputs: on a CPU it costs the same pass either way. On a GPU the weight has
    zeros too, which is the most that a kernel corrects; 8-bit groups have theirs in their integers. act_bits None: the input
    is not quantized.
    """

    m: int
    k: int
    n: int
    weight_bits: int
    act_bits: int | None
    group: int | None
    corrected: bool

    @property
    def work(self) -> int:
        """Operations, thrice: every way does them."""
        return 6 * self.m * self.k * self.n


def cases(layers: Iterable[Layer], device: torch.device) -> list[Case]:
    """Of layers, and of their larger batches."""
    return of_shapes(spread(layers), device)


def of_shapes(shapes: Iterable[tuple[int, int, int]], device: torch.device) -> list[Case]:
    """Of every kind that a device tells apart, at shapes (m, k, n)."""
    if measured.version(device) == "integer":
        kinds = [(*bits, None, fixed) for bits in BITS for fixed in (False, True)]
    else:
        kinds = [
            (bits, act_bits, group, fixed)
            for act_bits in (8, None)
            for bits in tiling.BITS
            for group in (None, *GROUPS)
            for fixed in (False, True)
            if act_bits or not (fixed and _has_zeros_inside(bits, group))
        ]
    return [Case(*shape, *kind) for shape in shapes for kind in kinds]


def _has_zeros_inside(bits: int, group: int | None) -> bool:
    """Whether a GPU's operand of a weight has its zeros in its integers, where nothing is left to correct."""
    return group is not None and bits > 4


def measure(
    case: Case, runs: int, device: torch.device, pause: Callable[[], None] = lambda: None
) -> dict[str, Any] | str:
    """One row of the table, or why there is none: the path is not exact here, or other numbers came of it."""
    version, (name, dtype) = measured.version(device), FULL[device.type]
    inside = _has_zeros_inside(case.weight_bits, case.group)
    zeros = case.corrected and version == "triton" and not inside
    w = prepare(weight_of(case.k, case.n, case.weight_bits, device, case.group, zeros))
    x, bias = torch.randn(case.m, case.k, device=device), torch.randn(case.n, device=device)
    x = x.to(dtype) if case.act_bits is None else x
    floats = x.to(dtype), w.weight.dequantize().to(dtype), bias.to(dtype)
    simulate, faster = (
        partial(_layer, x, w, bias, case, backend, dtype) for backend in ("simulate", version)
    )
    why = doubt(simulate, faster, dtype) or _unequal(x, w, case, version)
    if why is not None:
        return why
    calls = {name: partial(F.linear, *floats), "simulate": simulate, version: faster}
    return {**case._asdict(), **columns(fastest(calls, runs, device, pause), version)}


def _layer(
    x: Tensor, weight: Prepared, bias: Tensor, case: Case, backend: str, dtype: torch.dtype
) -> Tensor:
    """A layer's way from float32 rows to its output, or from those of the model where they are not quantized."""
    if case.act_bits is None:
        return int_linear(x, weight, bias, None, backend=backend)
    made_by = "triton" if backend == "triton" else "simulate"
    rows = quantize_rows(x, case.act_bits, not case.corrected, backend=made_by)
    return multiply(rows, weight, bias, case.act_bits, backend, dtype=dtype)


def _unequal(x: Tensor, weight: Prepared, case: Case, version: str) -> str | None:
    """What is wrong with the integer sums of a version; groups have none, and rows that are not quantized."""
    bits, symmetric = case.act_bits, not case.corrected
    if case.group is not None or bits is None:
        return None
    sums = [accumulate(x, weight, bits, symmetric, b) for b in ("simulate", version)]
    return None if torch.equal(*sums) else "its integer sums are not those of the definition: report it"  # fmt: skip
