"""Applying a method to a model: one transformer in, a drop-in quantized transformer out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import nn

from .adapters import Site
from .amplified import carry_over
from .attention_ranges import AttentionRange
from .attention_ranges import attach as attach_ranges
from .calibration import InputStatistics, Seen
from .cards import Card, load_method, methods
from .errors import BadInput, DQVizError, unknown
from .folding import Fold, fold_scales
from .fusing import attach as attach_fusing
from .fusing import said as fused_links
from .int_attention import attach as attach_int_attention
from .int_attention import check as check_int_attention
from .int_attention import choices as attention_choices
from .layer_making import layer_of_codes, layer_over_windows
from .layers import QuantLinear
from .learning import Asked, Learner, Learning, LearnsAttention, key_of, learn
from .methods.base import Group, Rounded, SiteWeight
from .models import Model
from .plans import check_formats, check_plan, check_simulated, over_one_window, steps_of
from .schema import Plan, Sampler, SitePlan, Value, Window
from .shared_inputs import share_bases, share_codes
from .sharing import attach as attach_sharing
from .sharing import check_family, check_guidance
from .sharing_choice import Sharing, SharingRequest, Similarity, chosen_sharing
from .step import attach
from .streaming import present, put_away
from .support import unsuited
from .vectors import VectorCodes


@dataclass(frozen=True)
class Scope:
    """Which sites were quantized, and why the others were kept."""

    quantized: tuple[str, ...]
    kept: dict[str, str]


@dataclass(frozen=True)
class BackendReport:
    """What arithmetic the quantized sites run on, and how they hold their weights."""

    backend: str  # simulate, integer, triton, or mixed
    evidence: str  # measured where real low-bit arithmetic ran everywhere, else simulated
    why: str
    residency: str | None = (
        None  # speed, memory, or mixed; None where there is no quantized site of ours
    )
    sites: Mapping[str, str] = field(default_factory=dict)  # why each runs as it does


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
    sharing: Sharing | None = None  # attention shared between the guidance branches; None: off
    attention: Mapping[str, AttentionRange] = field(
        default_factory=dict
    )  # integers inside, by name


def backend_report(transformer: nn.Module, rows: int) -> BackendReport:
    """What the quantized sites run on when each gets `rows` rows (batch x tokens).

    One real low-bit path among simulated ones does not make a measurement: all must be real.
    """
    layers = {n: m for n, m in transformer.named_modules() if isinstance(m, QuantLinear)}
    chosen = {}
    for name, layer in layers.items():
        with present(layer):  # streamed, its numbers say what computes with them
            chosen[name] = layer.why(rows)
    ran = [*chosen.values(), *attention_choices(transformer)]
    if not ran:
        return BackendReport("pytorch", "measured", "ordinary matmuls")
    sites = {n.removesuffix(".base_layer"): why for n, (_, why) in chosen.items()}  # PEFT's name
    names = sorted({backend for backend, _ in ran})
    reasons = sorted({why for _, why in ran})
    residency, *others = sorted({layer.residency for layer in layers.values()}) or [None]
    backend = names[0] if len(names) == 1 else "mixed"
    evidence = "simulated" if "simulate" in names else "measured"
    fused = fused_links(transformer, rows) if names != ["simulate"] else ""
    why = "; ".join([*reasons[:3], *([fused] if fused else [])])
    return BackendReport(backend, evidence, why, "mixed" if others else residency, sites)


def parse_options(key: str, given: Mapping[str, Any]) -> Value:
    """The options of a method, checked; unknown names and bad values are one clear error."""
    card: Card = methods().get(key) or _no_method(key)
    kind = load_method(key).Options
    options = card.expanded(given)
    for name in options:
        if name not in kind.model_fields:
            raise unknown(
                f"option of {card.key}", name, kind.model_fields, f"List them: dqviz methods {key}"
            )
    return kind.parse(options, f"options of {key}")


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
    similarity: Similarity | None = None,
    share: bool = True,
    learning: Learning | None = None,
    on_site: Callable[[int, int], None] | None = None,
) -> Quantized:
    """Quantize the transformer of `model` with one method and one plan.

    The result shares every tensor that it does not change with the model. `seen` is needed by
    methods whose card names statistics, `similarity` where the options ask for attention sharing
    that is chosen by what was measured. `share=False` leaves attention as it is, whatever they ask.
    A method that learns writes and tells what `learning` says; the state on disk is the caller's to discard.
    `on_site(done, total)` reports progress and may raise `Cancelled`.
    """
    chosen = parse_options(method, options or {})
    asked = sharing_asked(method, options or {}) if share else None
    sharing = None if asked is None else _sharing(asked, model, seen, similarity)
    module = load_method(method)
    check_plan(plan, model)
    check_supported(model, method, plan)
    check_streamed(model, method, chosen)
    check_int_attention(model.transformer, model.adapter, plan.attention, chosen)
    transformer = shallow_copy(model.transformer)
    plan, groups = groups_of(model, method, plan, chosen, seen, seed=seed)
    check_simulated(plan, backend)
    learner = _learned(method, Asked(model, plan, groups, seen, chosen, seed), learning)
    found = None if learner is None else learner.rounded()
    made_in = Path(mkdtemp(prefix=f"{method}-", dir=model.scratch)) if model.scratch else Path()
    notes: dict[str, dict[str, object]] = {}
    for index, (group, statistics) in enumerate(groups):
        kind = {"dtype": model.dtype, "backend": backend}
        if found is None:
            made = layers_of(module, group, statistics, plan, chosen, seed, **kind)
        else:
            rounded = [found[site.name] for site in group.sites]
            made = layers_from(rounded, group, method, plan, **kind)
        for name, (layer, said) in made.items():
            swap(transformer, name, layer.to(model.device))
            notes[name] = said
        if model.scratch is not None:
            share_bases(transformer, [s for s in model.sites if s.name in made])
            layers = {name: layer for name, (layer, _) in made.items()}
            put_away(layers, made_in / f"{index}.safetensors")
        if on_site is not None:
            on_site(index + 1, len(groups))
    fold = _fold(chosen)
    if fold != "none":
        folded = fold_scales(transformer, model, plan, fold)
        notes |= {name: {**notes[name], **said} for name, said in folded.items()}
    if model.scratch is None:
        share_bases(transformer, model.sites)
    share_codes(transformer, model.sites)
    attach(transformer, plan.windows, model.adapter.noisiest_timestep)
    attach_int_attention(transformer, model.adapter, plan.attention, backend)
    if sharing is not None:
        attach_sharing(transformer, model.adapter, sharing)
    inside = learner.attention() if isinstance(learner, LearnsAttention) else {}
    attach_ranges(transformer, inside)
    attach_fusing(transformer, model.adapter)
    quantized = Quantized(
        transformer, method, plan, chosen.to_json(), _scope(model, plan), notes, sharing, inside
    )
    _check_scope(quantized)
    return quantized


def sharing_asked(method: str, options: Mapping[str, Any]) -> SharingRequest | None:
    """The attention sharing that a method's options ask for; None where they ask for none."""
    asked = getattr(load_method(method), "sharing", None)
    return None if asked is None else asked(parse_options(method, options))


