"""Single operations beside their peers, the most valuable shapes first; ratio = time of the peer / ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from kernels import bitpack
from kernels.vq_linear import VectorWeight

from .. import linears, passes
from ..checks import output_checked
from ..linears import W8A8, Linear, Problem
from ..passes import Pass
from ..peak import share_of_peak
from ..place import Place
from ..stage import Row, Stage
from ..timing import RUNS, interleaved, ratio
from .correctness import linear_check, pass_check

STAGE = Stage(
    order=20,
    title="Operations",
    what="`int_linear`, on row codes and with weights alone, and `fp8_linear` beside cuBLAS, `torch._int_mm` and `torch._scaled_mm`; the passes before it beside PyTorch's operations and a copy; `vq_linear` beside decoding first",
    minutes=8,
    needs=("wrapt", "pydantic"),
)
SECONDS = 25
CODEBOOKS = ((256, 4), (64, 2))  # vectors and their length
CODEBOOK_LAYERS = ((linears.QKV, 4096), (linears.FC2, 4096), (linears.QKV, 16))


def rows(place: Place) -> Iterator[Row]:
    """Products of 32 samples and the passes before them, then other shapes in turn, codebooks among them."""
    products = [
        Row(f"ops/int_linear, {layer.name}, m={m}", SECONDS, partial(product, place, layer, m))
        for layer, m in linears.layers(place)
    ]
    before = [
        Row(f"ops/{g.name}, {g.b}x{g.t}x{g.c}", SECONDS, partial(before_layer, place, g))
        for g in passes.passes(place)
    ]
    books = [
        Row(
            f"ops/vq_linear, {c} vectors of {d}, {layer.name}, m={m}",
            SECONDS,
            partial(codebook, place, layer, m, c, d),
        )
        for layer, m in (linears.TINY[:1] if place.dry else CODEBOOK_LAYERS)
        for c, d in CODEBOOKS
    ]
    yield from (*products[:5], *before[:5], *products[5:11], *books, *before[5:], *products[11:])


def product(place: Place, layer: Linear, m: int) -> dict[str, Any]:
    """Every variant of ours, and the peers."""
    place.forget()
    problem = Problem.of(place, layer, m)
    ways: dict[str, Callable[[], object]] = {}
    checked: dict[str, Any] = {}
    out: dict[str, str] = {}
    w8a8 = None
    variants = (*linears.coded(place), *linears.WEIGHT_ONLY)
    for variant in variants:
        doubt = place.doubt(linear_check(variant, layer.after))
        if doubt is not None:
            out[variant.name] = doubt
            continue
        given = linears.arguments(place, problem, variant, m, layer.k)
        w8a8 = given if variant == W8A8 else w8a8
        found = first_rows_checked(variant.op, given)
        checked[variant.name] = found
        if not found["right"]:
            out[variant.name] = "its numbers are wrong at this shape"
            continue
        ways[variant.name] = linears.ours(given)
    bf16 = linears.floating(place, problem, m, layer.k)
    ways["cuBLAS bf16"] = bf16
    ways["compiled bf16"] = place.compiled(bf16)
    given = w8a8 or linears.arguments(place, problem, W8A8, m, layer.k)
    for name, rows_first in (("_int_mm, compiled", False), ("_int_mm [k, n], compiled", True)):
        ways[name] = place.compiled(linears.int_mm(given, problem, rows_first))
    if not (place.dry or place.lacks_floats):  # the CPU has no such product
        fp8 = linears.scaled_mm(place, problem, m, layer.k)
        ways["_scaled_mm fp8, compiled"] = place.compiled(fp8)
    times = interleaved(place, ways, runs_of(place))
    names = [variant.name for variant in variants]
    return {
        "shape": {"m": m, "k": layer.k, "n": layer.n, "after": layer.after},
        "times": times,
        "left_out": out,
        "checked": checked,
        "ratios": ratios(times, names),
        "share_of_peak": share_of_peak(place, times, m, layer.k, layer.n),
    }


def first_rows_checked(op: str, given: tuple[Any, ...]) -> dict[str, Any]:
    """The first rows of this very product, against float64."""
    on_cpu = linears.first_rows(given)
    count = len(on_cpu[0])
    return output_checked(op, linears.ours(given)()[:count], linears.ours(on_cpu)())


def before_layer(place: Place, given: Pass) -> dict[str, Any]:
    """A pass over memory, the same in PyTorch's operations, and a copy of as many bytes."""
    place.forget()
    values = passes.arguments(place, given)
    ways: dict[str, Callable[[], object]] = {}
    out = {}
    doubt = place.doubt(pass_check(given))
    if doubt is None:
        ways["ours"] = passes.ours(given, values)
        if given.variant:
            plain = passes.not_rotated(given, values)
            ways["ours, not rotated"] = passes.ours(given, plain)
    else:
        out["ours"] = doubt
    chain = passes.chain(given, values)
    if chain is not None:
        ways |= {"eager": chain, "compiled": place.compiled(chain)}
    ways["copy"] = passes.copy(place, given)
    times = interleaved(place, ways, runs_of(place))
    moved = 3 * given.b * given.t * given.c
    return {
        "shape": {"b": given.b, "t": given.t, "c": given.c},
        "times": times,
        "left_out": out,
        "ratios": ratios(times, ["ours"]),  # over "copy": the share of its bandwidth
        "bytes_per_second": {
            name: round(moved / (1e-6 * t["median_us"]))
            for name, t in times.items()
            if "median_us" in t
        },
    }


