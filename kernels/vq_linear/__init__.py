"""Linear layer from packed codes and a codebook of vectors: y = x decode(codes, codebook)^T + bias.

The weight is never whole: codes of some output rows are decoded, multiplied, and let go, so that a call
needs what is stored and one tile. Who calls often and has the memory keeps `decode`'s result instead.
``simulate`` is the definition, in float32; ``triton`` decodes on a GPU, next to the matrix unit. With rows of integers and a codebook
in int8 both add the same integers. `ExpandedWeight` is for who keeps those whole: `int_linear` multiplies it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import Choice, Op, callable_module
from ..int_linear import After, Branch, check_after, check_bias
from ..int_linear.branch import check_branch
from ..int_linear.reference import finished
from ..quantize_rows import RowCodes
from . import custom_op, reference
from .expanded import ExpandedWeight, codes_of, first_of_equals
from .weight import VectorWeight, rounded

__all__ = [
    "OP",
    "ExpandedWeight",
    "VectorWeight",
    "choose",
    "codes_of",
    "decode",
    "first_of_equals",
    "multiply",
    "rounded",
    "vq_linear",
]

OP = Op(__name__, {"simulate": "reference", "triton": "custom_op"}, tolerance=1e-6)


def choose(
    x: Tensor,
    weight: VectorWeight,
    backend: str | None = None,
    act_bits: int | None = None,
    act_symmetric: bool = True,
) -> Choice:
    """The version that `vq_linear` takes for these arguments, and why. Raises RuntimeError as it does."""
    return OP.choose(
        backend,
        obstacle=lambda version: custom_op.obstacle(weight, act_bits, x.device, act_symmetric),
    )


def decode(weight: VectorWeight) -> Tensor:
    """The whole weight, float32 [n, k]."""
    return reference.decode(weight)


def vq_linear(
    x: Tensor,
    weight: VectorWeight,
    bias: Tensor | None = None,
    backend: str | None = None,
    act_bits: int | None = None,
) -> Tensor:
    """x float [m, k] -> y [m, n] in x's dtype, from the packed codes; sums are float32.

    Inside, the definition is float32; ``triton`` multiplies in x's dtype, to which it rounds the codebook.
    With `act_bits` (2..8), rows are rounded to integers, and a codebook in floating point to int8; sums are the same everywhere.
    Raises ValueError where x or bias do not fit the weight, RuntimeError if `backend` cannot do it.
    """
    if x.dim() != 2 or x.shape[1] != weight.in_features or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; needs floating point [m, {weight.in_features}]"
        )
    check_bias(bias, weight.out_features)
    version = OP.version(choose(x, weight, backend, act_bits).backend)
    return version.linear(x, weight, bias, act_bits)


def multiply(
    rows: RowCodes,
    weight: VectorWeight,
    bias: Tensor | None = None,
    act_bits: int = 8,
    backend: str | None = None,
    after: After = None,
    dtype: torch.dtype = torch.float32,
    branch: Branch | None = None,
) -> Tensor:
    """The product with rows of `act_bits` bits that were quantized elsewhere; y [m, n] in `dtype`.

    A codebook in floating point is rounded to int8. What comes `after`, and a `branch`, are passes of their own.
    Raises as `vq_linear` does.
    """
    codes, (m, n) = rows.codes, (len(rows.codes), weight.out_features)
    if codes.dim() != 2 or codes.shape[1] != weight.in_features:
        raise ValueError(
            f"codes of rows have shape {tuple(codes.shape)}; needs (m, {weight.in_features})"
        )
    if codes.dtype not in (torch.float32, torch.int8):
        raise ValueError(f"codes of rows are {codes.dtype}; needs integers in float32 or int8")
    check_bias(bias, weight.out_features)
    check_after(after, m, n)
    check_branch(branch, m, n)
    symmetric = rows.zero is None
    version = OP.version(choose(codes, weight, backend, act_bits, symmetric).backend)
    alone = after is None and branch is None
    y = version.multiply(rows, weight, bias, dtype if alone else torch.float32)
    return y if alone else finished(y, after, dtype, branch)


callable_module(__name__)
