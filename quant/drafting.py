"""Blueprints of loaded models, and the bytes of a plan's file, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from .adapters import Site
from .blueprint import AttentionFacts, Blueprint, SiteFacts
from .effort import Network, shapes_of
from .footprint import input_shapes
from .method_options import parse_options
from .models import Model
from .plans import steps_of
from .roofline import attentions_of
from .schema import Plan, Sample, Sampler, SitePlan, Window
from .sensitivity.cells import KEPT, Bits, format_of
from .sizes import file_bytes, kept_shapes, planned_shapes, unfolded_forms
from .storage import stored_tensors
from .tensor_files import Shapes, named, tensor_bytes, unnamed


def blueprint_of(
    model: Model,
    method: str,
    options: Mapping[str, Any],
    sites: Iterable[str],
    bits: Sequence[Bits],
    windows: Sequence[Window],
    sample: Sample,
    sampler: Sampler,
    timesteps: Sequence[float],
) -> Blueprint:
    """What there is to know of these sites at these bits; the network is evaluated once, on `sample`."""
    rows = input_shapes(model, sample, sampler)
    _, frames = shapes_of(model.transformer, model.sites, sampler.size, sampler.frames)
    shared = set(stored_tensors(model.transformer, model.source_dtype).shared)
    full = kept_shapes(model.transformer, shared, model.source_dtype)
    described = named(full)
    kind = named({"x": ((), model.source_dtype)})["x"][1]
    facts = tuple(
        SiteFacts(
            **asdict(s),
            group=s.group,
            rows=rows[s.input_of].tokens if s.input_of in rows else 1,
        )
        for s in model.sites
    )
    network = Network(model.sites, model.adapter)
    owners = steps_of(windows, timesteps)
    bare = Blueprint(
        model=model.fingerprint,
        method=method,
        options=dict(options),
        sampler=sampler,
        windows=tuple(windows),
        shares=tuple(len(steps) / len(timesteps) for steps in owners),
        branches=model.branches(sampler.guidance),
        sites=facts,
        attentions=tuple(AttentionFacts(**asdict(a)) for a in attentions_of(network, rows, frames)),
        bytes={},
        rest_bytes=0,
        fp16_bytes=0,
        dtype=kind,
        tensors=described,
    )
    return bare.model_copy(update=_priced(bare, tuple(sites), bits))


def size_of_plan(blueprint: Blueprint, plan: Plan) -> int:
    """Bytes of the file that the blueprint's method writes for a plan: those on disk."""
    return file_bytes(_shapes(blueprint, plan.sites))


def _shapes(blueprint: Blueprint, formats: Mapping[str, SitePlan]) -> Shapes:
    sites = [Site(**s.model_dump(exclude={"rows", "group"})) for s in blueprint.sites]
    options = parse_options(blueprint.method, blueprint.options)
    formats, transforms = unfolded_forms(
        blueprint.method, options, sites, formats, blueprint.sampler.steps
    )
    dtype = unnamed({"": ((), blueprint.dtype)})[""][1]
    return planned_shapes(unnamed(blueprint.tensors), sites, formats, transforms, dtype)


def _priced(bare: Blueprint, sites: tuple[str, ...], bits: Sequence[Bits]) -> dict[str, Any]:
    """Bytes of every site at every width, and of the rest: one file for each width tells them all."""
    of_site: dict[str, dict[str, int]] = {name: {} for name in sites}
    rests = []
    for b in dict.fromkeys([*bits, KEPT]):
        site = SitePlan(weight=format_of(b, "weight"), activations=(None,) * len(bare.windows))
        shapes = _shapes(bare, dict.fromkeys(sites, site))
        for name in sites:
            own = [v for n, v in shapes.items() if n.rpartition(".")[0] == name]
            of_site[name][str(b)] = sum(tensor_bytes(*value) for value in own)
        rests.append(file_bytes(shapes) - sum(of_site[name][str(b)] for name in sites))
    half = {
        name: (shape, torch.float16 if kind.is_floating_point else kind)
        for name, (shape, kind) in unnamed(bare.tensors).items()
    }
    return {"bytes": of_site, "rest_bytes": max(rests), "fp16_bytes": file_bytes(half)}
