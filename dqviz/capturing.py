"""A capture: statistics of every quantizable input over the steps, into a study.

One call draws full precision once and records while drawing. With a method, the same pass also
records what each of the method's transforms makes of the inputs, and the weights before and after.
A capture that was stopped or killed goes on from its last finished batch when it is asked for again;
one that is complete is not made twice.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant import cards
from quant.errors import BadInput, Cancelled, EnvironmentFault, unknown
from quant.schema import Sample, Sampler, fingerprint, parse_bits
from quant.seen_layout import CalibrationOptions
from quant.sources import check_source

from . import machine
from .command_lines import condition_words, option_words, outlier_words, seeds_text, source_words
from .drawing import sampler_of, samples_of
from .events import Done, OnEvent
from .measurements import CAPTURES
from .planning import load, needs_statistics, statistics_file, watched_statistics
from .preflight import PREFLIGHT, look, require
from .request import (
    CALIBRATION_SEEDS,
    ModelRequest,
    Seeds,
    check_drawing,
    check_seeds,
    split_options,
)
from .studies import place, writable
from .study import Study, faults
from .study_folder import check_folder, default_folder
from .watch import Watch

if TYPE_CHECKING:
    from quant.models import Model
    from quant.stages import Stages

PLAIN = "full-precision"


class CaptureRequest(ModelRequest):
    """One capture."""

    seeds: Seeds = CALIBRATION_SEEDS  # the same that methods are calibrated on
    method: str | None = None  # record what its transforms do, too
    bits: str | None = None
    options: dict[str, Any] = {}  # of the method
    record: CalibrationOptions = CalibrationOptions()


def check_fields(request: CaptureRequest) -> None:
    """What can be told of a request without the engine; raises BadInput."""
    check_seeds(request.seeds)
    check_drawing(request)
    if request.method is None:
        for what, given in (("--bits", request.bits), ("--option", request.options)):
            if given:
                raise BadInput(f"{what} goes with a method; e.g. --method viditq --bits w4a8")
        return
    if request.method not in cards.methods():
        raise unknown("method", request.method, cards.methods(), "List them: dqviz methods")
    if cards.methods()[request.method].learns:
        raise BadInput(
            f"{request.method} learns what it stores, which a capture does not; capture without --method, "
            f"and learn with dqviz compare --method {request.method}"
        )
    if request.bits is None:
        raise BadInput(f"no bits were given for {request.method}; e.g. --bits w4a8")
    parse_bits(request.bits)


def title(request: CaptureRequest) -> tuple[str, Path]:
    """What a list of jobs calls this capture, and the study folder that it writes into."""
    check_fields(request)
    what = "inputs" if request.method is None else f"inputs, {request.method} {request.bits}"
    count = len(request.seeds)
    model = request.model if request.outliers is None else request.outliers.marked(request.model)
    text = f"{model}: capture of {what}, {count} sample{'' if count == 1 else 's'}"
    return text, place(
        request.out or default_folder(request.model, request.outliers, request.loras)
    )


def as_command(request: CaptureRequest) -> str:
    """The command line that makes this capture again."""
    defaults = CaptureRequest(model="")
    words = ["dqviz", "capture", request.model]
    words += source_words(request) + condition_words(request)
    words += option_words(request.options) + outlier_words(request.outliers)
    for name in ("seeds", "calibration_seeds"):
        if getattr(request, name) != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", seeds_text(getattr(request, name))]
    for name in ("steps", "guidance", "method", "bits", "device", "dtype", "batch_size", "out"):
        value = getattr(request, name)
        if value != getattr(defaults, name):
            flag = {"out": "study"}.get(name, name.replace("_", "-"))
            words += [f"--{flag}", str(value)]
    for name, value in request.record.to_json().items():
        if value != getattr(defaults.record, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def capture(
    request: CaptureRequest,
    on_event: OnEvent | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Record statistics into the study of the request and return what is said about them.

    Keys: `study`, `capture` (its name there), `file`, `sites`, `inputs`, `steps`, `branches`,
    `samples`, `stages`, `bytes` of the file, `peak_bytes` of this process while recording,
    `predicted` (upper bounds said before the start), `seconds`, `overhead_ratio` (drawing with
    recording over drawing without), `device`, `evidence`, `reused` (it was there already),
    `resumed_samples` (taken over from an attempt that was stopped), `method`, `bits`, `command`.

    Raises BadInput or EnvironmentFault before anything is recorded; BadInput also for an input that
    is not finite; Cancelled with the finished batches kept.
    """
    check_source(request.source)
    check_fields(request)
    folder = writable(request.out or default_folder(request.model, request.outliers, request.loras))
    check_folder(folder)
    watch = Watch(on_event, cancelled, previews=False)
    watch.stage("load", f"loading {request.model}")
    task = _prepare(request, folder, watch)
    held = _held(task)
    if held is None:
        stages = _stages(task) if request.method else None
        try:
            held = _record(task, stages)
        except Cancelled:
            raise Cancelled(
                "cancelled; finished batches are kept, and the same capture goes on from there"
            ) from None
    watch.finish()
    watch.emit(Done(held))
    return held


