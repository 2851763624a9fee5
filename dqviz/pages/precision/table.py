"""Everything that the browser computes with: the table, formats with reasons against them, bytes, seconds, calibrations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import fsum
from typing import Any

from quant.blueprint import SiteFacts
from quant.cards import methods
from quant.errors import BadInput
from quant.latency import latencies
from quant.loss_calibration import FEW_SAMPLES, Calibration
from quant.mixed_precision import METRICS, shape_of
from quant.roofline import Attention
from quant.schema import BLOCK_FORMATS, Bits
from quant.sensitivity.cells import KEPT, OPERANDS, WIDTHS, Cell, format_of, metric_of
from quant.support import unfit
from quant.typical_costs import typical_costs

from ...plots.arrays import SEQUENTIAL
from ..exports import Source
from .opened import DEVICE, Opened

LABELS = (*map(str, WIDTHS), "fp8", *BLOCK_FORMATS, KEPT)
TITLES = {
    "latent_error": "squared relative error of the final latent",
    "output_error": "relative error of the layer's output",
    "weight_error": "relative error of the weight, weighed by its input",
    "ssim_loss": "1 - SSIM",
    "log_prob_loss": "lost log-probability of the class",
}
_NUMBERS = ("lo", "hi", "noise")


def content(
    opened: Opened,
    calibrations: Mapping[str, Mapping[str, Any]],
    allocations: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The page of one table.

    Args:
        opened: the table.
        calibrations: record of the latest one by metric.
        allocations: of the study.
    """
    metrics = list(dict.fromkeys(str(line["metric"]) for line in opened.lines))
    record = opened.row["record"]
    return {
        "study": opened.study,
        "title": opened.title,
        "table": opened.row["name"],
        "key": opened.row["key"],
        "files": _files(opened.source),
        "tier": opened.row["tier"],
        "method": opened.row["method"],
        "evidence": record["evidence"],
        "facts": _facts(opened),
        "command": record["command"],
        "sites": [_site(site) for site in opened.sites],
        "kept": [
            {"name": s.name, "label": _role(s), "reason": s.kept_reason or "not in this table"}
            for s in opened.blueprint.sites
            if s not in opened.sites
        ],
        "windows": _windows(opened),
        "shares": list(opened.blueprint.shares),
        "formats": _formats(opened),
        "metrics": [(key, TITLES.get(key, key.replace("_", " "))) for key in metrics],
        "metric": next((m for m in METRICS if m in metrics), metrics[0]),
        "metric_of": {g: metric_of(g, metrics) for g in dict.fromkeys(s.group for s in opened.sites)},
        "cells": {metric: _cells(opened, metric) for metric in metrics},
        "bytes": [opened.blueprint.bytes[site.name] for site in opened.sites],
        "rest_bytes": opened.blueprint.rest_bytes,
        "fp16_bytes": opened.blueprint.fp16_bytes,
        "devices": _devices(opened),
        "calibrations": {metric: _calibrated(made) for metric, made in calibrations.items()},
        "allocations": [allocated(a) for a in allocations if a["sensitivity"] == opened.row["name"]],
        "colours": list(SEQUENTIAL),
    }  # fmt: skip


def _files(source: Source) -> dict[str, Any]:
    """What exported files say of themselves, and their names: the matrix, the losses over bits."""
    evidence = {"matrix": source.evidence, "curve": ("predicted", *source.evidence)}
    parts = {"matrix": "matrix", "curve": "loss-over-bits"}
    return {
        name: {
            "file": source.stem(part),
            "source": {
                "recipe": source.recipe,
                "evidence": "+".join(evidence[name]),
                "sentence": replace(source, evidence=evidence[name]).sentence(),
            },
        }
        for name, part in parts.items()
    }


def allocated(row: Mapping[str, Any]) -> dict[str, Any]:
    """A plan of the study, in numbers."""
    names = (
        *("avg_bits", "activation_bits", "size_bytes", "latency_ratio"),
        *("verified", "gap", "status", "binding", "budgets"),
    )
    record = row["record"]
    told = {name: record.get(name) for name in names}
    return {"name": row["name"], "created": row["created"], "metric": record["table"]["metric"], **told}  # fmt: skip


def _facts(opened: Opened) -> list[str]:
    """What was measured, how."""
    record, count = opened.row["record"], len(opened.blueprint.windows)
    samples = record.get("samples")
    steps = opened.blueprint.sampler.steps
    where = "all steps together" if count == 1 else f"{count} windows of {steps} steps"
    facts = [
        f"tier {opened.row['tier']}, {opened.row['method']}",
        f"{len(opened.sites)} layers",
        where,
    ]
    facts += [f"{samples} seeds"] if samples else []
    return [*facts, str(opened.row.get("created", "")).replace("T", " ").replace("Z", " UTC")]


def _role(site: SiteFacts) -> str:
    return site.name if site.role == "unknown" else site.role.replace("_", " ")


def _site(site: SiteFacts) -> dict[str, Any]:
    return {
        "name": site.name,
        "input": site.input_of,
        "block": "outside the blocks" if site.block is None else f"block {site.block}",
        "role": site.role,
        "label": _role(site),
        "group": site.group,
        "weights": site.weights,
        "elements": site.rows * site.in_features,
    }


