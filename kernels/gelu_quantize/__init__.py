"""GELU (tanh) and codes of its output, on scales found row by row or given: what stands before fc2.

Formulas are in `reference.py`.
"""

from __future__ import annotations

from torch import Tensor

from ..dispatch import Op, callable_module, triton_obstacle
from ..quantize_rows import RowCodes

OP = Op(__name__, {"simulate": "reference", "triton": "custom_op"})


def gelu_quantize(
    x: Tensor,
    bits: int = 8,
    symmetric: bool = True,
    *,
    shift: Tensor | None = None,
    migration: Tensor | None = None,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    backend: str | None = None,
) -> RowCodes:
    """Codes of `bits` (2..8) bits for (gelu(x) - shift) / migration; x float[m, c], shift and migration [c].

    With a static `scale` [1] every row takes it, with `zero` [1] too where `symmetric` is False, and what lies
    beyond the range is clipped; without, each row finds its own.
    Raises ValueError for shapes that do not belong together, RuntimeError if the backend cannot do it.
    """
    _check(x, shift, migration, scale, zero)
    if not 2 <= bits <= 8:
        raise ValueError(f"bits is {bits}; rows are quantized to 2 to 8 bits")
    if (zero is not None) != (scale is not None and not symmetric):
        raise ValueError("zero belongs to a static scale that is not symmetric, and to no other")
    version = OP.chosen(backend, obstacle=lambda version: triton_obstacle(x.device, x.shape[1]))
    if scale is None:
        return version.quantize(x, bits, symmetric, shift, migration)
    return version.quantize_statically(x, bits, scale, zero, shift, migration)


def _check(x: Tensor, *rest: Tensor | None) -> None:
    if x.dim() != 2 or x.shape[1] == 0 or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; needs a floating-point matrix [m, c] with c > 0"
        )
    c = x.shape[1]
    for name, t, shape in zip(
        ("shift", "migration", "scale", "zero"), rest, ((c,), (c,), (1,), (1,))
    ):
        if t is not None and tuple(t.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(t.shape)}; needs {shape}")


callable_module(__name__)
