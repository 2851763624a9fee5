"""What learning takes on a model that cannot be learned on here, from steps on one block of its width.

    seconds = B (sum of what every k-means takes + sum over stages of steps x seconds of one)

One block of DiT-XL/2's width with random weights takes a few steps of every stage, of which the fastest counts;
B = 28 of them, one after another or at once, take B times as long. What a whole network shares (embedders, the head, the sampler) is
counted with the block. Captures of TaQ-DiT's units are left out: their rows are few here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from quant.cards import load_method, methods
from quant.clustering import AT_ONCE, STAGE
from quant.learning import Asked
from quant.method_options import parse_options
from quant.plans import uniform_plan
from quant.schema import parse_bits
from quant.site_groups import groups_of

from .one_block import one_block

BLOCKS = 28
TIMED = 4  # steps of a stage
FEW: dict[str, dict[str, Any]] = {  # beside the preset: as little as has every stage
    "vq4dit": {"trajectories": 1, "steps": 2 * TIMED, "deadline": 0.5, "iterations": 2 * AT_ONCE},
    "taqdit": {"iterations": TIMED, "samples": 4, "steps": 2},
}


def projected(key: str, bits: str, preset: str = "paper") -> dict[str, Any]:
    """Seconds of a stage's step on one block, how many there are, and what that comes to on all blocks."""
    model, card = one_block(), methods()[key]
    whole = parse_options(key, {"preset": preset})
    chosen = whole.model_copy(update=FEW[key])
    plan = uniform_plan(model, parse_bits(bits), also=card.also)
    plan, groups = groups_of(model, key, plan, chosen, None)
    learner = load_method(key).learner(Asked(model, plan, groups, None, chosen, 0))
    took: dict[str, list[float]] = {}
    for k in range(learner.steps):
        stage, began = learner.stage, time.perf_counter()
        learner.step(k)
        took.setdefault(stage, []).append(time.perf_counter() - began)
    stages = list(_codebooks(took, whole) if key == "vq4dit" else _units(took, whole))
    seconds = BLOCKS * sum(stage["seconds"] * stage["steps"] for stage in stages)
    return {"method": key, "bits": bits, "preset": preset, "stages": stages, "seconds": seconds}


def _codebooks(took: dict[str, list[float]], whole: Any) -> Iterator[dict[str, Any]]:
    """k-means site by site, two steps of each here; then all sites at once."""
    more = -(-whole.iterations // AT_ONCE) - 1
    firsts, others = took[STAGE][::2], took[STAGE][1::2]
    yield {"stage": f"{STAGE}, with its seeds", "seconds": sum(firsts), "steps": 1}
    yield {"stage": f"{STAGE}, {AT_ONCE} iterations", "seconds": sum(others), "steps": more}
    steps = whole.trajectories * whole.steps
    assigning = round(whole.deadline * steps)
    for stage, count in (("assignments", assigning), ("codebooks", steps - assigning)):
        yield {"stage": stage, "seconds": _fastest(took[stage]), "steps": count}


def _units(took: dict[str, list[float]], whole: Any) -> Iterator[dict[str, Any]]:
    """Every unit's iterations, as those of its longest stage."""
    by_unit: dict[str, list[float]] = {}
    for stage, seconds in took.items():
        unit, _, what = stage.partition(": ")
        name = unit.rpartition(".")[2]
        if what not in ("", "ranges") and len(seconds) > len(by_unit.get(name, ())):
            by_unit[name] = seconds
    for unit, seconds in by_unit.items():
        yield {"stage": f"{unit}, one iteration", "seconds": _fastest(seconds), "steps": whole.iterations}  # fmt: skip


def _fastest(seconds: list[float]) -> float:
    """What else the machine does makes a step slower, never faster."""
    return min(seconds)
