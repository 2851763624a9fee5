"""One evaluation of a whole network, all guidance branches: full precision, ours, and peers, in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from quant.errors import BadInput
from quant.layers import QuantLinear
from quant.models import Model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits
from quant.sensitivity.sampling import Drawer
from quant.swapping import shallow_copy

from . import peers
from .subject import Subject
from .timing import able, fastest

BITS = ("w8a8", "w4a8")
BACKENDS = {"cpu": ("auto", "integer"), "cuda": ("auto", "triton")}
METHOD = "rtn"  # times are those of any method without a transform


@dataclass
class Evaluated:
    """Seconds of one evaluation."""

    ours: dict[tuple[str, str], float] = field(default_factory=dict)  # by bits and backend
    peers: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def evaluated(
    subject: Subject,
    batch: int,
    runs: int,
    device: torch.device,
    dtype: torch.dtype,
    pause: Callable[[], None] = lambda: None,
) -> Evaluated:
    """All ways in turn; what cannot be timed is left out with its reason."""
    found = Evaluated()
    try:
        model = subject.whole(device, dtype)
        call = _calling(model, batch)
    except BadInput as error:
        found.left_out["evaluation"] = str(error)
        return found
    names = {site.name for site in model.sites if site.kept_reason is None}
    others = {peers.FULL[device.type].replace("cuBLAS", "eager"): call(model.transformer)}
    if device.type == "cpu":
        made = peers.quantized(model.transformer, names)
    else:
        made = {peers.COMPILED: _compiled(model)}
    others |= {name: call(network) for name, network in made.items()}
    calls: dict[str, Callable[[], object]] = {}
    ways: dict[str, tuple[str, str]] = {}
    for bits in BITS:
        for backend in BACKENDS[device.type]:
            name = f"{bits} {backend}"
            try:
                calls[name] = call(_quantized(model, bits, backend, pause))
                ways[name] = bits, backend
            except RuntimeError as error:
                found.left_out[name] = " ".join(str(error).split())
    both = able({**others, **calls}, found.left_out)
    taken = fastest(both, runs, device, pause)
    found.ours = {way: taken[name] for name, way in ways.items() if name in taken}
    found.peers = {name: taken[name] for name in others if name in taken}
    return found


def _calling(model: Model, batch: int) -> Callable[[nn.Module], Callable[[], object]]:
    """The first step of so many samples, through a network."""
    sampler = model.sampler()
    drawer = Drawer(model, sampler)
    begun = drawer.begin(model.samples(range(batch)))
    first = torch.tensor(drawer.timesteps[0])
    return lambda network: lambda: drawer.evaluate(network, begun.latents, first, begun.conditions)


def _quantized(model: Model, bits: str, backend: str, pause: Callable[[], None]) -> nn.Module:
    """RuntimeError where a backend cannot compute some layer exactly on this device."""
    plan = uniform_plan(model, parse_bits(bits), sampler=model.sampler())
    told = quantize(model, METHOD, plan, backend=backend, on_site=lambda *_: pause())
    made = told.transformer
    for layer in made.modules():
        if isinstance(layer, QuantLinear):
            layer.why(1)
    return made


def _compiled(model: Model) -> nn.Module:
    """Block by block, by Inductor; blocks are alike, so that one is compiled and all use it."""
    made: Any = shallow_copy(model.transformer)
    for name in model.adapter.blocks(made):
        made.get_submodule(name).compile()
    return made