def codebook(place: Place, layer: Linear, m: int, c: int, d: int) -> dict[str, Any]:
    """A product straight from codes into a codebook, beside decoding first, a weight that is kept whole, and W8A8."""
    place.forget()
    packed = bitpack.pack(place.integers(0, c, layer.n, layer.k // d, dtype=torch.uint8), (c - 1).bit_length())  # fmt: skip
    weight = VectorWeight(packed, place.normal(c, d, dtype=torch.float32), layer.k)
    x = place.normal(m, layer.k)
    ways: dict[str, Callable[[], object]] = {}
    out, checked = {}, {}
    backend = "simulate" if place.dry else "triton"
    if backend not in kernels.vq_linear.OP.versions:
        out["ours"] = "it has no Triton version"
    else:
        ours = partial(kernels.vq_linear, x, weight, None, backend)
        checked["ours"] = codebook_checked(ours(), x, weight)
        if checked["ours"]["right"]:
            ways["ours"] = ours
        else:
            out["ours"] = "its numbers are wrong at this shape"
    values = kernels.vq_linear.decode(weight).to(x.dtype)
    ways["decoded, then cuBLAS bf16"] = lambda: F.linear(
        x, kernels.vq_linear.decode(weight).to(x.dtype)
    )
    ways["cuBLAS bf16"] = lambda: F.linear(x, values)
    doubt = place.doubt(linear_check(W8A8, ""))
    if doubt is None:
        problem = Problem.of(place, layer._replace(after=""), m)
        ways["w8a8"] = linears.ours(linears.arguments(place, problem, W8A8, m, layer.k))
    else:
        out["w8a8"] = doubt
    times = interleaved(place, ways, runs_of(place))
    return {
        "shape": {"m": m, "k": layer.k, "n": layer.n, "vectors": c, "of": d},
        "times": times,
        "left_out": out,
        "checked": checked,
        "ratios": ratios(times, ["ours"]),
    }


def codebook_checked(y: Tensor, x: Tensor, weight: VectorWeight) -> dict[str, Any]:
    """The first rows against float64, with the codebook in x's dtype, in which it is multiplied."""
    rounded = VectorWeight(weight.packed, weight.codebook.to(x.dtype).float(), weight.in_features)
    values = kernels.vq_linear.decode(rounded).double().cpu()
    first = slice(0, linears.CHECKED_ROWS)
    return output_checked("vq_linear", y[first], (x[first].double().cpu() @ values.T).to(x.dtype))


def ratios(times: Mapping[str, Mapping[str, Any]], ours: list[str]) -> dict[str, dict[str, float]]:
    """Of each of ours, by peer: time of the peer / ours."""
    return {
        name: {
            peer: found
            for peer in times
            if peer != name and (found := ratio(times, peer, name)) is not None
        }
        for name in ours
        if name in times
    }


def runs_of(place: Place) -> int:
    """A dry run's times mean nothing."""
    return 2 if place.dry else RUNS
