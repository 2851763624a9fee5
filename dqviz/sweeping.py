"""Sweeps into a study: what rounding single layers, in windows of steps, costs the picture.

One call measures every cell of one tier (`quant.sensitivity`), or goes on where one of the same sweep was
stopped. Cells are on disk as soon as they are found; a finished sweep is one table of the study.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.errors import Cancelled
from quant.schema import fingerprint
from quant.seen_layout import CalibrationOptions
from quant.sensitivity import list_tiers
from quant.sensitivity.floor import floors, noise
from quant.sensitivity.table import flat
from quant.sources import check_source

from .events import Done, OnEvent
from .planning import needs_statistics, statistics_file, watched_statistics
from .preflight import PREFLIGHT, require
from .studies import writable
from .study import Study
from .study_folder import check_folder, default_folder
from .sweep_inputs import Inputs, inputs_of, measure_cells, reads_statistics
from .sweep_log import SweepLog, unfinished
from .sweep_preflight import SweepPreflight, of_request
from .sweep_request import SWEEP_SEEDS, SweepRequest, as_command, check_fields, title
from .terminal import counted
from .watch import Watch

if TYPE_CHECKING:
    from quant.blueprint import Blueprint
    from quant.seen import Seen

__all__ = ["SWEEP_SEEDS", "SweepRequest", "as_command", "check_fields", "sweep", "title"]

PARTS = 1000  # of a sweep, for its progress


def sweep(
    request: SweepRequest,
    on_event: OnEvent | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Measure every cell of the request into its study and return what is said about them.

    Keys: `study`, `sensitivity` (its name there), `file`, `tier`, `method`, `bits`, `windows`, `sites`,
    `metrics`, `cells`, `rows`, `seconds` (of all workers together), `denoiser_calls` (evaluations of the network,
    each of one sample with both guidance branches, over all attempts and workers), `backward_calls`, `naive_calls` (what drawing every cell whole and
    by itself takes), `noise_floor` (for each metric, operand and whether of all steps), `noise` (standard error
    by metric and bits), `groups` (metric group by site), `evidence`, `device`, `samples`, `seeds`, `reused` (it was there
    already), `resumed_cells` and `resumed_samples` (taken over from an attempt that was stopped, the latter by tiers that
    measure all cells at once, in one process), `command`, `request`.

    Raises BadInput or EnvironmentFault before anything is measured; Cancelled with finished cells and batches kept.
    """
    check_source(request.source)
    check_fields(request)
    folder = writable(request.out or default_folder(request.model, request.outliers, request.loras))
    check_folder(folder)
    if request.ray is not None:
        from .spreading import check_cluster

        check_cluster(request.ray)
    watch = Watch(on_event, cancelled, previews=False)
    watch.stage("load", f"loading {request.model}")
    task = _prepare(request, folder, watch)
    held = _held(task)
    if held is None:
        try:
            held = _measure(task)
        except Cancelled:
            raise Cancelled(
                "cancelled; what is finished is kept, and the same sweep goes on from there"
            ) from None
    watch.finish()
    watch.emit(Done(held))
    return held


@dataclass(frozen=True)
class _Task(Inputs):
    """One sweep under way."""

    watch: Watch
    study: Study
    fits: SweepPreflight
    manifest: dict[str, Any]  # equal manifests mean equal tables

    @property
    def key(self) -> str:
        """Fingerprint of the manifest."""
        return fingerprint(self.manifest)


def _prepare(request: SweepRequest, folder: Path, watch: Watch) -> _Task:
    """The inputs, and then the study, which is opened last."""
    from .records import describe, versions

    fits = of_request(request, folder)
    require(fits)
    inputs = inputs_of(request, preflighted=True)
    study = Study.open_or_create(folder, describe(inputs.model), versions())
    task = _Task(**vars(inputs), watch=watch, study=study, fits=fits, manifest={})
    return replace(task, manifest=_manifest(task))


def _manifest(task: _Task) -> dict[str, Any]:
    """What the table is made from: batches, which change no number, are no part of it."""
    from quant.calibration import manifest_of

    model, request = task.model, task.request
    calibration = None
    if reads_statistics(request):
        calibration = manifest_of(model, task.calibration, task.sampler, CalibrationOptions())
    return {
        "model": task.study.manifest["model"]["fingerprint"],
        "weights": task.study.manifest["model"]["weights"],
        "dtype": str(model.dtype),
        "tier": request.tier,
        "sites": list(task.sites),
        "bits": list(request.bits),
        "windows": [window.to_json() for window in task.windows],
        "method": request.method,
        "options": task.options,
        "settings": {k: v for k, v in task.settings.to_json().items() if k != "batch_size"},
        "samples": [sample.to_json() for sample in task.samples],
        "sampler": task.sampler.to_json(),
        "calibration": calibration,
    }


