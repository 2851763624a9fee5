"""Full precision beside each method and each foreign checkpoint, from the same seeds, into a study.

One call is one comparison: draw full precision; calibrate; quantize, draw, judge and trace every
run; climb the yardstick ladder; pair the runs. Each finished run is stored at once, so that what a
cancelled comparison had finished stays. One with a key can be resumed: full precision's floating
point results are kept until it is done, so that what is left is judged against the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.errors import Cancelled
from quant.schema import Sample, Sampler
from quant.sources import check_source

from .candidates import check_candidate, check_loras, check_outliers
from .comparison_runs import foreign_run, quantized_run, reference_run
from .events import Done, OnEvent
from .learnings import foreseen, learns
from .planning import needs_statistics, watched_statistics
from .preparation import Drawn, Task, prepare
from .records import pairs
from .report import write_report
from .request import CompareRequest, check_request
from .sharing import needs_similarity, similarity_steps, watched_similarity
from .studies import writable
from .study import Study
from .study_folder import MANIFEST, check_folder, default_folder
from .watch import Watch

if TYPE_CHECKING:
    from quant.models import Model
    from quant.seen import Seen

LADDER_COST = 8  # generations that a ladder costs, about


def compare(
    request: CompareRequest,
    on_event: OnEvent | None = None,
    cancelled: Callable[[], bool] | None = None,
    *,
    previews: bool = True,
    key: str | None = None,
) -> dict[str, Any]:
    """Make the runs that are asked for and return what `Study.result` reads back.

    Args:
        request: what to compare; checked before anything is written.
        on_event: told about stages, progress, previews, finished runs and the end.
        cancelled: asked after every denoising step.
        previews: whether to decode pictures while they are drawn (costs up to 10 % of the time).
        key: names this comparison; one that was stopped continues when the key is given again.

    Raises BadInput or EnvironmentFault before a study is written to; Cancelled once finished runs
    are stored.
    """
    check_source(request.source)
    jobs = check_request(request)
    folder = writable(request.out or default_folder(request.model, request.outliers, request.loras))
    check_folder(folder)
    done = None if key is None else _done(folder, key)
    if done is not None:
        return done
    for path in request.candidates:
        described = check_candidate(path)
        check_outliers(path, described, request.outliers)
        check_loras(path, described, request.loras or ())
    watch = Watch(on_event, cancelled, previews)
    watch.stage("load", f"loading {request.model}")
    task = prepare(request, jobs, folder, watch, key)
    try:
        _run(task)
    except BaseException as error:
        stopped = isinstance(error, Cancelled | KeyboardInterrupt)
        _close(task, "cancelled" if stopped else "failed")
        if isinstance(error, Cancelled):
            raise Cancelled(
                f"cancelled; {len(task.records)} finished runs stay in {folder}"
            ) from None
        raise
    result = task.study.result(task.comparison)
    watch.finish()
    watch.emit(Done(result))
    return result


def _done(folder: Path, key: str) -> dict[str, Any] | None:
    """The result of the comparison of that key when it is complete already."""
    if not (folder / MANIFEST).is_file():
        return None
    study = Study.open(folder)
    number = study.comparison_of(key)
    result = None if number is None else study.result(number)
    return result if result is not None and result["status"] == "done" else None


def _run(task: Task) -> None:
    """All stages in order."""
    watch, request = task.watch, task.request
    calibrated = needs_statistics([job.method for _, job, _ in task.runs])
    traced = task.traced * task.sampler.steps
    calibration = len(task.calibration) * task.sampler.steps if calibrated else 0
    ladder = task.ladder_samples * task.sampler.steps * LADDER_COST if request.ladder else 0
    runs = len(task.runs) + len(task.foreign)
    alike = needs_similarity([job for _, job, _ in task.runs])
    compared = similarity_steps(*_calibration_of(task)) if alike else 0
    jobs = {name: job for name, job, _ in task.runs}
    batch = request.batch_size
    task.learning = foreseen(jobs, task.model, task.samples, task.sampler, batch, watch)
    learning = sum(task.learning.worth.values())
    watch.plan(task.steps * (runs + 1) + traced * runs + calibration + compared + learning + ladder)

    finished = {record["name"] for record in task.records}
    reference = reference_run(task, stored=task.reference in finished)
    watch.skip((task.steps + traced) * len(finished - {task.reference}))
    watch.skip(sum(worth for name, worth in task.learning.worth.items() if name in finished))
    seen = _calibrate(task, calibration) if calibrated else None
    if alike:
        model, samples, sampler, folder = _calibration_of(task)
        task.similarity = watched_similarity(
            model, samples, sampler, request.batch_size, watch, folder
        )
    for name, job, plan in task.runs:
        if name not in finished:
            quantized_run(task, name, job, plan, seen, reference)
    for name, path in task.foreign:
        if name not in finished:
            foreign_run(task, name, path, reference)
    if request.ladder:
        task.ladder = _climb(task, reference, ladder)
    _close(task, "done")
    if task.kept is not None:
        task.kept.unlink(missing_ok=True)


def _calibrate(task: Task, steps: int) -> Seen:
    return watched_statistics(
        task.model,
        task.calibration,
        task.sampler,
        task.request.batch_size,
        task.study.folder,
        task.watch,
        steps,
        [(job.method, job.options) for _, job, _ in task.runs if not learns(job.method)],
    )


def _calibration_of(task: Task) -> tuple[Model, tuple[Sample, ...], Sampler, Path]:
    """What the similarity of the guidance branches is measured from, and where it is kept."""
    return task.model, task.calibration, task.sampler, task.study.folder


def _climb(task: Task, reference: Drawn, steps: int) -> list[dict[str, Any]]:
    from quant.ladder import ladder

    task.watch.stage("ladder", "yardstick ladder", steps, "ladder")
    rungs = ladder(
        task.model,
        task.samples,
        task.sampler,
        reference.all,
        max_samples=task.ladder_samples,
        batch_size=task.request.batch_size,
        on_step=lambda done, total, title: task.watch.advance_to(done / total, steps),
    )
    return [rung.to_json() for rung in rungs]


def _close(task: Task, status: str) -> None:
    """Write down how it ended, and the report of what there is."""
    from quant.ladder import lossless

    notes = {
        "warnings": task.warnings,
        "lossless": [r["name"] for r in task.records[1:] if lossless(r, task.ladder)],
    }
    task.study.finish(task.comparison, status, pairs(task.records[1:]), task.ladder, notes)
    if task.records:
        write_report(task.study, task.comparison)
