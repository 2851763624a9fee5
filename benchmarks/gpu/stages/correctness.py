"""First, whether the numbers are right: what is wrong here is not timed later.

Each op runs its own `CALLS`, and at the widths that are timed, on a ragged number of rows. Its numbers are held against the
definition on the CPU in float64; then the compiled call (fullgraph) and the replayed CUDA graph have to give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import kernels

from .. import linears, passes
from ..checks import equal, output_checked
from ..linears import Linear, Variant
from ..passes import Pass
from ..place import Place
from ..stage import Row, Stage
from ..timing import line

STAGE = Stage(
    order=0,
    title="Correctness",
    what="every op against its definition in float64, at widths that are timed and on its own examples; compiled and as a CUDA graph it has to give the same bits",
    minutes=4,
)
RAGGED = 301  # rows
SECONDS = 8


def rows(place: Place) -> Iterator[Row]:
    """Widths first, whose times wait for it."""
    yield from products(place, linears.coded(place))
    for kind in dict.fromkeys((given.op, given.variant) for given in passes.passes(place)):
        given = next(g for g in passes.passes(place) if (g.op, g.variant) == kind)
        yield Row(f"correctness/{pass_check(given)}", SECONDS, partial(pass_right, place, given))
    yield from products(place, linears.WEIGHT_ONLY)
    for op in kernels.ops():
        if "triton" in getattr(kernels, op).OP.versions:
            for name in import_module(f"kernels.{op}.cases").CALLS:
                if place.lacks_floats and (op == "fp8_linear" or "e4m3" in name):
                    continue  # the header of the run says why
                key = f"correctness/{op}, {name}"
                yield Row(key, SECONDS, partial(call_right, place, op, name))


def products(place: Place, variants: Iterable[Variant]) -> Iterator[Row]:
    """Every variant with all that can come after."""
    k, n = (192, 96) if place.dry else (1152, 1152)
    for variant in variants:
        for after in ("gate", "", "gelu"):
            layer = Linear("", k, n, after)
            key = f"correctness/{linear_check(variant, after)}"
            yield Row(key, SECONDS, partial(linear_right, place, variant, layer))


def linear_check(variant: Variant, after: str) -> str:
    """Name of the check that times of this kind of product wait for."""
    return f"{variant.op}, {variant.name}{f', {after}' if after else ''}"


def pass_check(given: Pass) -> str:
    """Likewise of a pass."""
    return given.name


def linear_right(place: Place, variant: Variant, layer: Linear) -> dict[str, Any]:
    """A product at a width that is timed, all its rows."""
    m = 6 if place.dry else RAGGED
    problem = linears.Problem.of(place, layer, m)
    given = linears.arguments(place, problem, variant, m, layer.k)
    on_cpu = tuple(v.cpu() if isinstance(v, Tensor) else v for v in given)
    return examined(place, variant.op, linears.ours(given), linears.ours(on_cpu))


def pass_right(place: Place, given: Pass) -> dict[str, Any]:
    """Row codes at a width that is timed: of one sample, all its rows."""
    ragged = given._replace(b=1, t=6 if place.dry else RAGGED)
    values = passes.arguments(place, ragged)
    truth = partial(passes.definition, ragged, values)
    return examined(place, given.op, passes.ours(ragged, values), truth)


def call_right(place: Place, op: str, name: str) -> dict[str, Any]:
    """One of the op's own examples."""
    given = import_module(f"kernels.{op}.cases").CALLS[name]()
    import_module(f"kernels.{op}.custom_op")
    function = getattr(torch.ops.dqviz, op).default
    there = tuple(v.to(place.device) if isinstance(v, Tensor) else v for v in given)
    return examined(place, op, partial(function, *there), partial(function, *given))


def examined(
    place: Place, op: str, ours: Callable[[], Any], definition: Callable[[], Any]
) -> dict[str, Any]:
    """Whether it is `right`, by how much; then what compiling and recording it gives: "equal", or what went wrong."""
    eager = ours()
    found = output_checked(op, eager, definition())
    ways = {"compiled": lambda: place.compiled(ours)(), "graph": lambda: place.graphed(ours)()}
    for name, way in ways.items():
        if name == "graph" and place.dry:
            found[name] = "none in a dry run"
            continue
        try:
            again = way()
            place.synchronize()
        except Exception as error:  # a compiler's errors are of no one kind
            found[name] = line(error)
            place.synchronize()
        else:
            found[name] = "equal" if equal(again, eager) else "other bits"
    return found
