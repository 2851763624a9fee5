"""What takes a solver, or the table's samples: a plan within budgets, its prediction, the curve of budgets, its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Any

import numpy as np

from quant import allocation, lagrangian
from quant.decisions import Allocation, Key, Label
from quant.errors import BadInput, unknown
from quant.latency import latencies
from quant.loss_calibration import Calibration, Prediction
from quant.mixed_precision import BUDGETS, Posed

from .opened import DEVICE, Opened

POINTS = 16  # of the curve
LIMIT = 10.0  # seconds of the exact solver
_MARGIN = 1e-9  # by which the budgets of a curve's ends are raised: sums of floats


@dataclass(frozen=True)
class Asked:
    """A question of the page."""

    opened: Opened
    metric: str
    device: str
    ties: tuple[str, ...]
    budgets: dict[str, float]
    chosen: dict[Key, Label]  # the plan as it stands
    pins: dict[Key, Label]

    @property
    def posed(self) -> Posed:
        """The decisions, with the pins."""
        own = self.opened.posed(self.metric, self.device, self.ties)
        return replace(own, problem=replace(own.problem, pins=self.pins))

    @property
    def words(self) -> list[str]:
        """The pins as a command takes them."""
        return self.opened.words(self.pins)

    @property
    def under(self) -> dict[str, Any]:
        """What a plan set by hand was set under."""
        return {
            "budgets": self.budgets,
            "pins": self.words,
            "ties": list(self.ties),
            "latency_device": self.device,
        }


def asked(opened: Opened, query: Mapping[str, Any]) -> Asked:
    """What a query of the browser asks; BadInput for what cannot be."""
    metric, device = query.get("metric"), query.get("device") or DEVICE
    ties = ("qkv",) if query.get("qkv") else ()
    budgets = query.get("budgets")
    found = {}
    for name, bound in (budgets if isinstance(budgets, Mapping) else {}).items():
        if name not in BUDGETS:
            raise unknown("budget", name, BUDGETS)
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not bound > 0:
            raise BadInput(f"budget {name}={bound} is out of range; above 0")
        found[name] = float(bound)
    own = opened.posed(metric if isinstance(metric, str) else None, str(device), ties)
    chosen = opened.chosen(query.get("plan"), own)
    cells = query.get("pins")
    pins = opened.pins(cells if isinstance(cells, list) else [], chosen)
    return Asked(opened, own.metric, str(device), ties, found, chosen, pins)


def suggest(question: Asked) -> dict[str, Any]:
    """A plan within the budgets at once: for a slider that is being dragged."""
    return _answer(question, lagrangian.solve(question.posed.problem, _bounded(question)))


def solve(question: Asked) -> dict[str, Any]:
    """The plan with the least sum of costs within the budgets, with what is proven of it."""
    found = allocation.solve(question.posed.problem, _bounded(question), seconds=LIMIT)
    return _answer(question, found)


def _bounded(question: Asked) -> dict[str, float]:
    if not question.budgets:
        raise BadInput("no budget is on; switch one on, e.g. average bits")
    return question.budgets


def _answer(question: Asked, found: Allocation) -> dict[str, Any]:
    return {
        "plan": question.opened.written(found.chosen),
        "loss": found.loss,
        "used": dict(found.used),
        "gap": found.gap,
        "binding": list(found.binding),
        "status": found.status,
        "seconds": found.seconds,
    }


def appraise(question: Asked, calibration: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the plan is expected to lose, with the interval over the samples where the table is calibrated.

    `within` says whether cheaper and dearer plans were drawn; null without a calibration.
    """
    own = question.posed
    made = _calibration(calibration)
    return {
        "predicted_loss": _predicted(own, question.chosen, made).to_json(),
        "calibrated": made is not None,
        "within": made and made.within(own.cost(question.chosen)),
    }


def _calibration(record: Mapping[str, Any] | None) -> Calibration | None:
    if record is None:
        return None
    return Calibration.parse(record["calibration"], "the calibration")


def _predicted(
    own: Posed, chosen: Mapping[Key, Label], calibration: Calibration | None
) -> Prediction:
    if calibration is None:
        return Prediction(mean=own.cost(chosen))
    return calibration.predict(own.cost(chosen), own.costs(chosen))


