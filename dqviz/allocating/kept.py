"""What is said of a plan that was chosen; it goes into the study, and into the file that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quant.loss_calibration import FEW_SAMPLES, FEWEST, Calibration, Prediction
from quant.metric_groups import CONTENT
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
    groups: dict[str, Any] | None,
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
        "latency_said": f"{task.device.said}, on {task.device.title}",
        "predicted_loss": _predicted(task, chosen, record).to_json(),
        "calibration": said,
        "gap": found.gap,
        "bound": found.bound if groups is None else None,
        "binding": list(found.binding),
        "status": found.status,
        "seconds": found.seconds,
        "groups": groups,
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
        "warnings": _warnings(task, chosen, record, groups),
        "command": as_command(request),
    }
    of_groups = set() if request.groups else {"groups", "group_metrics", "scan"}
    asked = request.model_dump(mode="json", exclude=_NO_QUESTION | of_groups)
    key = fingerprint({**asked, "sensitivity": row["key"]})
    held = task.study.verification(row["name"], task.posed.metric, result["plan"])
    if held is not None and (verified is None or held["n"] > verified["n"]):
        result["verified"] = held  # what was drawn before is not forgotten
        if verified is not None:
            result["warnings"].append(
                f"this plan was verified on {held['n']} samples before; those are kept, not the "
                f"{verified['n']} of this call"
            )
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


def _warnings(
    task: Task,
    chosen: Chosen,
    record: Mapping[str, Any] | None,
    groups: Mapping[str, Any] | None,
) -> list[str]:
    """What to know before the numbers are believed."""
    found = list(task.posed.remarks)
    if groups is not None:
        found += _of_groups(task, groups["metrics"])
    if record is None:
        found.append(
            f"the predicted loss is the sum of its cells' {task.posed.metric}, not calibrated, and its interval is missing; "
            f"hold it against plans that are drawn: --calibrate {FEWEST}"
        )
    else:
        found += _of_prediction(task, chosen, record)
    if "latency_ratio" in chosen.allocation.used:
        remark = task.device.remark(task.posed.layers(chosen.allocation.chosen))
        found += [remark] if remark else []
    inputs = {"activation_bits", "latency_ratio"}
    if task.loose.decides_inputs and not inputs & task.request.budgets.keys():
        found.append(
            "no budget counts activations, so they stay in 16 bit; e.g. --budget activation_bits=8"
        )
    return found


def _of_groups(task: Task, metrics: Mapping[str, str]) -> list[str]:
    """Where groups are not what the paper means by them."""
    found = []
    alone = "a scan is over averages (B) alone"
    if len(metrics) == 1:
        found.append(
            f"all layers are of metric group {next(iter(metrics))}: nothing is split, and {alone}; on a "
            "class-conditional model content cannot be told apart"
        )
    elif CONTENT not in metrics:
        found.append(f"no layer is of metric group content: k stays 1, and {alone}")
    if len(metrics) > 1 and len(set(metrics.values())) == 1:
        found.append(
            f"every group is ranked by {next(iter(metrics.values()))}: table {task.row['name']} has no metric of "
            "their own; tier exact measures some"
        )
    return found


def _of_prediction(task: Task, chosen: Chosen, record: Mapping[str, Any]) -> list[str]:
    """Why a calibrated prediction is worth less than its interval says."""
    found = []
    calibration: Calibration = Calibration.parse(record["calibration"], "the calibration")
    cost, samples = task.posed.cost(chosen.allocation.chosen), len(record["seeds"])
    if not calibration.within(cost):
        costs = [plan.cost for plan in calibration.plans]
        found.append(
            f"the sum of the plan's cells, {cost:.3g}, is outside those of the plans that were drawn "
            f"({min(costs):.3g} to {max(costs):.3g}): the prediction goes beyond them, with a wider interval"
        )
    if samples < FEW_SAMPLES:
        found.append(
            f"predictions are held against plans on {samples} sample{'s' * (samples > 1)} each, which hardly tell a "
            f"typical loss; draw more: --calibrate {len(calibration.plans)} --plan-seeds with 8 seeds"
        )
    return found
