"""Probes into a study: what only one method needs to know, measured beside its calibration.

One call takes the calibration of the study, or records it, and runs every probe of a method
(`quant.probes`) that the study does not hold yet. What is finished is kept, so a stopped call goes on
with the next probe when it is asked for again.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant import cards, probes
from quant.errors import BadInput, unknown
from quant.probes import ProbeCard
from quant.schema import Sample, Sampler, Value, parse_bits
from quant.seen_layout import CalibrationOptions
from quant.sources import check_source

from .command_lines import condition_words, option_words, outlier_words, seeds_text, source_words
from .drawing import sampler_of, samples_of
from .events import Done, OnEvent
from .files import dump
from .planning import load, statistics_file, watched_statistics
from .request import ModelRequest, Names, check_drawing, split_options
from .studies import place, writable
from .study import Study
from .study_folder import check_folder, default_folder
from .watch import Watch

if TYPE_CHECKING:
    from quant.models import Model
    from quant.seen import Seen


class ProbeRequest(ModelRequest):
    """Probes of one method."""

    method: str
    bits: str
    options: dict[str, Any] = {}  # of the method
    only: Names = ()  # keys of probes; empty: all of the method


def check_fields(request: ProbeRequest) -> dict[str, ProbeCard]:
    """What can be told without the engine; returns the cards of the probes to run."""
    if request.method not in cards.methods():
        raise unknown("method", request.method, cards.methods(), "List them: dqviz methods")
    found = probes.list_probes(request.method)
    if not found:
        probed = sorted({m for card in probes.list_probes().values() for m in card.methods})
        raise BadInput(f"method {request.method} has no probes; {', '.join(probed)} have")
    for key in request.only:
        if key not in found:
            raise unknown(f"probe of {request.method}", key, found, f"They are: {', '.join(found)}")
    parse_bits(request.bits)
    check_drawing(request)
    return {key: card for key, card in found.items() if not request.only or key in request.only}


def title(request: ProbeRequest) -> tuple[str, Path]:
    """What a list of jobs calls these probes, and the study folder that they write into."""
    chosen = check_fields(request)
    model = request.model if request.outliers is None else request.outliers.marked(request.model)
    what = ", ".join(chosen) if request.only else "all probes"
    text = f"{model}: {what} of {request.method} {request.bits}"
    return text, place(
        request.out or default_folder(request.model, request.outliers, request.loras)
    )


def as_command(request: ProbeRequest) -> str:
    """The command line that makes these probes again."""
    defaults = ProbeRequest(model="", method="", bits="")
    words = ["dqviz", "probe", request.model, "--method", request.method, "--bits", request.bits]
    words += source_words(request) + condition_words(request)
    words += ["--only", ",".join(request.only)] if request.only else []
    words += option_words(request.options) + outlier_words(request.outliers)
    if request.calibration_seeds != defaults.calibration_seeds:
        words += ["--calibration-seeds", seeds_text(request.calibration_seeds)]
    for name in ("steps", "guidance", "device", "dtype", "batch_size", "out"):
        value = getattr(request, name)
        if value != getattr(defaults, name):
            flag = {"out": "study"}.get(name, name.replace("_", "-"))
            words += [f"--{flag}", str(value)]
    return shlex.join(words)


def probe(
    request: ProbeRequest,
    on_event: OnEvent | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Run the probes of the request into its study and return what is said about them.

    Keys: `study`, `model`, `method`, `bits`, `probes` (of each `name` in the study, `probe`, `title`,
    `file`, `bytes`, `seconds`, `evidence`, `device`, `reused`), `skipped` (probe -> why this model
    has no such thing; one that is asked for by name raises instead), `seconds`, `command`.

    Raises BadInput or EnvironmentFault before anything is measured; Cancelled with the finished
    probes kept.
    """
    check_source(request.source)
    chosen = check_fields(request)
    folder = writable(request.out or default_folder(request.model, request.outliers, request.loras))
    check_folder(folder)
    watch = Watch(on_event, cancelled, previews=False)
    watch.stage("load", f"loading {request.model}")
    began = time.perf_counter()
    task = _prepare(request, folder, watch)
    held = {key: _held(task, key) for key in chosen}
    missing = {key: card for key, card in chosen.items() if held[key] is None}
    seen = _planned_and_calibrated(task, missing)
    done, skipped = [], {}
    for key, card in chosen.items():
        try:
            done.append(held[key] or _run(task, card, seen))
        except BadInput as error:  # the model has no such thing; asked for by name it is an error
            if key in request.only:
                raise
            skipped[key] = str(error)
    result = {
        "study": str(folder),
        "model": task.model.key,
        "method": request.method,
        "bits": task.manifest["bits"],
        "probes": done,
        "skipped": skipped,
        "seconds": time.perf_counter() - began,
        "command": as_command(request),
    }
    watch.finish()
    watch.emit(Done(result))
    return result


