"""GELU (tanh), rotation, and codes, on scales found row by row or given: what stands before fc2.

Formulas are in `reference.py`.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..dispatch import Op, callable_module, triton_obstacle
from ..hadamard.box import rotation_obstacle
from ..quantize_rows import RowCodes

OP = Op(__name__, {"simulate": "reference", "triton": "custom_op"})


def gelu_quantize(
    x: Tensor,
    bits: int = 8,
    symmetric: bool = True,
    *,
    shift: Tensor | None = None,
    migration: Tensor | None = None,
    signs: Tensor | None = None,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    backend: str | None = None,
) -> RowCodes:
    """Codes of `bits` (2..8) bits for (gelu(x) - shift) / migration; x float[m, c], shift and migration [c].

    With `signs` [c] (+-1) it is rotated after that, as `kernels.hadamard` does. With a static `scale` [1] every row takes it, with `zero` [1] too where `symmetric` is False, and what lies
    beyond the range is clipped; without, each row finds its own. A row with nan shows it: int8 codes, which
    have none, come with the scale nan, also where it is static.
    Raises ValueError for shapes that do not belong together, RuntimeError if the backend cannot do it.
    """
    _check(x, shift, migration, signs, scale, zero)
    if not 2 <= bits <= 8:
        raise ValueError(f"bits is {bits}; rows are quantized to 2 to 8 bits")
    if (zero is not None) != (scale is not None and not symmetric):
        raise ValueError("zero belongs to a static scale that is not symmetric, and to no other")
    if signs is not None and scale is not None:
        raise ValueError("a static scale has no rotation before it; leave signs or scale away")
    version = OP.chosen(backend, obstacle=partial(_obstacle, x, signs))
    if scale is None:
        return version.quantize(x, bits, symmetric, shift, migration, signs)
    return version.quantize_statically(x, bits, scale, zero, shift, migration)


def _obstacle(x: Tensor, signs: Tensor | None, version: str) -> str | None:
    rotation = None if signs is None else rotation_obstacle(x.shape[1])
    return rotation or triton_obstacle(x.device, x.shape[1])


def _check(x: Tensor, *rest: Tensor | None) -> None:
    if x.dim() != 2 or x.shape[1] == 0 or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; needs a floating-point matrix [m, c] with c > 0"
        )
    c = x.shape[1]
    for name, t, shape in zip(
        ("shift", "migration", "signs", "scale", "zero"), rest, ((c,), (c,), (c,), (1,), (1,))
    ):
        if t is not None and tuple(t.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(t.shape)}; needs {shape}")


callable_module(__name__)