def _sharing(
    asked: SharingRequest, model: Model, seen: Seen | None, similarity: Similarity | None
) -> Sharing:
    check_family(model.adapter)
    if seen is not None:
        check_guidance(model.adapter, float(seen.manifest["sampler"]["guidance"]))
    return chosen_sharing(asked, model.adapter.spatial_attentions(model.transformer), similarity)


def check_options(
    model: Model, method: str, plan: Plan, options: Mapping[str, Any], timesteps: Sequence[float]
) -> None:
    """Stop at options that fit neither the model nor the steps, before anything is calibrated."""
    plan = over_one_window(plan, methods()[method])
    groups = Groups(model, plan, None, methods()[method])
    chosen = parse_options(method, options)
    check_supported(model, method, plan)
    check_streamed(model, method, chosen)
    check_int_attention(model.transformer, model.adapter, plan.attention, chosen)
    _check_options(method, groups, timesteps, chosen)


def check_supported(model: Model, method: str, plan: Plan) -> None:
    """Stop where a method cannot make what the plan asks for, or needs an adapter and there is none."""
    card = methods()[method]
    reason = "" if model.adapter.known else unsuited(card)
    if reason:
        raise BadInput(
            f"{method} {reason}: {model.adapter.transformer_class} has no adapter; take a method that "
            "does not, e.g. rtn"
        )
    check_formats(card, plan.sites)


