"""Tiles of `int_linear` and `fp8_linear`: a few for each shape, in turn with the default one; ratio = its time / this tile's.

A row is one tile. `tables` makes of them what the launchers read (`kernels/int_linear/tiles.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from kernels.int_linear.tiles import TRIED, WORTH, table

from .. import linears
from ..checks import output_checked
from ..linears import W8A8, Linear, Problem, Variant
from ..place import Place
from ..stage import Row, Stage
from ..timing import interleaved, line, ratio
from .correctness import linear_check

STAGE = Stage(
    order=30,
    title="Tiles",
    what="a dozen tiles of `int_linear` and of `fp8_linear` for each shape, beside the default one",
    minutes=5,
)
SECONDS = 10
RUNS = 50
MOST_ROWS = 16384  # m; larger ones take the tile of these
TOGETHER = 5  # shapes: those of a block


def rows(place: Place) -> Iterator[Row]:
    """The first tile on every shape, then the shapes of a block after another's: all tiles at 8 bits, then at 4, then of 8-bit floats."""
    shapes = [(layer, m) for layer, m in linears.layers(place) if m <= MOST_ROWS]
    tiles = TRIED[:2] if place.dry else TRIED
    first = [(W8A8, *shape, tiles[0]) for shape in shapes]
    others = [
        (variant, *shape, tile)
        for start in range(0, len(shapes), TOGETHER)
        for variant in linears.coded(place)
        for shape in shapes[start : start + TOGETHER]
        for tile in tiles
    ]
    found: dict[str, Row] = {}
    for variant, layer, m, tile in (*first, *others):
        key = f"tuning/{variant.name}, {layer.name}, m={m}, {named(tile)}"
        found.setdefault(key, Row(key, SECONDS, partial(tried, place, variant, layer, m, tile)))
    yield from found.values()


def named(tile: Mapping[str, int]) -> str:
    """128x64, 4 warps, 4 stages."""
    said = f"{tile['BM']}x{tile['BN']}, {tile['num_warps']} warps, {tile['num_stages']} stages"
    return f"{said}, {tile['maxnreg']} registers" if "maxnreg" in tile else said


def tried(
    place: Place, variant: Variant, layer: Linear, m: int, tile: Mapping[str, int]
) -> dict[str, Any]:
    """One tile beside the default."""
    doubt = place.doubt(linear_check(variant, layer.after))
    if doubt is not None:
        return {"left_out": {variant.name: doubt}}
    problem = Problem.of(place, layer, m)
    given = linears.arguments(place, problem, variant, m, layer.k)
    if place.dry:
        default = this = linears.ours(given)
    else:
        launch = getattr(import_module(f"kernels.{variant.op}.triton_impl"), variant.op)
        default, this = (partial(launch, *given, tile=t) for t in ({}, dict(tile)))
    shape = {"m": m, "k": layer.k, "n": layer.n, "after": layer.after}
    kind = {"packed": variant.bits <= 4, "group": variant.group}
    kind = kind if variant.op == "int_linear" else {}
    found = {"op": variant.op, "shape": shape, "kind": kind, "tile": dict(tile)}
    try:
        on_cpu = linears.first_rows(given)
        checked = output_checked(variant.op, this()[: len(on_cpu[0])], linears.ours(on_cpu)())
    except Exception as error:  # registers and shared memory run out in many manners
        place.synchronize()
        return {**found, "error": line(error)}
    if not checked["right"]:
        return {**found, "checked": checked, "error": "its numbers are wrong"}
    times = interleaved(place, {"default": default, "tile": this}, 2 if place.dry else RUNS)
    return {**found, "checked": checked, "times": times, "ratio": ratio(times, "default", "tile")}


def tables(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By the name of a table: the best tile of every shape and kind that gains by one, as the launchers read them."""
    best: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
    for row in rows:
        if not row["key"].startswith("tuning/") or (row.get("ratio") or 0) < WORTH:
            continue
        entry = {**row["shape"], **row["kind"], "tile": row["tile"], "ratio": row["ratio"]}
        kind = tuple({**row["shape"], **row["kind"]}.items())
        own = best.setdefault(table(row["op"]), {})
        if kind not in own or entry["ratio"] > own[kind]["ratio"]:
            own[kind] = entry
    return {name: list(own.values()) for name, own in best.items()}
