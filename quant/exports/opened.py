"""A checkpoint of ours as exports read it: site by site from disk, never a whole network in memory.

Shapes: W [o, i] weight; s [i], R [i, i] the site's change of basis; L [o, i] its low-rank branch; x [i].

    y = ((x / s) R) (W' + L)^T = x W^T      W = (W' + L) R^T / s

Input that is not rounded goes through either side with the same result, so W is what a program without our
transforms can hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import adapter_for
from ..checkpoint import CONFIG, WEIGHTS, CheckpointConfig, check_checkpoint, transformer_folder
from ..diffusers_quantizer import empty_layer
from ..errors import BadCheckpoint, BadInput
from ..layers import QuantLinear
from ..schema import Format, Sampler, SitePlan
from ..site_tensors import Transform
from ..streaming import empty_network
from ..tensor_files import Place, places, read, write_in_turn
from . import Lossy

_COLUMNS = 1024  # of W that are undone at once
_HALF = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Part:
    """One tensor to write: made when its turn comes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Part:
        """A tensor that is at hand."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose files were found to be whole."""

    folder: Path  # of the transformer
    config: CheckpointConfig
    described: Mapping[str, Any]  # the transformer's own configuration
    places: Mapping[str, Place]  # of every stored tensor
    skeleton: nn.Module  # of that configuration, on the meta device
    sampler: Sampler | None = None  # that windows are counted with

    @property
    def sites(self) -> dict[str, SitePlan]:
        """Every quantized site with its formats, in the plan's order."""
        return {name: site for name, site in self.config.plan.sites.items() if site.quantized}

    def linear(self, name: str) -> nn.Linear:
        """The ordinary layer that a site was made of, without its numbers."""
        try:
            found = self.skeleton.get_submodule(name)
        except AttributeError:
            found = None
        if not isinstance(found, nn.Linear):
            raise BadCheckpoint(
                f"{self.folder}: it quantizes site '{name}', which this transformer does not have"
            )
        return found

    def layer(self, name: str) -> QuantLinear:
        """One quantized site with its stored numbers."""
        layer = empty_layer(self.linear(name), self.sites[name], self.config, name, torch.float32)
        for last, buffer in list(layer.named_buffers()):
            stored = self.tensor(f"{name}.{last}")
            if stored.shape != buffer.shape:
                raise BadCheckpoint(
                    f"{self.folder}: tensor '{name}.{last}' has shape {tuple(stored.shape)}, its format "
                    f"needs {tuple(buffer.shape)}"
                )
            if stored.is_floating_point() and not bool(torch.isfinite(stored.float()).all()):
                raise BadCheckpoint(f"{self.folder}: tensor '{name}.{last}' holds NaN or infinity")
            setattr(layer, last, stored)
        return layer

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is stored, under its own name or that of its equal."""
        return read(self._place(name))

    def others(self) -> Iterator[tuple[str, Part]]:
        """Every tensor that is not of a quantized site, those that are stored once under each name."""
        inside = set(self.sites)
        for name in (*self.places, *self.config.shared):
            if name.rpartition(".")[0] not in inside:
                place = self._place(name)
                yield name, Part(place.shape, place.dtype, lambda place=place: read(place))

    def bias(self, name: str) -> dict[str, Part]:
        """The bias of a site under its full name; nothing where it has none."""
        if self.linear(name).bias is None:
            return {}
        place = self._place(f"{name}.bias")
        return {f"{name}.bias": Part(place.shape, place.dtype, lambda: read(place))}

    @cached_property
    def dtype(self) -> torch.dtype:
        """Floating dtype of most numbers that stayed as they were: what dequantized weights are written in."""
        sizes = dict.fromkeys(_HALF, 0)
        for _, part in self.others():
            if part.dtype in sizes:
                sizes[part.dtype] += torch.Size(part.shape).numel()
        return max(sizes, key=lambda dtype: sizes[dtype])

    def dequantized(self, name: str) -> dict[str, Part]:
        """A site as an ordinary linear: W in `dtype` and its bias."""
        linear, dtype = self.linear(name), self.dtype

        def make() -> Tensor:
            weight = plain_weight(self.layer(name)).to(dtype)
            if not bool(torch.isfinite(weight).all()):
                raise BadInput(f"{name}: its dequantized weight overflows {dtype}")
            return weight

        shape = (linear.out_features, linear.in_features)
        return {f"{name}.weight": Part(shape, dtype, make), **self.bias(name)}

    def instead(self, name: str, lost: str) -> Lossy:
        """The loss of a site that is written dequantized: what is given, and rounded activations."""
        site = self.sites[name]
        lost += "" if takes(site, None) else f"; {activations(site)}"
        undone = ", transform undone" if self._transform(name) else ""
        exact = "" if self.dtype == torch.float32 else ", rounded to it"
        name_of = str(self.dtype).removeprefix("torch.")
        written = f"dequantized weight in {name_of}{undone}{exact}"
        return Lossy(name, lost, written, dequantized=True)

    def outside_layers(self) -> list[Lossy]:
        """What the checkpoint does between layers, which no format of weights holds."""
        found = [
            Lossy(
                name,
                f"static integers for {', '.join(part.quantizers)}",
                "attention in floating point",
            )
            for name, part in self.config.attention.items()
        ]
        if self.config.plan.attention is not None:
            lost = f"{self.config.plan.attention} queries and keys"
            names = adapter_for(self.skeleton).spatial_attentions(self.skeleton)
            found += [Lossy(name, lost, "attention in floating point") for name in names]
        sharing = self.config.sharing
        for name in sharing.attentions if sharing else ():
            assert sharing is not None
            lost = f"{sharing.mode} shared between the guidance branches"
            found.append(Lossy(name, lost, "attention computed for each branch"))
        return found

    def beyond_codes(self, name: str) -> str:
        """Why the codes of a site are not those of an ordinary linear's weight; "" where they are."""
        weight = self.sites[name].weight
        transform = self._transform(name)
        named = "weight in floating point" if weight is None else str(weight)
        if transform:
            return f"{named}, {transform}"
        coded = weight is not None and weight.kind in ("int", "fp8")
        return "" if coded else named

    def _transform(self, name: str) -> str:
        """What a site does to its input or beside its codes, in words; "" where there is nothing."""
        transform = Transform.from_json(self.config.transforms[name])
        plain = not (
            transform.changes_input
            or transform.rank
            or transform.per_window
            or transform.requantized
        )
        return "" if plain else str(transform)

    def _place(self, name: str) -> Place:
        stored = self.config.shared.get(name, name)
        if stored not in self.places:
            raise BadCheckpoint(f"{self.folder}: tensor '{name}' is missing; save it again")
        return self.places[stored]