def check_streamed(model: Model, method: str, options: Value) -> None:
    """Stop where a method needs more of a network than the layer at hand, and the rest lies on disk."""
    reason = "" if model.scratch is None else unstreamed(method, options)
    if reason:
        raise BadInput(f"{reason}; leave --low-memory away, or take another, e.g. viditq")


def unstreamed(method: str, options: Value) -> str:
    """Why a method cannot work with blocks on disk; nothing where it can."""
    if hasattr(load_method(method), "learner"):
        return f"{method} learns over the whole network, which must be in memory for that"
    if _fold(options) != "none":
        return f"fold={_fold(options)} changes weights of other layers, which must be in memory for that"
    return ""


def _fold(options: Value) -> Fold:
    return getattr(options, "fold", "none")


def _check_options(method: str, groups: Groups, timesteps: Sequence[float], options: Value) -> None:
    module = load_method(method)
    check, check_sites = getattr(module, "check", None), getattr(module, "check_sites", None)
    if check is not None and (timesteps or not groups.card.needs):
        check(groups.plan, groups.names, timesteps, options)
    if check_sites is not None:
        check_sites(groups.plan, groups.sites, options)


def groups_of(
    model: Model, method: str, plan: Plan, options: Value, seen: Seen | None, *, seed: int = 0
) -> tuple[Plan, Groups]:
    """The plan as the method changes it, and its groups with their statistics, as `quantize` has them."""
    plan = over_one_window(plan, methods()[method])
    own = with_own_formats(load_method(method), model.sites, plan.sites, options)
    plan = plan.model_copy(update={"sites": dict(own)})
    groups = Groups(model, plan, seen, methods()[method])
    _check_options(method, groups, groups.timesteps, options)
    windows = plan.windows
    plan = planned(load_method(method), plan, groups, groups.timesteps, options, seed)
    if seen is not None and plan.windows != windows:
        sampler = Sampler.parse(seen.manifest["sampler"], "the calibration's sampler")
        plan = plan.model_copy(update={"sampler": sampler.fingerprint})
    return plan, replace(groups, plan=plan)


