"""Learning in a piece of work: what it will take, said before anything starts; where it is kept; its progress.

A learning is kept in a study under the name of its run: its log for good, its state until the run is stored.
Work that was stopped, asked for again, goes on from that state to the same result.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from quant.cards import methods
from quant.schema import Plan, Sample, Sampler

from . import machine
from .command_lines import as_command
from .events import Stage
from .measurements import LEARNING
from .planning import plan_bits
from .projection import of_model
from .records import device_name
from .request import CompareRequest, RunRequest
from .terminal import duration

if TYPE_CHECKING:
    from quant.learning import Learning
    from quant.learning import Progress as Learned
    from quant.models import Model
    from quant.seen import Seen

    from .study import Study
    from .watch import Watch

_PLACE = re.compile(r"[a-z_]+\.(\d+)(?:\.([\w.]+))?")
RECENT = 60  # steps by which the time left is told


class Foreseen(NamedTuple):
    """What the learnings of a piece of work will take."""

    worth: Mapping[str, int]  # by run, in denoiser steps
    text: str  # for people; empty where nothing is learned


def stage_label(stage: str) -> str:
    """`block 3 · ff: rounding`, `assignments: block 3`; other stages as they are called."""
    return _PLACE.sub(lambda m: f"block {m[1]}{f' · {m[2]}' if m[2] else ''}", stage)


def part_of(stage: str) -> str:
    """What a stage works on: `block 3 · ff`; the stage itself where it works on everything."""
    found = _PLACE.search(stage)
    return stage_label(found[0]) if found else stage


def learns(method: str) -> bool:
    """Whether a method learns, step by step."""
    return methods()[method].learns


def foreseen(
    runs: Mapping[str, RunRequest],
    model: Model,
    samples: Sequence[Sample],
    sampler: Sampler,
    batch_size: int,
    watch: Watch,
) -> Foreseen:
    """Say what learning will take, and stop where memory does not do.

    Args:
        runs: by name; of those that learn nothing, nothing is said.
        model: is evaluated once, where there is anything to learn.
        samples: the first tells the rows of the inputs.
        sampler: of the runs.
        batch_size: of the runs.
        watch: is told.
    """
    worth, said = {}, []
    for name, job in runs.items():
        if not learns(job.method):
            continue
        asked = [(job.method, job.options)]
        made = of_model(model, samples[:1], sampler, asked, batch_size)
        own, title = made["methods"][job.method], methods()[job.method].title
        memory = own["memory_bytes"]
        smaller = f"options that take less (dqviz methods {job.method}), e.g. fewer samples"
        machine.require_memory(memory, f"learning with {title}", smaller)
        worth[name] = max(1, round(own["seconds"] * sampler.steps / made["seconds"]))
        said.append(f"{title} about {duration(own['seconds'])} and {machine.mib(memory)} of memory")
    text = f"predicted for this machine: {', then '.join(said)}" if said else ""
    if text:
        watch.stage("learning", f"to be learned; {text}")
    return Foreseen(worth, text)


def command_of(model: str, method: str, bits: str, options: Mapping[str, object], out: Path) -> str:
    """The command line of a comparison in which a method learns."""
    request = CompareRequest.parse(
        {"model": model, "methods": [method], "bits": bits, "options": options, "out": out}, "the page"
    )  # fmt: skip
    return as_command(request)


def begun(
    study: Study,
    name: str,
    job: RunRequest,
    label: str,
    watch: Watch,
    worth: int,
    model: Model,
    plan: Plan,
    sampler: Sampler,
    seen: Seen | None,
) -> Learning:
    """Where a run learns: listed in its study, told to `watch` as a stage of `worth` denoiser steps.

    Args:
        study: keeps log and state.
        name: of the run.
        job: its method and options.
        label: of the run, for people.
        watch: is told; may stop it.
        worth: as `foreseen` says.
        model: that it learns for.
        plan: of the run.
        sampler: of the run.
        seen: what it learns from, where its card names statistics.
    """
    from quant.learning import Learning

    bits = str(job.bits) if job.bits else plan_bits(plan)
    manifest = {
        "method": job.method,
        "bits": bits,
        "options": job.options,
        "model": model.fingerprint,
        "plan": plan.fingerprint,
        "sampler": sampler.to_json(),
        "calibration": None if seen is None else dict(seen.manifest),
    }
    record = {"label": label, "evidence": "simulated", "device": device_name(model)}
    study.begin_learning(name, manifest, method=job.method, bits=bits, record=record)
    watch.stage("learn", f"learning: {label}", worth, name, apart=True)
    return Learning(study.folder / LEARNING, name, _follower(watch, label, worth))


def _follower(watch: Watch, label: str, worth: int) -> Callable[[Learned], None]:
    """Turns a learner's steps into progress: its stage's name, and the time that its own pace leaves."""
    recent: deque[tuple[float, int]] = deque([(time.perf_counter(), -1)], RECENT + 1)
    stage = ""

    def told(progress: Learned) -> None:
        nonlocal stage
        if progress.stage != stage:
            stage = progress.stage
            watch.emit(Stage("learn", f"learning: {label}, {stage_label(stage)}"))
        now = time.perf_counter()
        if recent[0][1] < 0:  # where it goes on: what was done before says nothing of the pace
            recent[0] = (recent[0][0], progress.step - 1)
        recent.append((now, progress.step))
        began, first = recent[0]
        pace = (now - began) / (progress.step - first)
        left = pace * (progress.steps - progress.step)
        watch.advance_to(progress.step / progress.steps, worth, left)

    return told
