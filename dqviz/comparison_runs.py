"""The runs of one comparison: each drawn from the same seeds, judged against full precision, traced, and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.cards import methods
from quant.schema import Plan, Recipe

from .candidates import compute_as_asked, load_candidate
from .events import RunFinished
from .learnings import begun, learns
from .measurements import LEARNING
from .planning import RowCount, plan_bits, transforms_of
from .preparation import FULL_PRECISION, Drawn, Task
from .records import arithmetic, bytes_of, device_name, foreign_bytes, marked, scope_record, timing
from .request import RunRequest
from .resumption import load_generation, save_generation
from .sharing import sharing_record
from .study import NewRun
from .watch import to_uint8

if TYPE_CHECKING:
    from torch import nn

    from quant.generation import Generation
    from quant.learning import Learning
    from quant.seen import Seen


def reference_run(task: Task, stored: bool) -> Drawn:
    """Full precision: as it was kept when the comparison was stopped, else drawn now."""
    kept = task.kept if stored else None
    generation = None if kept is None else load_generation(kept, task.samples, task.sampler)
    if generation is not None:
        task.watch.skip(task.steps)
        return Drawn(replace(generation, trajectory=None), _head(generation, task.traced), 0.0, 1)
    before = f", before learning; {task.learning.text}" if task.learning.text else ""
    task.watch.stage("draw", f"full precision{before}", task.steps, task.reference)
    drawn = _draw(task, None)
    if task.kept is not None:
        save_generation(task.kept, replace(drawn.all, trajectory=drawn.head.trajectory))
    if not stored:
        _store_reference(task, drawn)
    return drawn


def _head(generation: Generation, count: int) -> Generation:
    """The first samples of a generation; the trajectory is of those alone."""
    return replace(
        generation,
        samples=generation.samples[:count],
        images=generation.images[:count],
        latents=generation.latents[:count],
    )


def _draw(task: Task, transformer: nn.Module | None) -> Drawn:
    """Draw every sample; the first few with their trajectory."""
    import torch

    from quant.generation import generate

    traced, others = task.samples[: task.traced], task.samples[task.traced :]
    with RowCount(transformer) as counted:
        parts = [
            generate(
                task.model,
                samples,
                task.sampler,
                transformer=transformer,
                batch_size=task.request.batch_size,
                record=samples is traced,
                on_step=task.watch.on_step,
            )
            for samples in (traced, others)
            if samples
        ]
    whole = replace(
        parts[0],
        samples=task.samples,
        images=torch.cat([p.images for p in parts]),
        latents=torch.cat([p.latents for p in parts]),
        seconds=sum(p.seconds for p in parts),
        trajectory=None,
    )
    seconds = max(0.0, whole.seconds - task.watch.overhead) / len(task.samples)
    return Drawn(whole, parts[0], seconds, counted.rows)


def _store_reference(task: Task, drawn: Drawn) -> None:
    from quant.evaluate import evaluate_alone

    metrics = evaluate_alone(drawn.all, task.classifier, task.model.classes).to_json()
    record = {
        "name": task.reference,
        **marked(task.model, "Full precision"),
        "method": FULL_PRECISION,
        "bits": None,
        "plan": None,
        "options": {},
        **metrics,
        **timing(drawn.seconds_per_sample, arithmetic(task.model.transformer, drawn.rows)),
        **bytes_of(task.model, task.shared, {}, {}),
        "device": device_name(task.model),
        "dtype": str(task.model.dtype).removeprefix("torch."),
        "scope": {"quantized": [], "kept": {}, "why": {}},
    }
    _store(task, record, drawn, None, None, {})


def quantized_run(
    task: Task, name: str, job: RunRequest, plan: Plan, seen: Seen | None, reference: Drawn
) -> None:
    """Quantize, draw, judge, trace and store one run of a method."""
    from quant.quantization import quantize
    from quant.residency import hold

    label = f"{methods()[job.method].title} {job.bits or 'plan'}"
    if plan.attention is not None:
        label += f", {plan.attention} attention"
    learning = _learning(task, name, job, plan, label, seen) if learns(job.method) else None
    if learning is None:
        task.watch.stage("quantize", f"quantizing: {label}", run=name)
    quantized = quantize(
        task.model,
        job.method,
        plan,
        job.options,
        seen,
        backend=task.request.backend,
        similarity=task.similarity,
        learning=learning,
        on_site=lambda done, total: task.watch.check(),
    )
    plan = quantized.plan  # the method may have given sites formats of its own
    hold(quantized.transformer, task.request.residency)
    task.watch.stage("draw", label, task.steps, name)
    drawn = _draw(task, quantized.transformer)
    computed = arithmetic(quantized.transformer, drawn.rows)
    record = {
        "name": name,
        **marked(task.model, label),
        "method": job.method,
        "bits": str(job.bits) if job.bits else plan_bits(plan),
        "plan": plan.fingerprint,
        "options": quantized.options,
        **_judged(task, reference, drawn),
        **timing(drawn.seconds_per_sample, computed),
        **bytes_of(task.model, task.shared, plan.sites, transforms_of(quantized.transformer)),
        "device": device_name(task.model),
        "dtype": str(task.model.dtype).removeprefix("torch."),
        "scope": scope_record(quantized.scope.quantized, quantized.scope.kept, computed),
        "choices": quantized.notes,
        "attention": plan.attention,
        "sharing": sharing_record(
            quantized.sharing, task.similarity, task.model, task.sampler, task.samples
        ),
    }
    if learning is not None:
        record["learning"] = f"{LEARNING}/{name}.jsonl"
    if quantized.sharing is not None and "why" in record["sharing"]:
        task.warnings.append(f"{name}: {record['sharing']['why']}")
    drift = _trace(task, name, reference, drawn, quantized.transformer)
    manifest = None if seen is None or not methods()[job.method].needs else seen.manifest
    _store(task, record, drawn, plan, drift, job.options, manifest)
    if learning is not None:
        learning.discard_state()


def _learning(
    task: Task, name: str, job: RunRequest, plan: Plan, label: str, seen: Seen | None
) -> Learning:
    """Where a run learns, and whom it tells."""
    worth, watch = task.learning.worth[name], task.watch
    return begun(task.study, name, job, label, watch, worth, task.model, plan, task.sampler, seen)


def foreign_run(task: Task, name: str, path: Path, reference: Drawn) -> None:
    """Load somebody's checkpoint, draw, judge, trace and store it."""
    from quant.sharing import sharing_of

    task.watch.stage("load", f"loading candidate {path}", run=name)
    candidate = load_candidate(path, task.model)
    compute_as_asked(candidate, task.request)
    task.watch.stage("draw", f"candidate {path.name}", task.steps, name)
    drawn = _draw(task, candidate.transformer)
    computed = arithmetic(candidate.transformer, drawn.rows, candidate.made_by)
    plan = candidate.plan
    record = {
        "name": name,
        **marked(task.model, path.resolve().name),
        "method": candidate.method,
        "bits": None if plan is None else plan_bits(plan),
        "plan": None if plan is None else plan.fingerprint,
        "options": candidate.options,
        "made_by": candidate.made_by,
        "path": str(path),
        **_judged(task, reference, drawn),
        **timing(drawn.seconds_per_sample, computed),
        **foreign_bytes(task.model, task.shared, candidate),
        "device": device_name(task.model),
        "dtype": str(task.model.dtype).removeprefix("torch."),
        "scope": scope_record(candidate.quantized, candidate.kept, computed),
        "attention": None if plan is None else plan.attention,
        "sharing": sharing_record(
            sharing_of(candidate.transformer), None, task.model, task.sampler, task.samples
        ),
    }
    drift = _trace(task, name, reference, drawn, candidate.transformer)
    _store(task, record, drawn, plan, drift, {"candidate": str(path)})


