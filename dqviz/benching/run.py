"""A benchmark from its request to plain values: a watch that tells the time left, rows, what was left out and why."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from kernels import tables
from kernels.dispatch import triton_obstacle
from kernels.int_linear import cpu, tuned
from quant.errors import EnvironmentFault
from quant.loading import check_device

from .. import machine
from ..events import OnEvent
from ..watch import Watch
from . import float_tiling, floats, heads, rows, stored, tiling, tuning
from .evaluations import evaluated
from .linears import BITS, timed
from .peaks import peaks_of
from .request import BenchRequest, check_fields
from .subject import SPREAD, Layer, Subject, require_memory_for, subject_of

IDLE = 10.0  # largest share of the processor, in per cent, that others may use when a table is made
UNIT = 10**6  # operations that count as one step of progress
WAYS = 2 * len(BITS) + 2  # of a layer, about: ours and peers
WHOLE_WAYS = 6  # of an evaluation
# What makes a table, tells of its rows, and of which shapes it is; tiles first, for the speeds that they give.
TABLES = {
    "cpu": ((tuning, rows.of_table, Subject.layers),),
    "cuda": (
        (tiling, rows.of_tile, Subject.layers),
        (float_tiling, rows.of_tile, Subject.layers),
        (tuning, rows.of_table, Subject.layers),
        (floats, rows.of_table, Subject.layers),
        (heads, rows.of_table, Subject.attentions),
    ),
}


def bench(
    request: BenchRequest,
    on_event: OnEvent | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Time a model's layers and one evaluation; with `tune`, make the table of this device instead.

    Raises BadInput for what cannot be asked, EnvironmentFault where memory does not suffice, or a table is asked of a
    busy machine, before the start or at the end, Cancelled. A table
    is written when all of it is measured, or not at all; those of a GPU's tiles before those of its speeds.
    """
    check_fields(request)
    check_device(request.device)
    kind = "cuda" if request.device != "cpu" and torch.cuda.is_available() else "cpu"
    device, busy = torch.device(kind), machine.busy()
    if request.tune:
        _check_tuning(device, busy)
    watch = Watch(on_event, cancelled, previews=False)
    subject = subject_of(request.model, kind)
    layers = subject.layers(request.batch_size)
    if kind == "cpu":
        _check_memory(request, subject, layers)
    torch.manual_seed(0)
    with torch.inference_mode():
        if request.tune:
            made = _tuned(request, watch, subject, device)
        else:
            made = _timed(request, watch, subject, layers, device)
    return {
        "model": request.model,
        **place(device),
        "busy_percent": busy,
        "date": datetime.date.today().isoformat(),
        "evidence": "measured",
        "runs": request.runs,
        "samples": request.batch_size,
        **made,
        "warnings": _warnings(busy, device),
    }


def place(device: torch.device) -> dict[str, Any]:
    """Which device computes, with what; None for a version of what is not installed."""
    versions = {}
    for name in ("torch", "triton", "torchao", "diffusers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else machine.processor(),
        "kind": tuned.device_name(device),
        "dtype": "bfloat16" if on_gpu else "float32",
        "threads": torch.get_num_threads(),
        "versions": versions,
    }


def _check_tuning(device: torch.device, busy: float) -> None:
    """Stop before anything is measured that could not be kept."""
    _check_idle(busy, "before the start")
    if device.type == "cuda":
        reason = triton_obstacle(device)
    else:
        reason = None if cpu.available() else "this build of torch lacks oneDNN's integer linear"
    if reason is not None:
        raise EnvironmentFault(f"{reason}, so there is nothing to choose; leave --tune away")
    for maker, *_ in TABLES[device.type]:
        stored.check(stored.file(tables.own(), device, maker.TABLE), stored.place(device))


