"""Plans under budgets, from a study's table: solved, predicted, and drawn where that is asked for.

    seeds of the sweep, of the method's calibration, of plans that predictions are held against, and of
    verification have no seed in common: a number that is reported was not chosen by.

Without `calibrate`, `refine` and `verify` nothing is loaded but the table. What is drawn is kept plan by plan,
so a stopped call goes on.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import BeforeValidator

from quant.allocation import Allocation, solve
from quant.blueprint import Blueprint
from quant.errors import BadInput, Cancelled, unknown
from quant.intervals import bootstrap
from quant.loss_calibration import FEWEST, Calibration, Prediction, Verified
from quant.mixed_precision import BUDGETS, MB, Posed, posed
from quant.random_plans import random_plans
from quant.roofline import device_of
from quant.schema import Plan, Value, disjoint, fingerprint
from quant.sensitivity.table import rows_of

from .drawing import samples_of
from .events import Done, OnEvent
from .files import write_json
from .planning import load, needs_statistics, statistics_file, watched_statistics
from .request import DEVICES, DTYPES, Names, Seeds, check_seeds, seeds_text
from .studies import place, writable
from .study import Study
from .sweeping import SweepRequest
from .watch import Watch

if TYPE_CHECKING:
    from quant.models import Model
    from quant.plan_loss import PlanLoss

PLAN_SEEDS = tuple(range(300_000, 300_008))
VERIFY_FROM = 400_000  # first seed of a verification
REFINED = "gradient"  # the tier whose costs can be taken anew beside a plan
_TRIES = 4  # solutions, until the file is within the budget by the byte


def _budgets(value: object) -> object:
    """`avg_bits=4` as people write it, or numbers by name."""
    if isinstance(value, Mapping):
        return dict(value)
    found: dict[str, object] = {}
    for text in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
        name, equals, number = str(text).partition("=")
        try:
            found[name.strip()] = float(number) if equals else None
        except ValueError:
            found[name.strip()] = None
        if found[name.strip()] is None:
            raise BadInput(f"budget '{text}' is not understood; write NAME=NUMBER, e.g. avg_bits=4")
    return found


class AllocateRequest(Value):
    """One plan to choose."""

    study: Path
    sensitivity: str | None = None  # name of a finished sweep; None: the latest
    metric: str | None = (
        None  # whose values are the costs; None: the latent error, if the table has it
    )
    budgets: Annotated[dict[str, float], BeforeValidator(_budgets)] = {}
    pins: Names = ()  # PATTERN=w8a8
    ties: Names = ()  # qkv, or patterns
    latency_device: str = "a100-80gb"  # whose floor latency_ratio is told by
    gap: float = 1e-4
    limit: float = 10.0  # seconds of the solver
    calibrate: int = 0  # random plans to draw, that predictions are held against
    refine: bool = False  # take the costs anew beside the solved plan, once
    verify: int = 0  # samples to draw with the plan
    plan_seeds: Seeds = PLAN_SEEDS  # of calibrate and refine
    out: Path | None = None  # JSON file for the plan
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 8
    by_hand: dict[str, Any] | None = None  # of a plan that `pins` fix as a whole: see `Allocations`

    @classmethod
    def parse(cls, data: object, where: str = "request") -> Self:
        """Validate plain data from the command line, the app or a file."""
        return super().parse(data, where)

    @property
    def draws(self) -> bool:
        """Whether anything is drawn, so that the model is needed."""
        return bool(self.calibrate or self.refine or self.verify)

    @property
    def verify_seeds(self) -> tuple[int, ...]:
        """Of the verification."""
        return tuple(range(VERIFY_FROM, VERIFY_FROM + self.verify))


def check_fields(request: AllocateRequest) -> None:
    """What can be told without the study; raises BadInput."""
    if not request.budgets:
        raise BadInput("no budget was given; e.g. --budget avg_bits=4")
    for name, bound in request.budgets.items():
        if name not in BUDGETS:
            raise unknown("budget", name, BUDGETS, f"They are: {', '.join(BUDGETS)}")
        if not bound > 0:
            raise BadInput(f"budget {name}={bound:g} is out of range; above 0")
    if request.calibrate and not FEWEST <= request.calibrate <= 1000:
        raise BadInput(
            f"calibrate {request.calibrate} is out of range; {FEWEST} to 1000 plans, or 0 for none"
        )
    if not 0 <= request.verify <= 10_000:
        raise BadInput(f"verify {request.verify} is out of range; 0 to 10000 samples")
    check_seeds(request.plan_seeds)
    disjoint(request.plan_seeds, request.verify_seeds, "--plan-seeds", "the seeds of --verify")
    device_of(request.latency_device)
    for what, value, known in (
        ("device", request.device, DEVICES),
        ("dtype", request.dtype, DTYPES),
    ):
        if value not in known:
            raise unknown(what, value, known, f"They are: {', '.join(known)}")
    if not 1 <= request.batch_size <= 1024:
        raise BadInput(f"batch size {request.batch_size} is out of range; 1 to 1024")
    if request.out is not None and request.out.exists():
        raise BadInput(f"{request.out} is there already; nothing is written over, name a new file")


def title(request: AllocateRequest) -> tuple[str, Path]:
    """What a list of jobs calls this, and the study folder that it writes into."""
    check_fields(request)
    return f"{request.study.name}: plan under {_said(request.budgets)}", place(request.study)


def _said(budgets: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={bound:.10g}" for name, bound in budgets.items())


def as_command(request: AllocateRequest) -> str:
    """The command line that makes this plan again."""
    defaults = AllocateRequest(study=request.study)
    words = ["dqviz", "allocate", "--study", str(request.study)]
    for name, bound in request.budgets.items():
        words += ["--budget", f"{name}={bound!r}".removesuffix(".0")]
    for flag, values in (("--pin", request.pins), ("--tie", request.ties)):
        words += [word for value in values for word in (flag, value)]
    if request.plan_seeds != defaults.plan_seeds:
        words += ["--plan-seeds", seeds_text(request.plan_seeds)]
    for name in _PLAIN:
        value = getattr(request, name)
        if value != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--refine"] if request.refine else words)


_PLAIN = (
    "sensitivity",
    "metric",
    "latency_device",
    "gap",
    "limit",
    "calibrate",
    "verify",
    "out",
    "device",
    "dtype",
    "batch_size",
)


def allocate(
    request: AllocateRequest,
    on_event: OnEvent | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Choose a plan within the budgets, keep it in the study, and return what is said of it.

    Keys: `allocation` (its name there), `plan` (fingerprint), `out` (its file), `avg_bits` of the weights,
    `activation_bits`, `size_bytes` (exactly those of the file), `latency_ratio` (predicted, least seconds on `latency_device`
    over those in 16 bit; null for formats without a known peak), `predicted_loss` {mean, lo, hi} (relative latent loss, geometric mean over samples, once calibrated; `lo` and `hi` are null before),
    `calibration` {plans, coverage, factor, seeds} or null, `gap`, `binding`, `bound`, `status`, `seconds` of the
    solution that was taken, `refined` (null, or the typical loss `before` and `after` costs were taken anew, and which was taken), `verified` (null, or the measured loss {mean, lo, hi},
    `typical` {mean, lo, hi} of the geometric mean, with its samples and seeds), `table` {sensitivity, tier, metric, evidence}, `budgets`, `pins`, `ties`, `by_hand` (null, or what a plan was set under that the app sent), `warnings`, `study`, `command`.

    Raises BadInput for what cannot be kept, naming the pins in the way; Cancelled with what was drawn kept.
    """
    check_fields(request)
    watch = Watch(on_event, cancelled, previews=False)
    task = _prepare(request, watch)
    watch.stage("solve", f"choosing formats under {_said(request.budgets)}")
    chosen = _solved(task, task.posed)
    try:
        drawing = _drawing(task, chosen) if request.draws else None
        calibration = _calibration(task, drawing)
        refined = None
        if request.refine:
            assert drawing is not None
            chosen, refined = _refined(task, drawing, chosen)
        verified = None if drawing is None or not request.verify else _verified(drawing, chosen)
    except Cancelled:
        raise Cancelled(
            "cancelled; the plans that were drawn are kept, and the same command goes on from there"
        ) from None
    result = _kept(task, chosen, calibration, refined, verified)
    watch.finish()
    watch.emit(Done(result))
    return result