@dataclass(frozen=True)
class Groups:
    """The groups of a plan with their statistics; weights are read when a group is asked for."""

    model: Model
    plan: Plan
    seen: Seen | None
    card: Card

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Of the calibrated steps."""
        return () if self.seen is None else self.seen.timesteps

    @property
    def sites(self) -> list[Site]:
        """The quantized ones."""
        named = {name for names in self._sites().values() for name in names}
        return [site for site in self.model.sites if site.name in named]

    @property
    def names(self) -> list[tuple[str, ...]]:
        """Of each group, the name of its tensor and those of its sites."""
        return [(input_of, *sites) for input_of, sites in self._sites().items()]

    def __len__(self) -> int:
        return len(self._sites())

    def __iter__(self) -> Iterator[tuple[Group, InputStatistics | None]]:
        steps = steps_of(self.plan.windows, self.timesteps)
        for input_of, sites in self._sites().items():
            weights = tuple(self._weight(name) for name in sites)
            yield Group(input_of, weights, steps), self._statistics(input_of, weights)

    def _sites(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for site in self.model.sites:
            site_plan = self.plan.sites.get(site.name)
            if site_plan is not None and site_plan.quantized:
                found.setdefault(site.input_of, []).append(site.name)
        return found

    def _weight(self, name: str) -> SiteWeight:
        linear = self.model.transformer.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        # Methods compute where the statistics are; the layers they make go back to the model.
        with present(linear):
            bias = None if linear.bias is None else linear.bias.detach().cpu()
            weight = linear.weight.detach().cpu().float()
        group = next(site.group for site in self.model.sites if site.name == name)
        return SiteWeight(name, weight, bias, self.plan.sites[name], group)

    def _statistics(self, input_of: str, weights: Sequence[SiteWeight]) -> InputStatistics | None:
        if not self.card.needs or self.seen is None:
            return None
        if input_of not in self.seen.inputs:
            kept = {s.name for s in self.model.sites if s.kept_reason}
            if all(w.name in kept and not any(w.plan.activations) for w in weights):
                return None  # a method quantizes it besides: weights alone, nothing was recorded
            raise BadInput(
                f"the calibration has no statistics of {input_of}; it was recorded from another model"
            )
        return self.seen.inputs[input_of]


def with_own_formats(
    module: Any, sites: Sequence[Site], formats: Mapping[str, SitePlan], options: Value
) -> Mapping[str, SitePlan]:
    """The formats as the method has them from the sites alone; most methods leave them as they are."""
    change = getattr(module, "own_formats", None)
    return formats if change is None else change(sites, formats, options)


def planned(
    module: Any,
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Value,
    seed: int,
) -> Plan:
    """The plan as the method changes it; most methods leave it as it is."""
    change = getattr(module, "planned", None)
    return plan if change is None else change(plan, groups, timesteps, options, seed)


def _learned(method: str, asked: Asked, learning: Learning | None) -> Learner | None:
    """What a method that learns has learned with, after its last step; None of any other method."""
    make = getattr(load_method(method), "learner", None)
    if make is None:
        return None
    learner: Learner = make(asked)
    learn(learner, method, key_of(asked, method), learning)
    return learner


def layers_of(
    module: Any,
    group: Group,
    statistics: InputStatistics | None,
    plan: Plan,
    options: Value,
    seed: int,
    *,
    dtype: torch.dtype,
    backend: str | None = None,
) -> dict[str, tuple[QuantLinear, dict[str, object]]]:
    """The quantized layers of one group by site name, each with the method's notes."""
    rounded = module.quantize_group(group, statistics, options, seed)
    return layers_from(rounded, group, module.CARD.key, plan, dtype=dtype, backend=backend)


def layers_from(
    rounded: Sequence[Rounded | tuple[Rounded, ...]],
    group: Group,
    method: str,
    plan: Plan,
    *,
    dtype: torch.dtype,
    backend: str | None = None,
) -> dict[str, tuple[QuantLinear, dict[str, object]]]:
    """The same from what was made of the sites."""
    made = {}
    for site, found in zip(group.sites, rounded, strict=True):
        parts = found if isinstance(found, tuple) else (found,)
        if site.plan.static_formats and parts[0].ranges is None:
            raise BadInput(
                f"{site.name} has static activation formats, whose ranges {method} does not "
                "calibrate; use method static-step, or formats that are not static"
            )
        for part in parts:
            if isinstance(part.weight, VectorCodes):
                part.weight.check(site.name)
        layers = [
            layer_of_codes(
                r.weight,
                site.bias if r.bias is None else r.bias,
                learned_bias=r.bias is not None,
                plan=own,
                windows=windows,
                channel_scale=r.channel_scale,
                signs=r.signs,
                blocks=r.blocks,
                low_rank=r.low_rank,
                ranges=r.ranges,
                shift=r.shift,
                migration=r.migration,
                dtype=dtype,
                backend=backend,
            )
            for r, own, windows in _formats_of(found, site.plan, plan.windows)
        ]
        layer, notes = layers[0], parts[0].notes or {}
        if isinstance(found, tuple):
            layer = layer_over_windows(layers, site.plan, plan.windows)
            notes = {"windows": [r.notes or {} for r in parts]}
        made[site.name] = layer, notes
    return made


def _formats_of(
    found: Rounded | tuple[Rounded, ...], plan: SitePlan, windows: tuple[Window, ...]
) -> list[tuple[Rounded, SitePlan, tuple[Window, ...]]]:
    """What was made, with its formats and windows: all of them, or each its own."""
    if isinstance(found, Rounded):
        return [(found, plan, windows)]
    return [
        (r, SitePlan(weight=plan.weight, activations=(fmt,)), (window,))
        for r, fmt, window in zip(found, plan.activations, windows, strict=True)
    ]


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
