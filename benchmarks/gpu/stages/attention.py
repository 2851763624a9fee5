"""Self-attention with int8 scores beside PyTorch's, at the widths of heads of DiT and PixArt (72), SD3 (64) and Flux (128).

Shapes: q, k, v [b, h, t, d] in bfloat16, views of [b, t, h d] as layers give them; 16 heads, 16384 rows in all. Ours takes
them as they are, so making codes is timed with it. "padded" is PyTorch's attention with heads of 128 channels, zeros among
them, that were padded before. One map for two halves: q and k of half the batch, v of all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.int_attention import custom_op, reference

from ..checks import output_checked
from ..place import Place
from ..stage import Row, Stage
from ..timing import interleaved
from .ops import ratios, runs_of

STAGE = Stage(
    order=25,
    title="Attention",
    what="`int_attention`, alone and with one map for two halves, beside PyTorch's attention with heads as they are and padded to 128",
    minutes=2,
    needs=("wrapt", "pydantic"),
)
SECONDS = 10
PADDED = 128
SHARED = "ours, one map"


class Size(NamedTuple):
    """b samples of t rows; h heads of d channels."""

    b: int
    h: int
    t: int
    d: int


SIZES = tuple(Size(16384 // t, 16, t, d) for t in (1024, 4096, 256) for d in (72, 64, 128))
TINY = (Size(2, 2, 12, 72), Size(2, 1, 9, 128))


def rows(place: Place) -> Iterator[Row]:
    """Heads of 72 first, at the lengths where attention weighs most."""
    for size in TINY if place.dry else SIZES:
        key = f"attention/heads of {size.d}, {size.b}x{size.t}"
        yield Row(key, SECONDS, partial(attention, place, size))


def attention(place: Place, size: Size) -> dict[str, Any]:
    """Ours, where the numbers of one head are right, and PyTorch's."""
    place.forget()
    q, k, v = (_heads(place, size) for _ in range(3))
    half = size.b // 2
    wide = torch.cat(v.chunk(2), dim=-1)  # [b / 2, h, t, 2 d]
    q_padded, k_padded, v_padded = (F.pad(x, (0, PADDED - size.d)) for x in (q, k, v))
    sdpa = partial(F.scaled_dot_product_attention, scale=size.d**-0.5)
    ours: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: custom_op.int_attention(q, k, v),
        SHARED: lambda: custom_op.int_attention(q[:half], k[:half], v),
    }
    ways: dict[str, Callable[[], object]] = {}
    checked, out = {}, {}
    for name, way in ours.items():
        checked[name] = output_checked("int_attention", way()[:1, :, :1], _first_head(q, k, v))
        if checked[name]["right"]:
            ways[name] = way
        else:
            out[name] = "its numbers are wrong at this shape"
    ways["SDPA"] = lambda: sdpa(q, k, v)
    if size.d < PADDED:
        ways["SDPA, padded"] = lambda: sdpa(q_padded, k_padded, v_padded)
    ways["SDPA, one map"] = lambda: sdpa(q[:half], k[:half], wide)
    times = interleaved(place, ways, runs_of(place))
    products = 4 * size.b * size.h * size.t**2 * size.d  # one map for two halves: three quarters
    return {
        "shape": size._asdict(),
        "times": times,
        "left_out": out,
        "checked": checked,
        "ratios": ratios(times, list(ours)),
        "operations_per_second": {
            name: round(products * (0.75 if "one map" in name else 1) / (1e-6 * t["median_us"]))
            for name, t in times.items()
            if "median_us" in t
        },
    }


def _heads(place: Place, size: Size) -> Tensor:
    x = place.normal(size.b, size.t, size.h * size.d)
    return x.unflatten(2, (size.h, size.d)).transpose(1, 2)


def _first_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of the first sample, [1, t, 1, d]: the definition's integers, in float64 on the CPU."""
    q, k, v = (x[:1, :1].cpu() for x in (q, k, v))
    exact = reference.attend(reference.codes(q, k), v.double())
    return exact.transpose(1, 2).to(v.dtype)
