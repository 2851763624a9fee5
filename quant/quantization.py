"""Applying a method to a model: one transformer in, a drop-in quantized transformer out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from torch import nn

from .attention_ranges import AttentionRange
from .attention_ranges import attach as attach_ranges
from .cards import load_method, methods
from .errors import BadInput, DQVizError
from .folding import fold_scales
from .fusing import attach as attach_fusing
from .group_layers import layers_from, layers_of
from .int_attention import attach as attach_int_attention
from .int_attention import check as check_int_attention
from .layers import QuantLinear
from .learning import Asked, Learner, Learning, LearnsAttention, key_of, learn
from .method_options import fold_asked, parse_options, sharing_asked, unstreamed
from .models import Model
from .plans import check_formats, check_plan, check_simulated, over_one_window
from .schema import Plan, SitePlan, Value
from .seen import Seen
from .shared_inputs import share_bases, share_codes
from .sharing import attach as attach_sharing
from .sharing import check_family, check_guidance
from .sharing_choice import Sharing, SharingRequest, Similarity, chosen_sharing
from .site_groups import Groups, check_groups, groups_of
from .step import attach
from .streaming import put_away
from .support import unsuited
from .swapping import shallow_copy, swap


@dataclass(frozen=True)
class Scope:
    """Which sites were quantized, and why the others were kept."""

    quantized: tuple[str, ...]
    kept: dict[str, str]


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
    fold = fold_asked(chosen)
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
    check_groups(method, groups, timesteps, chosen)


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


def _learned(method: str, asked: Asked, learning: Learning | None) -> Learner | None:
    """What a method that learns has learned with, after its last step; None of any other method."""
    make = getattr(load_method(method), "learner", None)
    if make is None:
        return None
    learner: Learner = make(asked)
    learn(learner, method, key_of(asked, method), learning)
    return learner


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
