"""Plans that are drawn: those that predictions are held against, costs beside a plan, and its verification."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from quant.intervals import bootstrap
from quant.loss_calibration import Calibration, Verified
from quant.random_plans import DESIGN, random_plans
from quant.schema import Plan, fingerprint

from ..drawing import samples_of
from ..planning import load, needs_statistics, statistics_file, watched_statistics
from ..study import Study
from .task import Chosen, Task, solved

if TYPE_CHECKING:
    from quant.models import Model
    from quant.plan_loss import PlanLoss


@dataclass(frozen=True)
class Drawing:
    """The model, and what plans lose on the seeds of calibrations and of the verification."""

    task: Task
    model: Model
    trial: PlanLoss
    final: PlanLoss | None

    def loss(self, of: PlanLoss, plan: Plan, what: str) -> np.ndarray:
        """Of every sample; from the study where the plan was drawn on these samples."""
        from ..records import device_name

        task, blueprint = self.task, self.task.posed.blueprint
        key = fingerprint(
            {
                "plan": plan.fingerprint,
                "method": blueprint.method,
                "options": blueprint.options,
                "samples": [sample.to_json() for sample in of.samples],
                "sampler": blueprint.sampler.to_json(),
                "dtype": str(self.model.dtype),
            }
        )
        held = task.study.plan_loss(key)
        if held is None:
            task.watch.stage("draw", what, of.steps * (1 if of.begun else 2), "plan")
            began = time.perf_counter()
            losses = of.of(plan)
            held = {
                "per_sample": [float(v) for v in losses],
                "seeds": [sample.seed for sample in of.samples],
                "seconds": time.perf_counter() - began,
                "device": device_name(self.model),
                "evidence": "simulated",
            }
            task.study.add_plan_loss(key, (plan.fingerprint, plan.to_json()), held)
        else:
            task.watch.skip(of.steps)
        return np.array(held["per_sample"])


def opened(task: Task) -> Drawing:
    """Load the model, and say how much there is to draw."""
    from quant.plan_loss import PlanLoss
    from quant.schema import Outliers
    from quant.sources import check_source

    from ..records import describe, versions

    request, swept, watch = task.request, task.swept, task.watch
    check_source(swept.source)
    watch.stage("load", f"loading {swept.model}")
    outliers = None if swept.outliers is None else Outliers.parse(swept.outliers.to_json(), "study")
    model = load(swept.source, request.device, request.dtype, outliers=outliers)
    Study.open_or_create(task.study.folder, describe(model), versions())  # the same weights
    seen = _statistics(task, model)

    def loss(seeds: Sequence[int]) -> PlanLoss:
        return PlanLoss(
            model,
            task.posed.blueprint.method,
            task.posed.blueprint.options,
            seen,
            samples_of(model, swept, seeds),
            task.posed.blueprint.sampler,
            batch_size=request.batch_size,
            before=lambda _: watch.advance(1),
        )

    trial = loss(request.plan_seeds)
    final = loss(request.verify_seeds) if request.verify else None
    splits = request.scan * len(request.budgets)
    plans = request.calibrate + 2 * request.refine + splits
    total = trial.steps * (plans + bool(plans)) + 2 * (final.steps if final is not None else 0)
    watch.plan(watch.done + total + _refining(task, trial))
    return Drawing(task, model, trial, final)


def _refining(task: Task, trial: PlanLoss) -> int:
    """What taking costs anew is worth, in steps: a drawing, an evaluation, and a backward pass for each direction."""
    return trial.steps * (4 + 2 * task.swept.probes) if task.request.refine else 0


def _statistics(task: Task, model: Model) -> Any:
    """The method's calibration, as the sweep had it."""
    if not needs_statistics([task.posed.blueprint.method]):
        return None
    from quant.calibration import manifest_of
    from quant.seen_layout import CalibrationOptions

    samples = samples_of(model, task.swept, task.swept.calibration_seeds)
    sampler = task.posed.blueprint.sampler
    manifest = manifest_of(model, samples, sampler, CalibrationOptions())
    held = statistics_file(task.study.folder, manifest) is not None
    steps = 0 if held else len(samples) * sampler.steps
    task.watch.plan(steps)
    return watched_statistics(
        model,
        samples,
        sampler,
        task.request.batch_size,
        task.study.folder,
        task.watch,
        steps,
    )


def calibrate(task: Task, drawing: Drawing | None) -> dict[str, Any] | None:
    """Verified plans of this table: drawn now, or those that the study has."""
    from quant.plan_loss import typical

    key, metric, count = task.row["key"], task.loose.metric, task.request.calibrate
    held = task.study.calibrations(key, metric)
    if not count or drawing is None:
        return held[-1] if held else None
    plans = []
    for n, chosen in enumerate(random_plans(task.loose.problem, count), start=1):
        what = f"drawing plan {n} of {count} that predictions are held against"
        losses = drawing.loss(drawing.trial, task.loose.plan(chosen), what)
        plans.append(
            Verified(
                cost=task.loose.cost(chosen),
                measured=typical(losses),
                per_sample=tuple(float(v) for v in losses),
            )
        )
    made = Calibration(plans=tuple(plans))
    made.check()
    record = {
        "calibration": made.to_json(),
        "seeds": list(task.request.plan_seeds),
        "design": DESIGN,
    }
    if record not in held:
        task.study.add_calibration(key, metric, record)
    return record


def refine(task: Task, drawing: Drawing, first: Chosen) -> tuple[Chosen, dict[str, Any]]:
    """Solve once more with the costs that choices have beside the plan; the better of both, as drawn.

    Both are judged by the typical loss: a few samples, of which one may turn into another picture.
    """
    from quant.plan_loss import typical
    from quant.sensitivity.around import around
    from quant.sensitivity.task import Settings

    request, own, watch = task.request, task.posed, task.watch
    before = drawing.loss(drawing.trial, first.plan, "drawing the solved plan")
    worth = _refining(task, drawing.trial)
    watch.stage("refine", "taking costs anew beside the solved plan", worth, "plan")
    neighbours = own.neighbours(first.allocation.chosen)
    found = around(
        drawing.trial,
        first.plan,
        list(neighbours),
        settings=Settings(batch_size=request.batch_size, probes=task.swept.probes),
        on_progress=lambda done, total: watch.advance_to(done / max(total, 1), worth),
    )
    changes = {neighbours[cell]: found.typical(cell) for cell in found.changes}
    problem = own.relinearised(first.allocation.chosen, changes)
    second = solved(task, replace(own, problem=problem))
    after = drawing.loss(drawing.trial, second.plan, "drawing the plan that was solved anew")
    better = typical(after) < typical(before)
    told = {
        "before": typical(before),
        "after": typical(after),
        "taken": better,
        "seeds": list(request.plan_seeds),
        "evidence": "simulated",
    }
    return (second if better else first), told


def verify(drawing: Drawing, chosen: Chosen) -> dict[str, Any]:
    """The measured loss on seeds that nothing was chosen by."""
    from quant.plan_loss import logarithms

    assert drawing.final is not None
    losses = drawing.loss(drawing.final, chosen.plan, "verifying the plan")
    logs = bootstrap(logarithms(losses))
    ends = {name: getattr(logs, name) for name in ("mean", "lo", "hi")}
    return {
        **bootstrap(losses).to_json(),
        "typical": {name: None if v is None else float(np.exp(v)) for name, v in ends.items()},
        "per_sample": [float(v) for v in losses],
        "seeds": list(drawing.task.request.verify_seeds),
        "evidence": "simulated",
    }
