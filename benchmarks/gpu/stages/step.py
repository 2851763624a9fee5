"""The whole step: one way to evaluate the network in each row, in turn with compiled and with eager bfloat16.

Ours runs launch by launch and as a CUDA graph; compiled ways as a graph too, so that nobody is slower by launching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.int_attention.cases import CALLS

from ..linears import W4A8, W8A8
from ..networks import INT_ATTENTION, Built, Network, Scene, builders, torchao_is_here
from ..place import Place
from ..stage import Row, Stage
from ..timing import interleaved, line, ratio
from .correctness import linear_check

STAGE = Stage(
    order=10,
    title="Whole step",
    what="a whole step of DiT-XL/2 on random weights: ours at W8A8, also with int8 attention, and W4A8, torchao's int8 and fp8; each in turn with eager and compiled bfloat16",
    minutes=7,
    needs=("diffusers", "pydantic", "wrapt", "psutil"),
)
SCENES = (Scene(256, 32), Scene(256, 8), Scene(512, 8), Scene(512, 32))
TINY = (Scene(32, 2),)
WAYS = (
    *("w8a8", "w4a8", INT_ATTENTION),
    *("torchao fp8 row-wise", "torchao int8dq", "bf16 compiled, max-autotune"),
)
BASE, GRAPH = "bf16 compiled", ", CUDA graph"
VARIANTS = {"w8a8": W8A8, "w4a8": W4A8, INT_ATTENTION: W8A8}
WEIGHTY = 512  # pixels from which attention takes enough of a step to time it in int8
RUNS = 20
# Of outputs, relative: far above what rounding makes, far below what a wrong kernel does.
MOST_DIFFERENCE = 0.3


def rows(place: Place) -> Iterator[Row]:
    """Ours first, at every size; the peers; the longest search at last."""
    stands = {scene: Stand(place, scene) for scene in (TINY if place.dry else SCENES)}
    for way in WAYS:
        for stand in stands.values():
            seconds = 150 if "max-autotune" in way else 75
            key = f"step/{stand.scene.name}, {way}"
            if is_timed(way, stand.scene, place):
                yield Row(key, seconds, partial(stand.row, way))


def is_timed(way: str, scene: Scene, place: Place) -> bool:
    """Whether a way is timed at a size: the long search at the first, int8 attention where there is much of it."""
    if "max-autotune" in way:
        return scene == SCENES[0]
    if way == INT_ATTENTION:
        return place.dry or scene.pixels >= WEIGHTY
    return not ("fp8" in way and place.lacks_floats)


def checks(way: str) -> list[str]:
    """Of what the fused blocks of ours call (`quant/fusing.py`), each of which has to be right."""
    linears = [linear_check(VARIANTS[way], after) for after in ("", "gate")]
    attention = [f"int_attention, {name}" for name in CALLS] if way == INT_ATTENTION else []
    return [*linears, "adaln_quantize", "gelu_quantize", "quantize_rows", *attention]


class Stand:
    """A network at one size, with what the others are held against."""

    def __init__(self, place: Place, scene: Scene) -> None:
        self.place, self.scene = place, scene
        self._bases: dict[str, Any] | None = None

    def row(self, way: str) -> dict[str, Any]:
        """Time one way, in turn with bfloat16."""
        doubts = (self.place.doubt(check) for check in (checks(way) if way in VARIANTS else ()))
        if doubt := next(filter(None, doubts), None):
            return {"left_out": {way: doubt}}
        if way.startswith("torchao") and not torchao_is_here():
            return {"left_out": {way: "torchao is not installed"}}
        bases = self._held()
        try:
            return self._timed(way, bases)
        finally:
            if not self.place.dry:
                torch.cuda.empty_cache()

    def _held(self) -> dict[str, Any]:
        if self._bases is None:
            network = Network(self.place, self.scene)
            made = builders(network)
            compiled, said = self._compiled(made[BASE])
            eager = made["bf16"]()
            self._bases = {
                "network": network,
                "calls": {**compiled, "bf16": eager.call},
                "peak": self._peak(eager.call),
                "weights": eager.weight_bytes,
                "output": eager.call().float(),
                "errors": said,
            }
        return self._bases

    def _timed(self, way: str, bases: dict[str, Any]) -> dict[str, Any]:
        network: Network = bases["network"]
        before = self._allocated()
        built = builders(network)[way]()
        difference = _relative(built.call().float(), bases["output"])
        if way in VARIANTS and not difference <= MOST_DIFFERENCE:
            return {"left_out": {way: f"its output differs from bfloat16's by {difference:.3g}"}}
        weights = max(0, self._allocated() - before)
        peak = self._peak(built.call)
        ways, errors = self._with_graph(built, way)
        times = interleaved(
            self.place, {**ways, **bases["calls"]}, 2 if self.place.dry else RUNS, cold=False
        )
        floor = network.floor_seconds(VARIANTS[way].name if way in VARIANTS else None)
        against = [name for name in (f"{BASE}{GRAPH}", BASE, "bf16") if name in times]
        return {
            "scene": self.scene._asdict(),
            "rows": network.rows,
            "times": times,
            "errors": bases["errors"] | errors,
            "ratios": {name: {peer: ratio(times, peer, name) for peer in against} for name in ways},
            "memory": {
                "weights": built.weight_bytes,
                "weights_bf16": bases["weights"],
                "allocated": weights,
                "peak": peak,
                "peak_bf16": bases["peak"],
            },
            "difference": _number(difference),
            "share_of_peak": {
                name: round(1e6 * floor / times[name]["median_us"], 4)
                for name in ways
                if floor is not None and "median_us" in times[name]
            },
            "backend": built.said,
        }

    def _compiled(
        self, make: Callable[[], Built]
    ) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
        """Compiled bfloat16; where it does not compile here, eager alone is what others are held against."""
        try:
            return self._with_graph(make(), BASE)
        except Exception as error:  # a compiler's errors are of no one kind
            self.place.synchronize()
            return {}, {BASE: line(error)}

    def _with_graph(
        self, built: Built, name: str
    ) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
        """The call, and its CUDA graph where it can be recorded; why not, where it cannot."""
        ways: dict[str, Callable[[], object]] = {name: built.call}
        built.call()
        if self.place.dry:
            return ways, {}
        try:
            ways[f"{name}{GRAPH}"] = self.place.graphed(built.call)
            self.place.synchronize()
        except Exception as error:  # recording fails in many manners; a dead device raises below
            self.place.synchronize()
            return {name: built.call}, {f"{name}{GRAPH}": line(error)}
        return ways, {}

    def _allocated(self) -> int:
        return 0 if self.place.dry else torch.cuda.memory_allocated()

    def _peak(self, call: Callable[[], object]) -> int | None:
        """What the allocator holds at most during a call, beyond what was there before; None in a dry run."""
        if self.place.dry:
            return None
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def _relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def _number(value: float) -> float | str:
    return round(value, 5) if value == value else "nan"  # a peer's
