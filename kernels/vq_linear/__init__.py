"""Linear layer from packed codes and a codebook of vectors: y = x decode(codes, codebook)^T + bias.

The weight is never whole: codes of some output rows are decoded, multiplied, and let go, so that a call
needs what is stored and one tile. Who calls often and has the memory keeps `decode`'s result instead.
``simulate`` is the definition, in float32; ``triton`` decodes on a GPU, next to the matrix unit.
"""

from __future__ import annotations

from torch import Tensor

from ..dispatch import Choice, Op, callable_module
from . import custom_op, reference
from .weight import VectorWeight

__all__ = ["OP", "VectorWeight", "choose", "decode", "vq_linear"]

OP = Op(__name__, {"simulate": "reference", "triton": "custom_op"}, tolerance=1e-6)


def choose(
    x: Tensor, weight: VectorWeight, backend: str | None = None, act_bits: int | None = None
) -> Choice:
    """The version that `vq_linear` takes for these arguments, and why. Raises RuntimeError as it does."""
    return OP.choose(
        backend, obstacle=lambda version: custom_op.obstacle(weight, act_bits, x.device)
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
    With `act_bits` (2..8), rows and codebook are rounded to integers, whose products are the same everywhere.
    Raises ValueError where x or bias do not fit the weight, RuntimeError if `backend` cannot do it.
    """
    if x.dim() != 2 or x.shape[1] != weight.in_features or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; needs floating point [m, {weight.in_features}]"
        )
    if bias is not None and tuple(bias.shape) != (weight.out_features,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; needs ({weight.out_features},)")
    version = OP.version(choose(x, weight, backend, act_bits).backend)
    return version.linear(x, weight, bias, act_bits)


callable_module(__name__)
