"""Lists of what there is: models, methods, sites, sizes; the JSON of the listing commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quant import cards
from quant.errors import BadInput, unknown
from quant.models import CARD_NAME, ModelCard, embedded_models
from quant.schema import parse_bits
from quant.sources import Source, check_source
from quant.weight_files import safetensors_header

SAMPLES = 8  # that a calibration draws by default


def list_models() -> list[dict[str, Any]]:
    """The embedded models, from their cards and file headers; loads no torch."""
    found = []
    for key, folder in embedded_models().items():
        data = json.loads((folder / CARD_NAME).read_text(encoding="utf-8"))
        card = ModelCard.parse(data, str(folder / CARD_NAME))
        files = sorted((folder / "transformer").glob("*.safetensors"))
        found.append(
            {
                "key": key,
                "title": card.title,
                "family": card.family,
                "task": card.task,
                "params": sum(_elements(file) for file in files),
                "bytes": sum(file.stat().st_size for file in files),
                "source": "embedded",
                "steps": card.steps,
                "guidance": card.guidance,
                "classes": card.classes,
                "prompts": list(card.prompts),
                "licence": card.licence,
            }
        )
    return found


def _elements(file: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    total = 0
    for name, entry in safetensors_header(file).items():
        if name != "__metadata__":
            count = 1
            for extent in entry["shape"]:
                count *= extent
            total += count
    return total


def list_methods(key: str | None = None) -> list[dict[str, Any]]:
    """Every method, or one, from its card; loads no torch."""
    known = cards.methods()
    if key is not None and key not in known:
        raise unknown("method", key, known, "List them: dqviz methods")
    chosen = [card for name, card in known.items() if key in (None, name)]
    return [
        {
            "key": card.key,
            "title": card.title,
            "paper": card.paper,
            "summary": card.summary,
            "bits": list(card.bits),
            "options": [asdict(option) for option in card.options],
            "presets": [asdict(preset) for preset in card.presets],
            "beats": card.beats or None,
            "needs": list(card.needs),
            "learns": card.learns,
        }
        for card in chosen
    ]


def list_sites(source: Source, device: str = "auto", dtype: str = "auto") -> dict[str, Any]:
    """Every linear layer of a model, or of a shape that is known by name, in module order.

    `parameters` are the transformer's, `site_parameters` those in linear layers, biases included;
    `components` are the parts of a model's pipeline, of which only the transformer is quantized.
    """
    from quant.components import components_of
    from quant.sizes import known_shapes, open_target
    from quant.transforms import rotation_of

    from .planning import load, quiet_diffusers

    named: dict[str, Any]
    if source.ref in known_shapes():
        quiet_diffusers()
        shape = open_target(source.ref)
        named = {"model": source.ref, "fingerprint": None, "components": [], "notes": []}
        transformer, listed = shape.transformer, shape.sites
    else:
        check_source(source, extra=known_shapes())
        model = load(source, device, dtype)
        named = {
            "model": model.key,
            "fingerprint": model.fingerprint,
            "revision": model.revision,
            "loras": [lora.to_json() for lora in model.loras],
            "notes": list(model.notes),
            "components": [part.to_json() for part in components_of(model)],
        }
        transformer, listed = model.transformer, model.sites
    sites = [
        {
            "name": site.name,
            "block": site.block,
            "role": site.role,
            "group": site.group,
            "in_features": site.in_features,
            "out_features": site.out_features,
            "kept_reason": site.kept_reason,
            "rotation": None if site.kept_reason else rotation_of(site.in_features),
        }
        for site in listed
    ]
    linears = [transformer.get_submodule(site.name) for site in listed]
    return {
        **named,
        "parameters": sum(p.numel() for p in transformer.parameters()),
        "site_parameters": sum(p.numel() for linear in linears for p in linear.parameters()),
        "sites": sites,
    }


def size_report(
    target: str | Source, method: str, bits: str, plan: Path | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What a quantized transformer will take on disk and in memory; `target` is a model or a known shape.

    Where a method can be stored in several ways, each of them is in `alternatives`; `work` says what
    the calibration and the method will take on this machine.
    """
    if method not in cards.methods():
        raise unknown("method", method, cards.methods(), "List them: dqviz methods")
    if bool(bits) == (plan is not None):
        raise BadInput("give either --bits, e.g. --bits w4a8, or --plan FILE")
    chosen = parse_bits(bits) if bits else None

    from quant import sizes
    from quant.effort import Network, shapes_of
    from quant.method_options import parse_options
    from quant.plans import read_plan
    from quant.residency import predicted

    from .planning import quiet_diffusers
    from .projection import projected

    quiet_diffusers()
    given = None if plan is None else read_plan(plan)
    asked = parse_options(method, options)
    opened = sizes.open_target(target)

    def stored(own: Mapping[str, Any]) -> dict[str, Any]:
        size = sizes.size_of(opened, method, chosen, plan=given, options=own)
        forms = sizes.stored_forms(opened, method, chosen, given, own)
        memory = predicted(size, opened.sites, *forms).to_json()
        return {**size.to_json(), "memory": memory}

    ways = getattr(cards.load_method(method), "alternatives", lambda _: [])(asked)
    ways = [way.to_json() for way in ways]
    differ = [name for name in asked.to_json() if len({str(way[name]) for way in ways}) > 1]
    shapes, frames = shapes_of(opened.transformer, opened.sites)
    return {
        "target": opened.ref,
        "method": method,
        "bits": str(chosen) if chosen else "plan",
        **stored(options),
        "alternatives": [
            {"options": {name: way[name] for name in differ}, **stored(way)} for way in ways
        ],
        "work": projected(
            Network(opened.sites, opened.adapter),
            shapes,
            opened.sampler,
            SAMPLES,
            [(method, options)],
            frames=frames,
        ),
        "evidence": "predicted",
    }