@dataclass(frozen=True)
class _Task:
    """One allocation under way."""

    request: AllocateRequest
    watch: Watch
    study: Study
    row: Mapping[str, Any]  # of the sweep
    posed: Posed
    loose: Posed  # without pins and ties: what calibrations are about
    swept: SweepRequest


@dataclass(frozen=True)
class _Chosen:
    """A solution with its plan and its bytes."""

    allocation: Allocation
    plan: Plan
    size_bytes: int


def _prepare(request: AllocateRequest, watch: Watch) -> _Task:
    """The table and what is to be decided; no model."""
    if not request.study.is_dir():
        raise BadInput(
            f"there is no study folder {request.study}; make one: dqviz sensitivity MODEL --bits 3,4,6,8 "
            f"--study {request.study}"
        )
    study = Study.open(writable(request.study))
    row = _table(study, request.sensitivity)
    blueprint: Blueprint = Blueprint.parse(study.blueprint(row["name"]), "the blueprint")
    rows = rows_of(study.sensitivity(row["name"]), f"table {row['name']}")
    swept = SweepRequest.parse(row["record"]["request"], f"the request of {row['name']}")
    device = device_of(request.latency_device)
    for seeds, what in (
        (swept.seeds, "the sweep"),
        (swept.calibration_seeds, "the method's calibration"),
    ):
        disjoint(request.plan_seeds, seeds, "--plan-seeds", what)
        disjoint(request.verify_seeds, seeds, "the seeds of --verify", what)
    if request.refine and row["tier"] != REFINED:
        raise BadInput(
            f"costs beside a plan are those of tier {REFINED}, and table {row['name']} is of tier {row['tier']}; "
            f"sweep with --tier {REFINED}, or leave --refine away"
        )
    loose = posed(blueprint, rows, metric=request.metric, device=device)
    own = posed(
        blueprint,
        rows,
        metric=request.metric,
        device=device,
        pins=request.pins,
        ties=request.ties,
    )
    return _Task(request, watch, study, row, own, loose, swept)


