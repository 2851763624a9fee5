"""Linear layer whose weight, and by default input, are quantized: y = deq(x) deq(W)^T + bias.

All backends compute from one set of stored integers: their integer sums are equal bit for bit and
their float32 outputs within 1e-6. ``simulate`` is the definition, ``integer`` uses 8-bit products of
the CPU, ``triton`` those of a GPU. ``auto`` takes ``integer`` on a CPU, ``triton`` on a GPU, also of rows that are not
quantized, only where it was measured faster on this kind of device. A low-rank product (`Branch`) can be added in the same pass, and a GELU, or a gate with the residual,
can come after (`After`).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .. import measured
from ..dispatch import Choice, Op, callable_module
from ..quantize_rows import RowCodes
from . import cpu, custom_op, tuned
from .branch import Branch, check_branch
from .weight import After, GatedResidual, PackedWeight, Prepared, ReleasedWeight, Residency

__all__ = [
    "OP",
    "After",
    "Branch",
    "GatedResidual",
    "PackedWeight",
    "Prepared",
    "ReleasedWeight",
    "Residency",
    "accumulate",
    "check_after",
    "check_bias",
    "choose",
    "int_linear",
    "multiply",
    "prepare",
    "why",
]

VERSIONS = {"simulate": "reference", "integer": "cpu", "triton": "custom_op"}
OP = Op(__name__, VERSIONS, tolerance=1e-6)


def prepare(
    weight: PackedWeight,
    backend: str = "auto",
    residency: Residency = "speed",
    keeps_codes: bool = False,
) -> Prepared:
    """Wrap a stored weight so that what a backend expands it to is kept between calls.

    "speed" keeps the expanded form: 4 bytes a weight for simulate, beside the stored codes; 1 for integer, and
    1 or half of one for triton, in their place (`Prepared.weight` makes them again when they are asked for). "memory" keeps only the
    stored form. `backend` is used by calls that do not name one. `keeps_codes` is for codes that somebody else
    holds anyway: they stay beside the form, which is then not compared with them.
    """
    if residency not in ("speed", "memory"):
        raise ValueError(f"residency is '{residency}'; use speed or memory")
    return Prepared(weight, backend, residency, keeps_codes)


def int_linear(
    x: Tensor,
    weight: PackedWeight | Prepared,
    bias: Tensor | None = None,
    act_bits: int | None = 8,
    act_symmetric: bool = True,
    backend: str | None = None,
    after: After = None,
    branch: Branch | None = None,
) -> Tensor:
    """Quantize x float[m, k] row by row to `act_bits` (2..8) and multiply; y [m, n] in x's dtype.

    `act_bits=None` leaves x as it is (weight-only quantization). bias [n]. Inside, all is float32.
    `after` is what follows bias and `branch`: "gelu" (tanh), a `GatedResidual`, or nothing.
    Raises ValueError for shapes or devices that do not match, RuntimeError if `backend` (or
    ``DQVIZ_BACKEND``) names a version that cannot compute this layer exactly.
    """
    prepared = _prepared(weight)
    _check(x, prepared.weight, bias)
    check_after(after, len(x), prepared.weight.out_features)
    check_branch(branch, len(x), prepared.weight.out_features)
    version = OP.version(choose(x, prepared, act_bits, act_symmetric, backend).backend)
    if bias is not None:
        bias = bias.to(torch.float32)
    return version.linear(x, prepared, bias, act_bits, act_symmetric, after, x.dtype, branch)


def multiply(
    rows: RowCodes,
    weight: PackedWeight | Prepared,
    bias: Tensor | None = None,
    act_bits: int = 8,
    backend: str | None = None,
    after: After = None,
    dtype: torch.dtype = torch.float32,
    branch: Branch | None = None,
) -> Tensor:
    """The product with rows that were quantized elsewhere, e.g. with one scale for all; y [m, n] in `dtype`.

    They stay as they are, for other products. Raises as `int_linear` does.
    """
    prepared = _prepared(weight)
    symmetric = rows.zero is None
    _check(rows.codes, prepared.weight, bias, codes=True)
    check_after(after, len(rows.codes), prepared.weight.out_features)
    check_branch(branch, len(rows.codes), prepared.weight.out_features)
    version = OP.version(choose(rows.codes, prepared, act_bits, symmetric, backend).backend)
    bias = None if bias is None else bias.to(torch.float32)
    return version.multiply(rows, prepared, bias, act_bits, after, dtype, branch)


def accumulate(
    x: Tensor,
    weight: PackedWeight | Prepared,
    act_bits: int = 8,
    act_symmetric: bool = True,
    backend: str | None = None,
) -> Tensor:
    """The integer sums int64[m, n] before scales and bias; one scale per weight row only."""
    prepared = _prepared(weight)
    _check(x, prepared.weight, None)
    if prepared.weight.scale.shape[1] > 1:
        raise ValueError("a group-wise weight has no single integer sum per output")
    version = OP.version(choose(x, prepared, act_bits, act_symmetric, backend).backend)
    return version.accumulate(x, prepared, act_bits, act_symmetric)


def choose(
    x: Tensor,
    weight: PackedWeight | Prepared,
    act_bits: int | None = 8,
    act_symmetric: bool = True,
    backend: str | None = None,
) -> Choice:
    """The version that `int_linear` takes for these arguments, and why. Raises RuntimeError as it does."""
    prepared = _prepared(weight)
    stored = prepared.weight

    def obstacle(version: str) -> str | None:
        if x.is_floating_point() and x.element_size() == 1:
            return "8-bit floats have no integer products"
        find = {"integer": cpu.obstacle, "triton": custom_op.obstacle}[version]
        key = (version, x.device.type, act_bits)
        return prepared.fact(key, partial(find, stored, act_bits, x.device))

    def prefer() -> Choice:
        version = measured.version(x.device)
        if act_bits is None and version == "integer":
            return Choice("simulate", "simulate: activations are not quantized")
        reason = obstacle(version)
        if reason is None and act_bits is None:
            reason = tuned.unmeasured(x.dtype)
        if reason is None and prepared.residency == "memory":
            reason = f"{version} was not measured with weights expanded in every call"
        if reason is not None:
            return Choice("simulate", f"simulate: {reason}")
        find = partial(tuned.kind, version, stored, act_bits, act_symmetric)
        kind = prepared.fact(("kind", version, act_bits, act_symmetric), find)
        return tuned.choice(x.device, (len(x), stored.in_features, stored.out_features), kind)

    asked = prepared.backend if backend in (None, "auto") else backend
    return OP.choose(asked, obstacle=obstacle, prefer=prefer)


def why(
    x: Tensor,
    weight: PackedWeight | Prepared,
    act_bits: int | None = 8,
    act_symmetric: bool = True,
    backend: str | None = None,
) -> str:
    """One sentence: which version `int_linear` takes and why. Raises RuntimeError as it does."""
    return choose(x, weight, act_bits, act_symmetric, backend).why


def _prepared(weight: PackedWeight | Prepared) -> Prepared:
    return weight if isinstance(weight, Prepared) else Prepared(weight, residency="memory")


def _check(x: Tensor, weight: PackedWeight, bias: Tensor | None, codes: bool = False) -> None:
    number = x.is_floating_point() or (codes and x.dtype == torch.int8)
    if x.dim() != 2 or x.shape[1] != weight.in_features or not number:
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; needs floating point [m, {weight.in_features}]"
        )
    check_bias(bias, weight.out_features)
    if x.device != weight.scale.device:
        raise ValueError(
            f"x is on {x.device}, the weight on {weight.scale.device}; move one of them"
        )


def check_bias(bias: Tensor | None, n: int) -> None:
    """Stop at a bias that is not one for each of n outputs, with a ValueError."""
    if bias is not None and tuple(bias.shape) != (n,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; needs ({n},)")


def check_after(after: After, m: int, n: int) -> None:
    """Stop at what cannot come after a product y [m, n], with a ValueError."""
    if not isinstance(after, GatedResidual):
        if after not in (None, "gelu"):
            raise ValueError(f"after is {after!r}; use None, 'gelu' or a GatedResidual")
        return
    b = len(after.gate)
    if tuple(after.residual.shape) != (m, n):
        raise ValueError(f"residual has shape {tuple(after.residual.shape)}; needs ({m}, {n})")
    if tuple(after.gate.shape[1:]) != (n,) or b == 0 or m % b:
        raise ValueError(
            f"gate has shape {tuple(after.gate.shape)}; needs (b, {n}) with b samples of {m} rows together"
        )


callable_module(__name__)