def curve(
    question: Asked,
    calibration: Mapping[str, Any] | None,
    plans: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Plans from the fewest bits of the weights to the most: the least that each is predicted to lose.

    Heuristic solutions: `points` hold average bits, bytes, prediction and plan. Inputs have at most the average bits
    of their budget, or without one those of the plan as it stands, so that it can be set beside them. `kept` has, by
    their names, what the study's `plans` are predicted to lose by the same calibration, or `why` that cannot be told.
    """
    own, made = question.posed, _calibration(calibration)
    of_inputs = question.budgets.get("activation_bits") or average(question, "activation_bits")
    others = {"activation_bits": of_inputs * (1 + _MARGIN)}
    low, high = _range(own)
    points: list[dict[str, Any]] = []
    for bound in np.linspace(low, high, POINTS):
        within = {**others, "avg_bits": float(bound) * (1 + _MARGIN)}
        found = lagrangian.solve(own.problem, within)
        if points and found.used["avg_bits"] <= points[-1]["avg_bits"]:
            continue  # the budget bought nothing
        points.append(
            {
                "avg_bits": found.used["avg_bits"],
                "activation_bits": found.used["activation_bits"],
                "size_mb": found.used["size_mb"],
                "predicted": _predicted(own, found.chosen, made).to_json(),
                "plan": question.opened.written(found.chosen),
            }
        )
    return {
        "points": points,
        "kept": {name: _kept(question, plan, made) for name, plan in plans.items()},
        "activation_bits": of_inputs,
        "calibrated": calibration is not None,
    }


def _kept(
    question: Asked, plan: Mapping[str, Any], calibration: Calibration | None
) -> dict[str, Any]:
    """What a plan of the study is predicted to lose now, whatever was known when it was kept."""
    own = question.opened.posed(question.metric, question.device)
    try:
        chosen = question.opened.chosen(question.opened.of_plan(plan), own)
    except BadInput as error:
        return {"why": str(error)}
    return {"predicted": _predicted(own, chosen, calibration).to_json()}


def _range(own: Posed) -> tuple[float, float]:
    """Least and most average bits of the weights that pins leave."""
    ends = [0.0, 0.0]
    for items, labels in own.problem.sets():
        for item in items:
            uses = [c.uses.get("avg_bits", 0.0) for c in item.choices if c.label in labels]
            ends = [ends[0] + min(uses), ends[1] + max(uses)]
    return ends[0], ends[1]


def average(question: Asked, name: str) -> float:
    """What the plan takes of a budget that adds up, `avg_bits` or `activation_bits`."""
    choices = {item.key: item.choices for item in question.posed.problem.items}
    return fsum(
        next(c.uses.get(name, 0.0) for c in choices[key] if c.label == label)
        for key, label in question.chosen.items()
    )


def file(question: Asked) -> dict[str, Any]:
    """The plan as `quantize --plan` takes it."""
    return question.posed.plan(question.chosen).to_json()


def load(
    opened: Opened,
    allocations: Sequence[Mapping[str, Any]],
    name: object,
    plan_of: Callable[[str], Mapping[str, Any]],
) -> dict[str, Any]:
    """A plan of the study, with the metric, budgets, pins, ties and device that it was chosen under.

    Args:
        opened: the table.
        allocations: of the study.
        name: of one that was made from this table.
        plan_of: the plan of an allocation, by its name.
    """
    found = {a["name"]: a for a in allocations if a["sensitivity"] == opened.row["name"]}
    if not isinstance(name, str) or name not in found:
        raise unknown("plan", name, found, f"Study: {opened.study}")
    record = found[name]["record"]
    under = record if record.get("by_hand") is None else record["by_hand"]
    told = under.get("latency_device") or record.get("latency_device")  # older plans lack it
    notes, device = [], str(told or DEVICE)
    if device not in latencies(notes):
        notes.append(f"{name} was chosen for the latency on {device}, of which nothing is known here")  # fmt: skip
        device = DEVICE
    ties = [tie for tie in under.get("ties", ()) if tie != "qkv"]
    if ties:
        notes.append(f"{name} was chosen with the ties {', '.join(ties)}, which this page does not hold")  # fmt: skip
    pins: list[int] = []
    try:
        keys = opened.posed(record["table"]["metric"], device, pins=tuple(under.get("pins", ())))
        pins = sorted(opened.cell(key) for key in keys.problem.pins)
    except BadInput as error:
        notes.append(f"{name} is shown without its pins: {error}")
    return {
        "plan": opened.of_plan(plan_of(name)),
        "verified": record.get("verified"),
        "budgets": dict(under.get("budgets", {})),
        "pins": pins,
        "qkv": "qkv" in under.get("ties", ()),
        "device": device,
        "metric": record["table"]["metric"],
        "notes": notes,
    }