def _table(study: Study, name: str | None) -> dict[str, Any]:
    done = {row["name"]: row for row in study.sensitivities() if row["status"] == "done"}
    if not done:
        raise BadInput(
            f"study {study.folder} has no finished sensitivity; measure one: dqviz sensitivity "
            f"{study.manifest['model']['ref']} --bits 3,4,6,8 --study {study.folder}"
        )
    if name is not None and name not in done:
        raise unknown("sensitivity", name, done, f"Study: {study.folder}")
    return list(done.values())[-1] if name is None else done[name]


def _solved(task: _Task, own: Posed, budgets: Mapping[str, float] | None = None) -> _Chosen:
    """Solve, and see to it that the file is within its budget by the byte, not by a bound of its header."""
    from quant.drafting import size_of_plan

    request, within = task.request, dict(budgets or task.request.budgets)
    for _ in range(_TRIES):
        found = solve(own.problem, within, gap=request.gap, seconds=request.limit)
        plan = own.plan(found.chosen)
        size = size_of_plan(own.blueprint, plan)
        over = size / MB - request.budgets.get("size_mb", float("inf"))
        if over <= 0:
            return _Chosen(found, plan, size)
        within["size_mb"] -= over
    raise BadInput(
        f"budget size_mb={request.budgets['size_mb']:g} is missed by the file's header alone; add a kilobyte"
    )


@dataclass(frozen=True)
class _Drawing:
    """The model, and what plans lose on the seeds of calibrations and of the verification."""

    task: _Task
    model: Model
    trial: PlanLoss
    final: PlanLoss | None

    def loss(self, of: PlanLoss, plan: Plan, what: str) -> np.ndarray:
        """Of every sample; from the study where the plan was drawn on these samples."""
        from .records import device_name

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


def _drawing(task: _Task, chosen: _Chosen) -> _Drawing:
    """Load the model, and say how much there is to draw."""
    from quant.plan_loss import PlanLoss
    from quant.schema import Outliers
    from quant.sources import check_source

    from .records import describe, versions

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
    plans = request.calibrate + 2 * request.refine
    total = trial.steps * (plans + bool(plans)) + 2 * (final.steps if final is not None else 0)
    watch.plan(watch.done + total + _refining(task, trial))
    return _Drawing(task, model, trial, final)


def _refining(task: _Task, trial: PlanLoss) -> int:
    """What taking costs anew is worth, in steps: a drawing, an evaluation, and a backward pass for each direction."""
    return trial.steps * (4 + 2 * task.swept.probes) if task.request.refine else 0


def _statistics(task: _Task, model: Model) -> Any:
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


