"""`dqviz layers`: the linear layers of a model."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from .base import show
from .options import NO_LIST, Base, Device, DType, Json, Loras, Offline, Revision


def layers(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_SHAPE", help="A model, or a shape known by name such as dit-xl-2."
        ),
    ],
    revision: Revision = None,
    base: Base = None,
    lora: Loras = NO_LIST,
    offline: Offline = False,
    device: Device = "auto",
    dtype: DType = "auto",
    json_: Json = False,
) -> None:
    """List the linear layers: roles, shapes, what is kept."""
    from quant.sources import Source

    from ..catalogue import list_sites
    from ..tables import table

    source = Source.of(model, revision=revision, base=base, loras=lora, offline=offline)
    found = list_sites(source, device, dtype)
    reasons = Counter(s["kept_reason"] for s in found["sites"] if s["kept_reason"])
    notes = {reason: f"[{i}]" for i, reason in enumerate(reasons, 1)}
    rows = [
        (
            s["name"],
            "" if s["block"] is None else s["block"],
            s["role"],
            f"{s['in_features']} -> {s['out_features']}",
            s["rotation"] or "",
            notes.get(s["kept_reason"], ""),
        )
        for s in found["sites"]
    ]
    totals = (
        f"{len(rows)} linear layers hold {found['site_parameters']:,} of the transformer's "
        f"{found['parameters']:,} parameters"
    )
    head = ("site", "block", "role", "shape", "Hadamard", "kept")
    kept = [
        f"{notes[reason]} {count} layer{'' if count == 1 else 's'} kept: {reason}"
        for reason, count in reasons.items()
    ]
    listed = "\n".join([table(head, rows), *kept, totals])
    parts = (listed, _parts(found["components"]), *found["notes"])
    show(found, json_, "\n\n".join(part for part in parts if part))


def _parts(components: list[dict[str, Any]]) -> str:
    """The parts of a pipeline, as people read them; nothing for a shape, which has none."""
    from ..tables import table

    rows = [
        (
            part["name"],
            part["kind"],
            "" if part["parameters"] is None else f"{part['parameters']:,}",
            "" if part["bytes"] is None else f"{part['bytes'] / 2**20:.1f} MiB",
            "" if part["parameters"] is None else part["quantized"],
        )
        for part in components
    ]
    return table(("component", "class", "parameters", "on disk", ""), rows) if rows else ""
