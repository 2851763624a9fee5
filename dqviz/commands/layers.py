"""`dqviz layers`: the linear layers of a model."""

from __future__ import annotations

from .base import Device, DType, Json, Model, show


def layers(
    model: Model, device: Device = "auto", dtype: DType = "auto", json_: Json = False
) -> None:
    """List the linear layers: roles, shapes, what is kept."""
    from ..catalogue import list_sites
    from ..tables import table

    found = list_sites(model, device, dtype)
    rows = [
        (
            s["name"],
            "" if s["block"] is None else s["block"],
            s["role"],
            f"{s['in_features']} -> {s['out_features']}",
            s["rotation"] or "",
            s["kept_reason"] or "",
        )
        for s in found["sites"]
    ]
    show(found, json_, table(("site", "block", "role", "shape", "Hadamard", "kept because"), rows))