def _check_memory(request: BenchRequest, subject: Subject, layers: Sequence[Layer]) -> None:
    """Stop before anything is measured where memory does not suffice for all of it."""
    times = max(SPREAD) if request.tune else 1
    largest = max(layers, key=lambda layer: layer.memory)
    require_memory_for(largest._replace(m=times * largest.m))
    if not request.tune:
        subject.require_memory(layers)


def _check_idle(busy: float, when: str) -> None:
    """Stop where other work makes times too long for a table."""
    if busy > IDLE:
        raise EnvironmentFault(
            f"other work kept the processor {busy:.0f} % busy {when}, above {IDLE:.0f} %, and such times make no table; wait "
            "until it is idle, or leave --tune away"
        )


def _warnings(busy: float, device: torch.device) -> list[str]:
    found = []
    if busy > IDLE:
        found.append(
            f"other work kept the processor {busy:.0f} % busy before the start: times are too long, ratios uncertain"
        )
    if device.type == "cuda":
        found.append("launches are inside the times of short kernels; make gpu times without them")
    return found


def _timed(
    request: BenchRequest,
    watch: Watch,
    subject: Subject,
    layers: Sequence[Layer],
    device: torch.device,
) -> dict[str, Any]:
    """Every distinct layer, then the whole."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    steps = [WAYS * layer.operations // UNIT + 1 for layer in layers]
    whole = WHOLE_WAYS * sum(x.operations * x.count for x in layers) // UNIT + 1
    watch.plan(sum(steps) + whole)
    peaks = peaks_of(device)
    found, left_out = [], {}
    if device.type == "cpu" and place(device)["versions"]["torchao"] is None:
        left_out["torchao"] = "it is not installed"
    for layer, each in zip(layers, steps, strict=True):
        shape = f"{layer.m} x {layer.k} x {layer.n}"
        watch.stage("bench", f"linear layers, {shape}", each)
        found.append(timed(layer, request.runs, device, dtype, watch.check))
        left_out |= {f"{shape}, {name}": why for name, why in found[-1].left_out.items()}
        watch.advance(each)
    watch.stage("bench", f"one evaluation of {request.model}", whole)
    one = evaluated(subject, request.batch_size, request.runs, device, dtype, watch.check)
    left_out |= {f"evaluation, {name}": why for name, why in one.left_out.items()}
    watch.finish()
    listed = [row for layer in found for row in rows.of_layer(layer, peaks)]
    listed += rows.of_evaluation(one, found, request.batch_size, peaks)
    return {"rows": listed, "left_out": left_out, "peaks": vars(peaks), "tables": []}


def _tuned(
    request: BenchRequest, watch: Watch, subject: Subject, device: torch.device
) -> dict[str, Any]:
    """Every case of every table of the device, each kept at its end; none while other work goes on.

    A table that no case has a row for is not begun; one that is there loses its rows of these cases.
    """
    todo = []
    for maker, told, of in TABLES[device.type]:
        shapes = of(subject, request.batch_size)
        todo.append((maker, told, rows.counts(shapes), maker.cases(shapes, device)))
    watch.plan(sum(case.work // UNIT + 1 for *_, cases in todo for case in cases))
    listed, left_out, paths = [], {}, []
    others = machine.Others()
    for maker, told, counts, cases in todo:
        kept = []
        for case in cases:
            named = {"table": maker.TABLE, **case._asdict()}
            said = ", ".join(f"{name} {value}" for name, value in named.items())
            watch.stage("bench", said, case.work // UNIT + 1)
            row = maker.measure(case, request.runs, device, watch.check)
            if isinstance(row, str):
                left_out[said] = row
            else:
                kept.append(row)
            watch.advance(case.work // UNIT + 1)
        _check_idle(others.percent(), "while it measured")
        path = stored.file(tables.own(), device, maker.TABLE)
        if cases and (kept or path.is_file()):
            paths.append(str(stored.save(path, stored.place(device), cases, kept)))
        listed += [line for row in kept for line in told(maker.TABLE, row, counts)]
    watch.finish()
    return {"rows": listed, "left_out": left_out, "peaks": None, "tables": paths}
