"""LayerNorm, modulation by adaLN, channel scale, rotation, row codes: what stands before q, k, v and fc1.

One pass over x where the parts alone would take four. Formulas are in `reference.py`.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ..dispatch import Op, callable_module, triton_obstacle
from ..hadamard.box import rotation_obstacle
from ..quantize_rows import RowCodes

OP = Op(__name__, {"simulate": "reference", "triton": "custom_op"})


def adaln_quantize(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    bits: int = 8,
    symmetric: bool = True,
    *,
    channel_scale: Tensor | None = None,
    signs: Tensor | None = None,
    eps: float = 1e-6,
    backend: str | None = None,
) -> RowCodes:
    """Codes of `bits` (2..8) bits for the rows of adaLN's output; x float[b, t, c], b t rows.

    shift, scale [b, c] modulate; the output is divided by `channel_scale` [c] and rotated with `signs` [c]
    (+-1), each where it is given. A row with inf or nan gets a scale that is not finite.
    Raises ValueError for shapes that do not belong together, RuntimeError if the backend cannot do it.
    """
    _check(x, shift, scale, channel_scale, signs)
    if not 2 <= bits <= 8:
        raise ValueError(f"bits is {bits}; rows are quantized to 2 to 8 bits")
    version = OP.chosen(backend, obstacle=partial(_obstacle, x, signs))
    return version.quantize(x, shift, scale, channel_scale, signs, bits, symmetric, eps)


def _obstacle(x: Tensor, signs: Tensor | None, version: str) -> str | None:
    rotation = None if signs is None else rotation_obstacle(x.shape[2])
    return rotation or triton_obstacle(x.device, x.shape[2])


def _check(
    x: Tensor, shift: Tensor, scale: Tensor, channel_scale: Tensor | None, signs: Tensor | None
) -> None:
    if x.dim() != 3 or x.shape[2] == 0 or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}; needs floating point [b, t, c] with c > 0"
        )
    b, _, c = x.shape
    for name, t, shape in (
        ("shift", shift, (b, c)),
        ("scale", scale, (b, c)),
        ("channel_scale", channel_scale, (c,)),
        ("signs", signs, (c,)),
    ):
        if t is not None and tuple(t.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(t.shape)}; needs {shape}")


callable_module(__name__)