@dataclass(frozen=True)
class _Task:
    """Probes under way."""

    request: ProbeRequest
    watch: Watch
    model: Model
    samples: tuple[Sample, ...]
    sampler: Sampler
    options: Value
    study: Study
    manifest: dict[str, Any]  # what all probes are made from

    @property
    def steps(self) -> int:
        """Denoiser steps of the calibration; a probe counts as many."""
        return len(self.samples) * self.sampler.steps


def _prepare(request: ProbeRequest, folder: Path, watch: Watch) -> _Task:
    """Load the model and check all that only it can tell; the study is opened last."""
    from quant.calibration import manifest_of
    from quant.method_options import parse_options

    from .records import describe, versions

    (given,) = split_options((request.method,), request.options)
    options = parse_options(request.method, given)
    model = load(request.source, request.device, request.dtype, outliers=request.outliers)
    samples = samples_of(model, request, request.calibration_seeds)
    sampler = sampler_of(model, request)
    watch.check()
    study = Study.open_or_create(folder, describe(model), versions())
    manifest = {
        "method": request.method,
        "bits": str(parse_bits(request.bits)),
        "method_options": options.to_json(),
        "calibration": manifest_of(model, samples, sampler, CalibrationOptions()),
    }
    return _Task(request, watch, model, samples, sampler, options, study, manifest)


def _held(task: _Task, key: str) -> dict[str, Any] | None:
    """What the study says of this very probe, when it holds it."""
    for row in task.study.probes():
        same = row["probe"] == key and row["manifest"] == task.manifest
        if same and (task.study.folder / row["file"]).is_file():
            return {**row["record"], "name": row["name"], "file": row["file"], "reused": True}
    return None


def _planned_and_calibrated(task: _Task, missing: dict[str, ProbeCard]) -> Seen | None:
    """Say how much there is to do; the statistics, where a missing probe reads them."""
    needed = any(card.needs_statistics for card in missing.values())
    calibration = dict(task.manifest["calibration"])
    recorded = needed and statistics_file(task.study.folder, calibration) is None
    task.watch.plan(task.steps * (len(missing) + recorded))
    if not needed:
        return None
    steps = task.steps if recorded else 0
    return watched_statistics(
        task.model,
        task.samples,
        task.sampler,
        task.request.batch_size,
        task.study.folder,
        task.watch,
        steps,
    )


def _run(task: _Task, card: ProbeCard, seen: Seen | None) -> dict[str, Any]:
    """Measure one probe and keep it."""
    from .records import device_name

    def on_step(done: int, total: int) -> None:
        task.watch.advance_to(done / max(total, 1), task.steps)

    task.watch.stage("probe", f"probing: {card.title}", task.steps, card.key)
    began = time.perf_counter()
    measured = probes.load_probe(card.key).measure(
        task.model,
        seen if card.needs_statistics else None,
        task.sampler,
        task.samples,
        method=task.request.method,
        bits=parse_bits(task.request.bits),
        options=task.options,
        on_step=on_step,
    )
    outliers = task.model.outliers
    record = {
        "probe": card.key,
        "title": card.title,
        "method": task.request.method,
        "bits": task.manifest["bits"],
        "bytes": len(dump(measured).encode()),
        "seconds": time.perf_counter() - began,
        "samples": len(task.samples),
        "steps": task.sampler.steps,
        "outliers": None if outliers is None else outliers.to_json(),
        "device": device_name(task.model),
        "evidence": card.evidence,
        "command": as_command(task.request),
    }
    name = task.study.add_probe(
        f"{task.request.method}-{record['bits']}-{card.key}",
        measured,
        task.manifest,
        probe=card.key,
        method=task.request.method,
        bits=record["bits"],
        record=record,
    )
    return {**record, "name": name, "file": f"probes/{name}.json", "reused": False}