def _windows(opened: Opened) -> list[str]:
    """Which steps every window holds; the noisiest come first."""
    steps = opened.blueprint.sampler.steps
    if len(opened.blueprint.windows) == 1:
        return ["all steps"]
    ends = [round(steps * share) for share in itertools.accumulate(opened.blueprint.shares)]
    return [
        f"step {a}" if b - a == 1 else f"steps {a}\u2013{b - 1}"
        for a, b in itertools.pairwise([0, *ends])
    ]


def _formats(opened: Opened) -> list[dict[str, Any]]:
    """All there are, each with the reason against it for weights and for activations; "" where it can be."""
    card = methods()[opened.row["method"]]
    there = {
        operand: {str(line["bits"]) for line in opened.lines if line["operand"] == operand}
        for operand in OPERANDS
    }
    swept = set(map(str, opened.row["record"]["bits"]))
    found = []
    for label in LABELS:
        told = {}
        for operand in OPERANDS:
            fmt = format_of(label, operand)
            why = unfit(card, fmt, None) if operand == "weight" else unfit(card, None, fmt)
            free = label == KEPT and operand == "activation"
            if why:
                why = f"{opened.row['method']} {why}"
            elif label not in there[operand] and not free:
                wanted = ",".join(each for each in LABELS if each in swept or each == label)
                why = f"the table has no number for it; sweep with --bits {wanted}"
            told[operand] = why
        fmt = format_of(label, "weight")
        found.append({"label": label, "bits": int(KEPT) if fmt is None else fmt.bits, **told})
    return found


def _cells(opened: Opened, metric: str) -> dict[str, dict[str, dict[str, list[Any]]]]:
    """operand -> label -> value, cost, lo, hi, noise and inside_floor, each site by site and window by window.

    `value` is the mean over samples, `cost` what plans add up.
    """
    costs = typical_costs(row for row in opened.rows if row.metric == metric)
    place = {site.name: n for n, site in enumerate(opened.sites)}
    windows = len(opened.blueprint.windows)
    found: dict[str, dict[str, dict[str, list[Any]]]] = {operand: {} for operand in OPERANDS}
    for line in opened.lines:
        of_weight = line["operand"] == "weight"
        whole = line["window"] is None
        if line["metric"] != metric or whole != (of_weight or windows == 1):
            continue
        width = 1 if of_weight else windows
        empty: list[Any] = [None] * (len(place) * width)
        columns = found[line["operand"]].setdefault(
            str(line["bits"]),
            {n: list(empty) for n in ("value", "cost", "inside_floor", *_NUMBERS)},
        )
        at = place[line["site"]] * width + (line["window"] or 0)
        columns["value"][at] = _rounded(line["value"], 12)
        cell = Cell(**{name: line[name] for name in Cell.model_fields})
        columns["cost"][at] = _rounded(costs[cell].value, 12)
        columns["inside_floor"][at] = None if line["inside_floor"] is None else int(line["inside_floor"])  # fmt: skip
        for name in _NUMBERS:
            columns[name][at] = _rounded(line[name], 4)
    return found


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else float(f"{value:.{digits}g}")


def _devices(opened: Opened) -> list[dict[str, Any]]:
    """Shares of the seconds in full precision: of what is not decided, and of layers by shape and bits."""
    labels = {
        operand: {str(line["bits"]) for line in opened.lines if line["operand"] == operand}
        for operand in OPERANDS
    }
    labels["activation"].add(KEPT)
    if not all(label.isdigit() for told in labels.values() for label in told):
        return []  # formats whose seconds are not known
    found = opened.blueprint
    shapes = list(dict.fromkeys(shape_of(found, site) for site in opened.sites))
    told, known = [], latencies()
    for key in sorted(known, key=lambda k: k != DEVICE):
        device = known[key]
        each = {s.name: device.site_seconds(*shape_of(found, s)) for s in found.sites}
        attentions = [
            device.attention_seconds(Attention(**a.model_dump()), found.branches)
            for a in found.attentions
        ]
        full = fsum([*each.values(), *attentions])
        left = {site.name for site in opened.sites}
        rest = fsum([*(t for name, t in each.items() if name not in left), *attentions])
        tables = [
            {
                f"{w},{a}": device.site_seconds(*shape, _bits(w, a)) / full
                for w in sorted(labels["weight"], key=int)
                for a in sorted(labels["activation"], key=int)
            }
            for shape in shapes
        ]
        told.append(
            {
                "key": key,
                "title": device.title,
                "said": device.said,
                "rest": rest / full,
                "shapes": tables,
                "shape": [shapes.index(shape_of(found, site)) for site in opened.sites],
            }
        )
    return told


def _bits(weight: str, activation: str) -> Bits | None:
    """Of a layer; one whose weight is in 16 bit computes in 16 bit."""
    if weight == KEPT:
        return None
    return Bits(weight=int(weight), activation=None if activation == KEPT else int(activation))


def _calibrated(record: Mapping[str, Any]) -> dict[str, Any]:
    """The curve from sums to losses: straight between these in logarithms, in proportion beyond them."""
    try:
        made: Calibration = Calibration.parse(record["calibration"], "the calibration")
    except (BadInput, KeyError) as error:
        raise BadInput(f"a calibration of this table does not read: {error}") from error
    costs = sorted({plan.cost for plan in made.plans if plan.cost > 0})
    return {
        "cost": costs,
        "loss": [made.mean(cost) for cost in costs],
        "plans": len(made.plans),
        "coverage": made.coverage,
        "samples": (samples := min(len(plan.per_sample) for plan in made.plans)),
        "few": samples < FEW_SAMPLES,
    }