@dataclass
class _Task:
    """One capture under way."""

    request: CaptureRequest
    watch: Watch
    model: Model
    samples: tuple[Sample, ...]
    calibration: tuple[Sample, ...]
    sampler: Sampler
    study: Study
    method: dict[str, Any]  # what the manifest says of the method; empty without one
    resumed: int = 0

    @property
    def manifest(self) -> dict[str, Any]:
        """What the capture is made from: equal manifests mean equal statistics."""
        from quant.calibration import manifest_of

        plain = manifest_of(self.model, self.samples, self.sampler, self.request.record)
        return {**plain, **self.method}


def _prepare(request: CaptureRequest, folder: Path, watch: Watch) -> _Task:
    """Load the model and check all that only it can tell; the study is opened last."""
    from quant.sources import locate

    from .records import describe, versions

    method: dict[str, Any] = {}
    if request.method is not None:
        (options,) = split_options((request.method,), request.options)
        method = _method_manifest(request.method, str(request.bits), options)
    located = locate(request.source)
    fits = require(look(request, "capture", located, folder))
    model = load(
        located, request.device, request.dtype, outliers=request.outliers, preflighted=True
    )
    samples = samples_of(model, request, request.seeds)
    calibration = samples_of(model, request, request.calibration_seeds)
    if method:
        method["calibration"] = [s.to_json() for s in calibration]
    sampler = sampler_of(model, request)
    watch.stage(PREFLIGHT, fits.sentence())  # last: bad input is one line
    watch.check()
    study = Study.open_or_create(folder, describe(model), versions())
    return _Task(request, watch, model, samples, calibration, sampler, study, method)


def _method_manifest(method: str, bits: str, options: dict[str, Any]) -> dict[str, Any]:
    from quant.method_options import parse_options

    return {
        "method": method,
        "bits": str(parse_bits(bits)),
        "method_options": parse_options(method, options).to_json(),
    }


def _held(task: _Task) -> dict[str, Any] | None:
    """What the study says of this very capture, when it is complete there."""
    manifest = task.manifest
    for row in task.study.captures():
        if row["manifest"] == manifest and (task.study.folder / row["file"]).is_file():
            _clear(task)
            return {**row["record"], **_placed(task, row["name"]), "reused": True}
    return None


def _aside(task: _Task, what: str) -> Path:
    """A file of an unfinished capture."""
    return task.study.folder / CAPTURES / f".{fingerprint(task.manifest)}.{what}"


def _clear(task: _Task) -> None:
    """Remove what attempts that were killed have left."""
    prefix = _aside(task, "").name
    for left in (task.study.folder / CAPTURES).iterdir():
        if left.name.lstrip(".").startswith(prefix.lstrip(".")):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def _placed(task: _Task, name: str) -> dict[str, Any]:
    return {
        "study": str(task.study.folder),
        "capture": name,
        "file": f"{CAPTURES}/{name}.safetensors",
    }


def _stages(task: _Task) -> Stages:
    """Quantize, to learn which transforms the method gives to which input."""
    from quant.plans import uniform_plan
    from quant.quantization import quantize
    from quant.stages import stages_by_input

    request, model = task.request, task.model
    assert request.method is not None
    assert request.bits is not None
    seen = None
    if needs_statistics([request.method]):
        seen = _calibrated(task)
    task.watch.stage("quantize", f"quantizing: {request.method} {request.bits}")
    plan = uniform_plan(model, parse_bits(request.bits), sampler=task.sampler)
    quantized = quantize(
        model,
        request.method,
        plan,
        task.method["method_options"],
        seen,
        share=False,
        on_site=lambda done, total: task.watch.check(),
    )
    return stages_by_input(quantized.transformer, model.sites, task.method)


