"""What is said of a plan that was chosen; it goes into the study, and into the file that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quant.loss_calibration import FEWEST, Calibration, Prediction
from quant.schema import fingerprint

from ..files import write_json
from .request import as_command
from .task import Chosen, Task


def _predicted(task: Task, chosen: Chosen, record: Mapping[str, Any] | None) -> Prediction:
    """Of the plan, by the table; without a calibration the sum of its cells."""
    own, ways = task.posed, chosen.allocation.chosen
    if record is None:
        return Prediction(mean=own.cost(ways))
    calibration: Calibration = Calibration.parse(record["calibration"], "the calibration")
    return calibration.predict(own.cost(ways), own.costs(ways))


def keep(
    task: Task,
    chosen: Chosen,
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
    *("limit", "calibrate", "verify", "plan_seeds"),
}


def _warnings(task: Task, record: Mapping[str, Any] | None) -> list[str]:
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
