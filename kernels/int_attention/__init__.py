"""Attention with int8 queries and keys, softmax in float32, values in 16 bits; also one map for two halves of values.

Formulas are in `reference.py`. No mask: attentions of images to themselves need none. On a GPU the scores stay in
registers; K is read twice before (its mean, its codes), and Q's rows are rounded where they are loaded.
"""

from __future__ import annotations

from torch import Tensor

from .. import measured
from ..dispatch import Choice, Op, callable_module
from . import custom_op

OP = Op(__name__, {"simulate": "reference", "triton": "custom_op"}, tolerance=3e-6)


def choose(q: Tensor, backend: str | None = None, keys: int | None = None) -> Choice:
    """The version that `int_attention` takes for q [b, h, t, d] and so many keys, and why. Raises RuntimeError as it does.

    keys: as many as queries, unless said. ``auto`` goes by times of a map for its own values; for those of two halves
    the definition multiplies the scores twice.
    """

    def prefer() -> Choice:
        (b, h, t, d), reason = q.shape, custom_op.obstacle(q)
        if reason is None and q.dtype.itemsize != 2:
            reason = f"heads in {str(q.dtype).removeprefix('torch.')} were not measured, those in 16 bit are"
        tokens = ("queries", t), ("keys", t if keys is None else keys)
        shape = ("samples", b), ("heads", h), *tokens
        kind = measured.Kind((("channels", d),))
        return measured.on_gpu(OP.name, q.device, shape, reason, kind)

    on_gpu = measured.version(q.device) == "triton"
    return OP.choose(
        backend,
        obstacle=lambda backend: custom_op.obstacle(q),
        prefer=prefer if on_gpu else None,
    )


def int_attention(q: Tensor, k: Tensor, v: Tensor, backend: str | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of int8 rows of q [b, h, t, d] and of k [b, h, t', d] without its mean.

    v [b, h, t', d] gives y [b, h, t, d], in its dtype. With v [2 b, h, t', d] both halves take the one map of q
    and k, and y is [2 b, h, t, d]. A row of q with nan or inf gives nan; one in k makes its whole head nan.
    Raises ValueError for shapes and dtypes that do not belong together, RuntimeError if the backend cannot do it.
    """
    _check(q, k, v)
    return OP.version(choose(q, backend, k.shape[2]).backend).attention(q, k, v)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4 or not x.is_floating_point() or x.dtype != q.dtype:
            raise ValueError(
                f"{name} is {x.dtype} of shape {tuple(x.shape)}; needs q, k and v of one floating-point dtype, "
                "[b, h, tokens, d] each"
            )
    b, h, _, d = q.shape
    keys = k.shape[2]
    if not keys or not d or k.shape != (b, h, keys, d):
        raise ValueError(
            f"k has shape {tuple(k.shape)}; needs ({b}, {h}, keys, {d}), at least one key of at least one channel"
        )
    if v.shape not in ((b, h, keys, d), (2 * b, h, keys, d)):
        raise ValueError(
            f"v has shape {tuple(v.shape)}; needs {(b, h, keys, d)}, or {(2 * b, h, keys, d)} for one map of two halves"
        )


callable_module(__name__)
