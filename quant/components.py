"""What a pipeline is made of, and that only its transformer is quantized."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from .models import Model

TRANSFORMER = "transformer"


@dataclass(frozen=True)
class Component:
    """One part of a pipeline."""

    name: str  # in the pipeline: transformer, vae, text_encoder, scheduler ..
    kind: str  # its class
    parameters: int | None  # None: it has none
    bytes: int | None  # of its weight files on disk; None without one
    quantized: str  # "to be quantized", or "not quantized"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def components_of(model: Model) -> list[Component]:
    """Every part of a model's pipeline, the transformer first."""
    parts = {name: part for name, part in model.pipe.components.items() if part is not None}
    names = sorted(parts, key=lambda name: name != TRANSFORMER)
    return [_component(model, name, parts[name]) for name in names]


def _component(model: Model, name: str, part: Any) -> Component:
    network = isinstance(part, nn.Module)
    files = list((model.path / name).glob("*.safetensors"))
    if name == TRANSFORMER and model.weights is not None:
        files = [model.weights]
    return Component(
        name=name,
        kind=type(part).__name__,
        parameters=sum(p.numel() for p in part.parameters()) if network else None,
        bytes=sum(file.stat().st_size for file in files) if files else None,
        quantized="to be quantized" if name == TRANSFORMER else "not quantized",
    )
