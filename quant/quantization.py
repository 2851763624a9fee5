"""Applying a method to a model: one transformer in, a drop-in quantized transformer out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .amplified import carry_over
from .calibration import Seen
from .cards import Card, load_method, methods
from .errors import BadInput, DQVizError, unknown
from .layers import QuantLinear
from .methods.base import Group, Rounded, SiteWeight
from .models import Model
from .plans import check_plan
from .schema import Plan, SitePlan, Value
from .step import attach


@dataclass(frozen=True)
class Scope:
    """Which sites were quantized, and why the others were kept."""

    quantized: tuple[str, ...]
    kept: dict[str, str]


@dataclass(frozen=True)
class BackendReport:
    """What arithmetic the quantized sites run on."""

    backend: str  # simulate, integer, triton, or mixed
    evidence: str  # measured where real low-bit arithmetic ran everywhere, else simulated
    why: str


@dataclass(frozen=True)
class Quantized:
    """A quantized transformer with all that is said about it."""

    transformer: nn.Module
    method: str
    plan: Plan
    options: dict[str, Any]
    scope: Scope
    notes: dict[str, dict[str, object]] = field(
        default_factory=dict
    )  # per site: what the method chose


def backend_report(transformer: nn.Module, rows: int) -> BackendReport:
    """What the quantized sites run on when each gets `rows` rows (batch x tokens).

    One real low-bit path among simulated ones does not make a measurement: all must be real.
    """
    chosen = [layer.why(rows) for layer in transformer.modules() if isinstance(layer, QuantLinear)]
    if not chosen:
        return BackendReport("pytorch", "measured", "ordinary matmuls")
    names = sorted({name for name, _ in chosen})
    reasons = sorted({why for _, why in chosen})
    backend = names[0] if len(names) == 1 else "mixed"
    evidence = "simulated" if "simulate" in names else "measured"
    return BackendReport(backend, evidence, "; ".join(reasons[:3]))


def parse_options(key: str, given: Mapping[str, Any]) -> Value:
    """The options of a method, checked; unknown names and bad values are one clear error."""
    card: Card = methods().get(key) or _no_method(key)
    kind = load_method(key).Options
    for name in given:
        if name not in kind.model_fields:
            raise unknown(
                f"option of {card.key}", name, kind.model_fields, f"List them: dqviz methods {key}"
            )
    return kind.parse(dict(given), f"options of {key}")


def _no_method(key: str) -> Card:
    raise unknown("method", key, methods(), "List them: dqviz methods")


def quantize(
    model: Model,
    method: str,
    plan: Plan,
    options: Mapping[str, Any] | None = None,
    seen: Seen | None = None,
    *,
    seed: int = 0,
    backend: str | None = None,
    on_site: Callable[[int, int], None] | None = None,
) -> Quantized:
    """Quantize the transformer of `model` with one method and one plan.

    The result shares every tensor that it does not change with the model. `seen` is needed by
    methods whose card names statistics. `on_site(done, total)` reports progress and may raise
    `Cancelled`.
    """
    chosen = parse_options(method, options or {})
    module = load_method(method)
    check_plan(plan, model)
    transformer = shallow_copy(model.transformer)
    groups: dict[str, list[SiteWeight]] = {}
    for site in model.sites:
        site_plan = plan.sites.get(site.name)
        if site_plan is not None and site_plan.quantized:
            linear = model.transformer.get_submodule(site.name)
            assert isinstance(linear, nn.Linear)
            bias = None if linear.bias is None else linear.bias.detach()
            weight = SiteWeight(site.name, linear.weight.detach().float(), bias, site_plan)
            groups.setdefault(site.input_of, []).append(weight)
    notes: dict[str, dict[str, object]] = {}
    for index, (input_of, sites) in enumerate(groups.items()):
        statistics = _statistics(seen, input_of, methods()[method])
        rounded = module.quantize_group(Group(input_of, tuple(sites)), statistics, chosen, seed)
        for site, made in zip(sites, rounded, strict=True):
            swap(transformer, site.name, _layer(model, site, made, plan, backend))
            notes[site.name] = made.notes or {}
        if on_site is not None:
            on_site(index + 1, len(groups))
    attach(transformer, plan.windows)
    quantized = Quantized(transformer, method, plan, chosen.to_json(), _scope(model, plan), notes)
    _check_scope(quantized)
    return quantized


def _statistics(seen: Seen | None, input_of: str, card: Card) -> Any:
    if not card.needs:
        return None
    if seen is None:
        return None
    if input_of not in seen.inputs:
        raise BadInput(
            f"the calibration has no statistics of {input_of}; it was recorded from another model"
        )
    return seen.inputs[input_of]


def _layer(
    model: Model, site: SiteWeight, made: Rounded, plan: Plan, backend: str | None
) -> QuantLinear:
    layer = QuantLinear.from_codes(
        made.weight,
        site.bias,
        plan=site.plan,
        windows=plan.windows,
        channel_scale=made.channel_scale,
        signs=made.signs,
        dtype=model.dtype,
        backend=backend,
    )
    return layer.to(model.device)


def shallow_copy(module: nn.Module) -> nn.Module:
    """A copy whose structure can be changed freely and whose tensors are the original's own."""
    memo: dict[int, Any] = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, memo)


def swap(root: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` in the place of the submodule `name`; what amplifies its input stays."""
    carry_over(root.get_submodule(name), new)
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent) if parent else root, last, new)


def _scope(model: Model, plan: Plan) -> Scope:
    kept = {}
    quantized = []
    for site in model.sites:
        site_plan: SitePlan | None = plan.sites.get(site.name)
        if site_plan is not None and site_plan.quantized:
            quantized.append(site.name)
        else:
            kept[site.name] = site.kept_reason or "the plan keeps it in floating point"
    return Scope(tuple(quantized), kept)


def _check_scope(quantized: Quantized) -> None:
    """A scope that differs from the plan is an error, never silence."""
    found = {
        name
        for name, module in quantized.transformer.named_modules()
        if isinstance(module, QuantLinear)
    }
    planned = {name for name, site in quantized.plan.sites.items() if site.quantized}
    if found != planned:
        difference = sorted(found ^ planned)
        raise DQVizError(f"quantized sites differ from the plan: {', '.join(difference[:4])}")