def _judged(task: Task, reference: Drawn, drawn: Drawn) -> dict[str, Any]:
    from quant.evaluate import evaluate

    found = evaluate(reference.all, drawn.all, task.classifier, task.model.classes)
    return found.to_json()


def _trace(
    task: Task, name: str, reference: Drawn, drawn: Drawn, transformer: nn.Module
) -> dict[str, Any]:
    """Error along the trajectory of the first samples."""
    from quant.drift import drift

    steps = task.traced * task.sampler.steps
    task.watch.stage("trace", f"tracing the error of {name} over the steps", steps, name)
    found = drift(
        task.model,
        reference.head,
        drawn.head,
        transformer,
        batch_size=task.request.batch_size,
        on_step=lambda done, total: task.watch.advance_to(done / total, steps),
    )
    return {"seeds": [s.seed for s in reference.head.samples], **found.to_json()}


def _store(
    task: Task,
    record: Mapping[str, Any],
    drawn: Drawn,
    plan: Plan | None,
    drift: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
) -> None:
    recipe = Recipe(
        model=task.model.ref,
        **task.model.origin,
        outliers=task.model.outliers,
        method=record["method"],
        bits=record["bits"],
        plan=None if plan is None else plan.fingerprint,
        options=dict(options),
        calibration=None if calibration is None else dict(calibration),
        sampler=task.sampler,
        samples=task.samples,
    )
    run = NewRun(
        name=record["name"],
        record={**record, "recipe": recipe.fingerprint},
        recipe=recipe.to_json(),
        seeds=[s.seed for s in task.samples],
        images=to_uint8(drawn.all.images),
        plan=None if plan is None else (plan.fingerprint, plan.to_json()),
        drift=drift,
        per_sample={
            key: value["per_sample"]
            for key, value in record.items()
            if isinstance(value, Mapping) and "per_sample" in value
        },
    )
    stored = task.study.add_run(task.comparison, run)
    task.records.append(stored)
    task.watch.emit(RunFinished(stored))
