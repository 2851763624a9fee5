"""The table that plans are made of, and the plan that solves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quant.allocation import Allocation, solve
from quant.blueprint import Blueprint
from quant.errors import BadInput, unknown
from quant.latency import Latency, latency_of
from quant.mixed_precision import FULL, MB, Posed, posed
from quant.schema import Plan
from quant.seeds import disjoint
from quant.sensitivity.table import rows_of

from ..studies import taken_up
from ..study import Study
from ..sweeping import SweepRequest
from ..sweeping import as_command as sweep_command
from ..watch import Watch
from .request import AllocateRequest

REFINED = "gradient"  # the tier whose costs can be taken anew beside a plan
_TRIES = 4  # solutions, until the file is within the budget by the byte


@dataclass(frozen=True)
class Task:
    """One allocation under way."""

    request: AllocateRequest
    watch: Watch
    study: Study
    row: Mapping[str, Any]  # of the sweep
    posed: Posed
    loose: Posed  # without pins and ties: what calibrations are about
    swept: SweepRequest
    device: Latency  # that latency is predicted for


@dataclass(frozen=True)
class Chosen:
    """A solution with its plan and its bytes."""

    allocation: Allocation
    plan: Plan
    size_bytes: int


def prepare(request: AllocateRequest, watch: Watch) -> Task:
    """The table and what is to be decided; no model."""
    folder = taken_up(request.study)
    if not folder.is_dir():
        raise BadInput(
            f"there is no study folder {request.study}; make one: dqviz sensitivity MODEL --bits 3,4,6,8 "
            f"--study {request.study}"
        )
    study = Study.open(folder)
    row = _table(study, request.sensitivity)
    blueprint: Blueprint = Blueprint.parse(study.blueprint(row["name"]), "the blueprint")
    rows = rows_of(study.sensitivity(row["name"]), f"table {row['name']}")
    swept = SweepRequest.parse(row["record"]["request"], f"the request of {row['name']}")
    device = latency_of(request.latency_device)
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
    _check_inputs(request, row, loose)
    own = posed(
        blueprint,
        rows,
        metric=request.metric,
        device=device,
        pins=request.pins,
        ties=request.ties,
    )
    return Task(request, watch, study, row, own, loose, swept, device)


def _check_inputs(request: AllocateRequest, row: Mapping[str, Any], loose: Posed) -> None:
    """Stop at a budget on inputs where the table has no choice for them but 16 bits."""
    bound = request.budgets.get("activation_bits", FULL)
    if bound >= FULL or loose.decides_inputs:
        return
    inputs = [item for item in loose.problem.items if item.key.operand == "activation"]
    reasons = {why for item in inputs for why in item.illegal.values()}
    if reasons:
        why = f"{row['method']} {min(reasons)}"
        raise BadInput(f"activation_bits={bound:g} cannot be kept: {why}; leave that budget away")
    raise BadInput(
        f"activation_bits={bound:g} cannot be kept: table {row['name']} of tier {row['tier']} has no cells of "
        f"inputs; sweep them: {_sweep_of_inputs(row)}"
    )


def _sweep_of_inputs(row: Mapping[str, Any]) -> str:
    """The command of the same sweep by a tier that has inputs."""
    asked: SweepRequest = SweepRequest.parse(row["record"]["request"], "the request of the table")
    return sweep_command(asked.model_copy(update={"tier": REFINED}))


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


def solved(task: Task, own: Posed, budgets: Mapping[str, float] | None = None) -> Chosen:
    """Solve, and see to it that the file is within its budget by the byte, not by a bound of its header."""
    from quant.drafting import size_of_plan

    request, within = task.request, dict(budgets or task.request.budgets)
    for _ in range(_TRIES):
        found = solve(own.problem, within, gap=request.gap, seconds=request.limit)
        plan = own.plan(found.chosen)
        size = size_of_plan(own.blueprint, plan)
        over = size / MB - request.budgets.get("size_mb", float("inf"))
        if over <= 0:
            return Chosen(found, plan, size)
        within["size_mb"] -= over
    raise BadInput(
        f"budget size_mb={request.budgets['size_mb']:g} is missed by the file's header alone; add a kilobyte"
    )