def _calibrated(task: _Task) -> Any:
    """Statistics that the method is calibrated with, as a comparison in this study would take them."""
    from quant.calibration import manifest_of

    manifest = manifest_of(task.model, task.calibration, task.sampler, CalibrationOptions())
    steps = len(task.calibration) * task.sampler.steps
    if statistics_file(task.study.folder, manifest) is None:
        task.watch.plan(steps + len(task.samples) * task.sampler.steps)
    else:
        steps = 0
    return watched_statistics(
        task.model,
        task.calibration,
        task.sampler,
        task.request.batch_size,
        task.study.folder,
        task.watch,
        steps,
        [(str(task.request.method), task.method["method_options"])],
    )


def _record(task: _Task, stages: Stages | None) -> dict[str, Any]:
    """Draw and record, and put the file into the study."""
    from quant.calibration import calibrate
    from quant.clock import RecordingClock
    from quant.footprint import footprint, input_shapes
    from quant.stages import weight_statistics

    from .records import device_name

    request, model, sampler, watch = task.request, task.model, task.sampler, task.watch
    began = time.perf_counter()
    shapes = input_shapes(model, task.samples[0], sampler)
    bound = footprint(model, sampler, request.record, shapes, stages, request.batch_size)
    folder = task.study.folder / CAPTURES
    _require(
        bound.memory_bytes, bound.file_bytes + bound.memory_bytes, folder, len(shapes), sampler
    )

    steps = len(task.samples) * sampler.steps
    watch.plan(max(watch.total, steps))
    watch.stage(
        "capture",
        f"recording {len(shapes)} inputs over {sampler.steps} steps of {len(task.samples)} samples; "
        f"predicted at most {machine.mib(bound.file_bytes)} on disk and "
        f"{machine.mib(bound.memory_bytes)} of memory",
        steps,
        PLAIN,
    )

    def resume(samples: int) -> None:
        task.resumed = samples
        watch.advance(samples * sampler.steps)

    clock = RecordingClock()
    finished = _aside(task, "finished")
    with faults(folder), machine.PeakMemory() as memory:
        folder.mkdir(exist_ok=True)
        seen = calibrate(
            model,
            task.samples,
            sampler,
            request.record,
            batch_size=request.batch_size,
            on_step=lambda event: watch.advance(len(event.samples)),
            stages=stages,
            checkpoint=_aside(task, "unfinished"),
            shapes=shapes,
            clock=clock,
            on_resume=resume,
        )
        weights = weight_statistics(model.transformer, model.sites, stages)
        replace(seen, weights=weights).save(finished)
    record = {
        "method": task.method.get("method"),
        "bits": task.method.get("bits"),
        "sites": sum(len(entry["sites"]) for entry in seen.entries),
        "inputs": len(seen.entries),
        "steps": sampler.steps,
        "branches": model.branches(sampler.guidance),
        "samples": len(task.samples),
        "stages": ["input", *seen.stages],
        "bytes": finished.stat().st_size,
        "peak_bytes": memory.peak_bytes,
        "predicted": {"bytes": bound.file_bytes, "memory_bytes": bound.memory_bytes},
        "seconds": time.perf_counter() - began,
        "overhead_ratio": clock.overhead_ratio,
        "outliers": None if model.outliers is None else model.outliers.to_json(),
        "device": device_name(model),
        "evidence": "measured",
        "resumed_samples": task.resumed,
        "command": as_command(request),
    }
    method, bits = record["method"], record["bits"]
    name = task.study.add_capture(
        f"{method}-{bits}" if method else PLAIN,
        finished,
        task.manifest,
        method=method,
        bits=bits,
        record=record,
    )
    _clear(task)
    return {**record, **_placed(task, name), "reused": False}


def _require(memory: int, disk: int, folder: Path, inputs: int, sampler: Sampler) -> None:
    """Stop before the start, with numbers, where there is not enough of something."""
    machine.require_disk(disk, folder)
    free = machine.available_memory()
    if memory > free:
        raise EnvironmentFault(
            f"recording {inputs} inputs over {sampler.steps} steps needs about {machine.mib(memory)} "
            f"of memory and {machine.mib(free)} are free; use fewer --steps, a smaller --batch-size, "
            "or --surface-mib 0"
        )
