"""What is timed: a model, or a transformer that is known by its shapes alone, with the distinct shapes of its layers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from quant.adapters import Adapter, Site, adapter_for
from quant.effort import Network, shapes_of
from quant.errors import BadInput
from quant.footprint import input_shapes
from quant.models import Model, ModelCard
from quant.roofline import attentions_of
from quant.sizes import known_shapes, open_target
from quant.sources import Source, check_source

from .. import machine
from ..planning import load, quiet_diffusers

if TYPE_CHECKING:
    from quant.recording import InputShape
    from quant.schema import Sampler

HELD_BY_LAYER = 20  # bytes for each number of input and output, and
HELD_BY_WEIGHT = (
    32  # for each of the weight, while a layer is timed in every way (measured: at most 15, and 30)
)
SLACK = 64 * machine.MIB  # small things
DRAWN = 8  # tensors of the widest input, in float32, that one evaluation holds at once
WAYS_HELD = 28  # bytes of memory for each weight: float32, ours in four ways, a peer and the copy that it is made of


SPREAD = (1, 4)  # times the rows of a layer: with a doubling to either side, batches of 1 to 8


class Layer(NamedTuple):
    """Linear layers of one shape: x [m, k], weight [n, k]."""

    m: int  # rows of all samples and branches of one evaluation
    k: int
    n: int
    count: int = 1  # how many of the network are like this

    @property
    def operations(self) -> int:
        """A multiply-add is two."""
        return 2 * self.m * self.k * self.n

    @property
    def memory(self) -> int:
        """Bytes that timing it in every way takes on a CPU, at most."""
        outside = self.m * (self.k + self.n)
        return HELD_BY_LAYER * outside + HELD_BY_WEIGHT * self.k * self.n + SLACK


class Heads(NamedTuple):
    """Self-attentions of one shape: q, k and v [samples, heads, tokens, channels]."""

    samples: int  # times branches, and frames that attend apart
    heads: int
    tokens: int
    channels: int
    count: int = 1


def spread(layers: Iterable[Layer]) -> list[tuple[int, int, int]]:
    """Distinct shapes (m, k, n) of layers, and of their larger batches."""
    return list(dict.fromkeys((times * x.m, x.k, x.n) for x in layers for times in SPREAD))


def require_memory_for(layer: Layer) -> None:
    """EnvironmentFault with numbers where a CPU cannot hold what timing a layer takes."""
    what = f"timing a layer of {layer.m} x {layer.k} x {layer.n}"
    machine.require_memory(layer.memory, what, "a smaller model, a smaller --batch-size")


@dataclass(frozen=True)
class Subject:
    """A network whose layers are timed."""

    ref: str
    transformer: nn.Module  # on the meta device, where its shapes alone are known
    adapter: Adapter
    sites: Sequence[Site]
    sampler: Sampler
    model: Model | None  # None: its shapes alone are known

    def layers(self, batch: int) -> list[Layer]:
        """Distinct shapes of the sites that are quantized, in the order of the network."""
        shapes = self._rows()
        each = batch * self.adapter.branches(self.sampler.guidance)
        found = Counter(
            (each * shapes[s.input_of].tokens, s.in_features, s.out_features)
            for s in self.sites
            if s.kept_reason is None
        )
        return [Layer(*shape, count) for shape, count in found.items()]

    def attentions(self, batch: int) -> list[Heads]:
        """Distinct shapes of the self-attentions over picture tokens alone, which can take int8 scores."""
        _, frames = shapes_of(self.transformer, self.sites, self.sampler.size, self.sampler.frames)
        network = Network(list(self.sites), self.adapter)
        known = {a.name: a for a in attentions_of(network, self._rows(), frames)}
        each = batch * self.adapter.branches(self.sampler.guidance)
        found: Counter[Heads] = Counter()
        for name in self.adapter.spatial_attentions(self.transformer):
            module = self.transformer.get_submodule(name)
            if name in known and isinstance(module, Attention):  # others have no such processor
                one = known[name]
                samples, width = each * one.queries // one.seen, one.channels // module.heads
                found[Heads(samples, module.heads, one.seen, width)] += 1
        return [shape._replace(count=count) for shape, count in found.items()]

    def _rows(self) -> Mapping[str, InputShape]:
        """Of every input, per sample and branch: as a model has them, from the configuration where it cannot draw."""
        if self.model is not None:
            with suppress(BadInput):
                return input_shapes(self.model, self.model.samples([0])[0], self.sampler)
        size, frames = self.sampler.size, self.sampler.frames
        shapes, _ = shapes_of(self.transformer, self.sites, size, frames)
        if not shapes:
            raise BadInput(
                f"the rows of {self.ref} are not known: its configuration does not say how large a picture is; "
                "name another model or shape"
            )
        return shapes

    def require_memory(self, layers: Sequence[Layer]) -> None:
        """EnvironmentFault with numbers where a CPU cannot hold one evaluation, in every way, of so many rows.

        None is looked for where there is none to make: of a prompted network whose shapes alone are known.
        """
        if self.model is None and self.adapter.family != "dit":
            return
        weights = sum(t.numel() for t in self.transformer.state_dict().values())
        held = WAYS_HELD - (0 if self.model is None else 4)  # a model is in memory already
        widest = max(layer.m * max(layer.k, layer.n) for layer in layers)
        machine.require_memory(
            held * weights + 4 * DRAWN * widest + SLACK,
            f"one evaluation of {self.ref}",
            "a smaller model, a smaller --batch-size",
        )

    def whole(self, device: torch.device, dtype: torch.dtype) -> Model:
        """To evaluate; a network of which shapes alone are known gets random weights.

        Raises BadInput where such a one is prompted.
        """
        if self.model is not None:
            return self.model
        if self.adapter.family != "dit":
            raise BadInput(
                f"of {self.ref} the shapes alone are known, and it is prompted: one evaluation takes a model"
            )
        return randomly(self.ref, device, dtype)


def subject_of(ref: str, device: str) -> Subject:
    """A known shape by name, or a model by any name that `load_model` takes; in bfloat16 on a GPU, float32 elsewhere."""
    quiet_diffusers()
    if ref in known_shapes():
        found = open_target(ref)
        return Subject(ref, found.transformer, found.adapter, found.sites, found.sampler, None)
    check_source(Source.of(ref), extra=known_shapes())
    model = load(ref, device, "bfloat16" if device == "cuda" else "float32")
    own = model.transformer, model.adapter, model.sites
    return Subject(ref, *own, model.sampler(), model)


def randomly(shape: str, device: torch.device, dtype: torch.dtype) -> Model:
    """A class-conditional transformer of a known shape with random weights: times do not depend on them."""
    import diffusers

    config = json.loads(known_shapes()[shape].read_text(encoding="utf-8"))
    cls = config.pop("_class_name")
    torch.manual_seed(0)
    with torch.device(device):
        made = getattr(diffusers, cls)(**config)
    return alone(made.to(dtype).eval().requires_grad_(False), shape, f"{shape}, random")


def alone(transformer: nn.Module, key: str, title: str) -> Model:
    """A DiT as a model that was never on disk and has no VAE, on the device and in the dtype of its weights."""
    from diffusers import DDIMScheduler

    adapter = adapter_for(transformer)
    some = next(transformer.parameters())
    card = ModelCard(
        key=key,
        title=title,
        family="dit",
        task="class-to-image",
        guidance=1.5,
        steps=3,
        scheduler="DDIMScheduler",
    )
    return Model(
        ref=key,
        path=Path(),
        from_hub=False,
        pipe=SimpleNamespace(transformer=transformer, scheduler=DDIMScheduler()),
        adapter=adapter,
        card=card,
        sites=adapter.sites(transformer),
        source_dtype=some.dtype,
        device=some.device,
        dtype=some.dtype,
        classes={i: str(i) for i in range(1000)},
    )