def _held(task: _Task) -> dict[str, Any] | None:
    """What the study says of this very sweep, when it is finished there."""
    for row in task.study.sensitivities():
        whole = row["key"] == task.key and row["status"] == "done"
        if whole and (task.study.folder / row["file"]).is_file():
            return {**row["record"], "study": str(task.study.folder), "reused": True}
    return None


def _measure(task: _Task) -> dict[str, Any]:
    """Measure what is left of the cells, and put the table into the study."""
    from .records import device_name

    request, model, watch = task.request, task.model, task.watch
    watch.stage(PREFLIGHT, task.fits.sentence())
    watch.plan(PARTS)
    seen = _statistics(task)
    card = list_tiers()[request.tier]
    groups = {site.name: site.group for site in model.sites if site.name in set(task.sites)}
    name = task.study.begin_sensitivity(
        f"{request.tier}-{request.method}",
        task.key,
        task.manifest,
        tier=request.tier,
        method=request.method,
        record={"groups": groups, "evidence": card.evidence},
    )
    log = SweepLog(task.study.folder / unfinished(task.key))
    resumed = len(log)
    kept = log.batches if request.ray is None else ()  # a cluster takes over cells alone
    cells = f"{counted(len(task.sites), 'site')} at {', '.join(request.bits)} bits"
    watch.stage("sensitivity", f"measuring {cells}, tier {request.tier}", PARTS, name)
    done = frozenset(row.cell for row in log.rows)
    if request.ray is None:
        tell = partial(_tell, watch)
        measure_cells(task, seen, done, log.add, tell, kept=kept, keep_batch=log.add_batch)
    else:
        from .spreading import spread

        file = None if seen is None else _statistics_file(task)
        spread(task, file, done, log.add, partial(_tell, watch))
    place_of = {cell: i for i, cell in enumerate(task.cells)}
    rows = sorted(log.rows, key=lambda row: place_of[row.cell])
    record = {
        "sensitivity": name,
        "tier": request.tier,
        "method": request.method,
        "bits": list(request.bits),
        "windows": request.windows,
        "sites": len(task.sites),
        "metrics": list(dict.fromkeys(row.metric for row in rows)),
        "cells": len(log),
        "rows": len(rows),
        "seconds": log.total("seconds"),
        "denoiser_calls": int(log.total("evaluations")),
        "backward_calls": int(log.total("backward_calls")),
        "naive_calls": card.ways(request.both_ways)
        * len(log)
        * len(task.samples)
        * task.sampler.steps,
        "noise_floor": [floor.to_json() for floor in floors(rows).values()],
        "noise": {f"{metric} {bits}": value for (metric, bits), value in noise(rows).items()},
        "groups": groups,
        "evidence": card.evidence,
        "device": device_name(model),
        "samples": len(task.samples),
        "seeds": list(request.seeds),
        "resumed_cells": resumed,
        "resumed_samples": sum(len(batch.samples) for batch in kept),
        "outliers": None if model.outliers is None else model.outliers.to_json(),
        "command": as_command(request),
        "request": request.to_json(),
    }
    file = f"sensitivity/{name}.jsonl"
    table, blueprint = flat(rows, groups, card.evidence), _blueprint(task).to_json()
    task.study.end_sensitivity(name, table, blueprint, {**record, "file": file})
    return {**record, "file": file, "study": str(task.study.folder), "reused": False}


def _blueprint(task: _Task) -> Blueprint:
    from quant.drafting import blueprint_of
    from quant.generation import timesteps_of

    return blueprint_of(
        task.model,
        task.request.method,
        task.options,
        task.sites,
        task.request.bits,
        task.windows,
        task.samples[0],
        task.sampler,
        timesteps_of(task.sampler),
    )


def _statistics(task: _Task) -> Seen | None:
    """The calibration, where one is read; recorded first, as a stage of its own, where it is not there."""
    if not reads_statistics(task.request):
        return None
    steps = 0
    if _statistics_file(task) is None:
        steps = len(task.calibration) * task.sampler.steps
        task.watch.plan(PARTS + steps)
    asked = [(task.request.method, task.options)]
    return watched_statistics(
        task.model,
        task.calibration,
        task.sampler,
        task.request.batch_size,
        task.study.folder,
        task.watch,
        steps,
        asked if needs_statistics([task.request.method]) else (),
    )


def _statistics_file(task: _Task) -> Path | None:
    return statistics_file(task.study.folder, task.manifest["calibration"])


def _tell(watch: Watch, done: int, total: int) -> None:
    watch.advance_to(done / max(total, 1), PARTS)