def open_checkpoint(folder: Path, sampler: Sampler | None = None) -> Opened:
    """Read what describes a checkpoint, and check its file tensor by tensor; BadCheckpoint at any damage."""
    config = check_checkpoint(folder)
    inside = transformer_folder(folder)
    described = json.loads((inside / CONFIG).read_text(encoding="utf-8"))
    del described["quantization_config"]
    skeleton = empty_network(described, inside / CONFIG)
    missing = sorted(set(_quantized(config)) - set(config.transforms))
    if missing:
        raise BadCheckpoint(f"{inside / CONFIG}: site '{missing[0]}' has no entry in 'transforms'")
    return Opened(inside, config, described, places(inside / WEIGHTS), skeleton, sampler)


def _quantized(config: CheckpointConfig) -> Iterator[str]:
    return (name for name, site in config.plan.sites.items() if site.quantized)


def plain_weight(layer: QuantLinear) -> Tensor:
    """W of an ordinary linear with the layer's function on input that is not rounded, float32 [o, i].

    Where the windows of a plan have codes of their own it is the mean over them; where codes are made
    anew at each window it is the weight that they are made of.
    """
    if layer.transform.requantized:
        return layer.weight.float()
    windows = len(layer.windows) if layer.transform.per_window else 1
    return torch.stack([_undone(layer, window) for window in range(windows)]).mean(0)


def _undone(layer: QuantLinear, window: int) -> Tensor:
    """(W' + L) R^T / s of one window, float32 [o, i]."""
    weight = layer.dequantized_weight(window)
    if layer.transform.rank:
        up, down = (b[window] if layer.transform.per_window else b for b in (layer.up, layer.down))
        weight = weight + up.float() @ down.float()
    if not layer.transform.changes_input:
        return weight
    columns = []
    for first in range(0, layer.in_features, _COLUMNS):
        count = min(_COLUMNS, layer.in_features - first)
        rows = torch.zeros(count, layer.in_features)
        rows[:, first : first + count] = torch.eye(count)
        columns.append(weight @ layer.input_transform(rows, window).T)  # [o, c]
    return torch.cat(columns, dim=1)


def activations(site: SitePlan) -> str:
    """The activation formats of a site in words, those of its windows one after the other."""
    formats = list(dict.fromkeys(site.activations))
    return "activations " + " and ".join(str(f or "in floating point") for f in formats)


def takes(site: SitePlan, fmt: Format | None) -> bool:
    """Whether the activations of a site have this format in every window."""
    return all(activation == fmt for activation in site.activations)


def write_parts(file: Path, parts: Mapping[str, Part], metadata: Mapping[str, str]) -> None:
    """A safetensors file of parts, each made when its turn comes."""
    shapes = {name: (part.shape, part.dtype) for name, part in parts.items()}
    write_in_turn(file, shapes, lambda name: parts[name].make(), metadata)
