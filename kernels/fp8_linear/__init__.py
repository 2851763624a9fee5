"""Linear layer whose weight and input are 8-bit floats (e4m3): y = deq(x) deq(W)^T + bias.

``simulate`` is the definition, in float32; ``triton`` multiplies the codes on GPUs that have them, and scales the
sums; ``auto`` takes it where a table of the kind of GPU says that it was faster (`kernels.measured`). A GELU, or a gate with the residual, can come after in the same pass (`kernels.int_linear.After`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import measured
from ..dispatch import Choice, Op, callable_module
from ..int_linear import After, check_after, check_bias
from ..quantize_rows import RowCodes
from . import custom_op
from .weight import Float8Weight

__all__ = ["OP", "Float8Weight", "choose", "fp8_linear", "multiply"]

# Matrix units before sm_100 keep fewer bits of a sum than float32 has; see triton_impl.py.
OP = Op(__name__, {"simulate": "reference", "triton": "custom_op"}, tolerance=2e-3)


def fp8_linear(
    x: Tensor,
    weight: Float8Weight,
    bias: Tensor | None = None,
    backend: str | None = None,
    after: After = None,
) -> Tensor:
    """Quantize x float[m, k] row by row to float8_e4m3fn and multiply; y [m, n] in x's dtype.

    bias [n]. Inside, all is float32. `after` is what follows the bias: "gelu" (tanh), a `GatedResidual`, or nothing.
    Raises ValueError for shapes or devices that do not match, RuntimeError if `backend` (or ``DQVIZ_BACKEND``)
    names a version that cannot run there.
    """
    _check(x, weight, bias)
    if x.element_size() == 1:
        raise ValueError(f"x is {x.dtype}; rows that are quantized already go to `multiply`")
    check_after(after, len(x), weight.out_features)
    version = OP.version(choose(x, weight.out_features, backend).backend)
    return version.linear(x, weight, None if bias is None else bias.float(), after, x.dtype)


def multiply(
    rows: RowCodes,
    weight: Float8Weight,
    bias: Tensor | None = None,
    backend: str | None = None,
    after: After = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The product with rows that were quantized elsewhere; y [m, n] in `dtype`. Raises as `fp8_linear` does."""
    _check(rows.codes, weight, bias)
    if rows.codes.dtype != torch.float8_e4m3fn or rows.zero is not None:
        raise ValueError(f"codes of rows are {rows.codes.dtype}; needs float8_e4m3fn without zeros")
    check_after(after, len(rows.codes), weight.out_features)
    version = OP.version(choose(rows.codes, weight.out_features, backend).backend)
    return version.multiply(rows, weight, None if bias is None else bias.float(), after, dtype)


def choose(x: Tensor, out_features: int, backend: str | None = None) -> Choice:
    """The version that multiplies rows x [m, k] with a weight [n, k], and why. Raises RuntimeError as `fp8_linear` does."""

    def obstacle(version: str) -> str | None:
        return custom_op.float8_obstacle(x.device, x.shape[1])

    def prefer() -> Choice:
        if measured.version(x.device) != "triton":
            return Choice("simulate", "simulate: GPUs alone multiply 8-bit floats")
        shape = ("m", len(x)), ("k", x.shape[1]), ("n", out_features)
        return measured.on_gpu(OP.name, x.device, shape, obstacle("triton"))

    return OP.choose(backend, obstacle=obstacle, prefer=prefer)


def _check(x: Tensor, weight: Float8Weight, bias: Tensor | None) -> None:
    k, n = weight.in_features, weight.out_features
    if x.dim() != 2 or x.shape[1] != k or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}; needs floating point [m, {k}]")
    check_bias(bias, n)
    if x.device != weight.codes.device:
        raise ValueError(
            f"x is on {x.device}, the weight on {weight.codes.device}; move one of them"
        )


callable_module(__name__)