def _calibration(task: _Task, drawing: _Drawing | None) -> dict[str, Any] | None:
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
    record = {"calibration": made.to_json(), "seeds": list(task.request.plan_seeds)}
    if record not in held:
        task.study.add_calibration(key, metric, record)
    return record


def _refined(task: _Task, drawing: _Drawing, first: _Chosen) -> tuple[_Chosen, dict[str, Any]]:
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
    second = _solved(task, replace(own, problem=problem))
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


def _verified(drawing: _Drawing, chosen: _Chosen) -> dict[str, Any]:
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


def _predicted(task: _Task, chosen: _Chosen, record: Mapping[str, Any] | None) -> Prediction:
    """Of the plan, by the table; without a calibration the sum of its cells."""
    own, ways = task.posed, chosen.allocation.chosen
    if record is None:
        return Prediction(mean=own.cost(ways))
    calibration: Calibration = Calibration.parse(record["calibration"], "the calibration")
    return calibration.predict(own.cost(ways), own.costs(ways))


def _kept(
    task: _Task,
    chosen: _Chosen,
    record: dict[str, Any] | None,
    refined: dict[str, Any] | None,
    verified: dict[str, Any] | None,
) -> dict[str, Any]:
    """What is said of the plan; it goes into the study, and into the file that was asked for."""
    request, found, row = task.request, chosen.allocation, task.row
    said = None
    if record is not None:
        calibration: Calibration = Calibration.parse(record["calibration"], "the calibration")
        said = {
            "plans": len(calibration.plans),
            "coverage": calibration.coverage,
            "factor": calibration.factor,
            "seeds": record["seeds"],
        }
    result: dict[str, Any] = {
        "plan": chosen.plan.fingerprint,
        "out": None if request.out is None else str(request.out),
        "avg_bits": found.used["avg_bits"],
        "activation_bits": found.used["activation_bits"],
        "size_bytes": chosen.size_bytes,
        "fp16_bytes": task.posed.blueprint.fp16_bytes,
        "latency_ratio": found.used.get("latency_ratio"),
        "latency_device": request.latency_device,
        "predicted_loss": _predicted(task, chosen, record).to_json(),
        "calibration": said,
        "gap": found.gap,
        "bound": found.bound,
        "binding": list(found.binding),
        "status": found.status,
        "seconds": found.seconds,
        "refined": refined,
        "verified": verified,
        "table": {
            "sensitivity": row["name"],
            "tier": row["tier"],
            "method": row["method"],
            "metric": task.posed.metric,
            "evidence": row["record"]["evidence"],
        },
        "budgets": dict(request.budgets),
        "pins": list(request.pins),
        "ties": list(request.ties),
        "by_hand": request.by_hand,
        "warnings": _warnings(task, record),
        "command": as_command(request),
    }
    asked = request.model_dump(mode="json", exclude=_NO_QUESTION)
    key = fingerprint({**asked, "sensitivity": row["key"]})
    if verified is None:  # what was drawn before is not forgotten
        held = [
            a for a in task.study.allocations() if (a["key"], a["plan"]) == (key, result["plan"])
        ]
        result["verified"] = held[0]["record"]["verified"] if held else None
    plan = chosen.plan.to_json()
    name = task.study.add_allocation(
        "-".join(f"{n}-{bound:.10g}" for n, bound in request.budgets.items()),
        key,
        row["name"],
        (chosen.plan.fingerprint, plan),
        result,
    )
    if request.out is not None:
        write_json(request.out, plan)
    return {**result, "allocation": name, "study": str(task.study.folder)}


# What is no part of the question, only of how it is answered.
_NO_QUESTION = {
    *("study", "sensitivity", "out", "device", "dtype", "batch_size"),
    *("limit", "calibrate", "verify", "plan_seeds", "by_hand"),
}


def _warnings(task: _Task, record: Mapping[str, Any] | None) -> list[str]:
    """What to know before the numbers are believed."""
    found = []
    if record is None:
        found.append(
            f"the predicted loss is the sum of its cells' {task.posed.metric}, not calibrated, and its interval is missing; "
            f"hold it against plans that are drawn: --calibrate {FEWEST}"
        )
    inputs = {"activation_bits", "latency_ratio"}
    if not inputs & task.request.budgets.keys():
        found.append(
            "no budget counts activations, so they stay in 16 bit; e.g. --budget activation_bits=8"
        )
    return found
