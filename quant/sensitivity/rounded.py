"""Rounded layers of single sites, and a network in which they take turns with full precision's.

A layer is made by `quantize` itself, with a plan that rounds one operand of every asked site and nothing
else. What a layer holds that full precision, or a layer of other bits, holds too is one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..cards import methods
from ..errors import BadInput
from ..layers import QuantLinear
from ..method_options import parse_options
from ..models import Model
from ..plans import check_plan
from ..quantization import check_options, quantize
from ..schema import HIGHEST, LOWEST, Plan, SitePlan, Window
from ..seen import Seen
from ..step import attach_exact, current_timestep
from ..swapping import shallow_copy
from .cells import Bits, Operand, format_of

KEEP_BYTES = 2**30  # of expanded weights: above, they are made again for every call
Where = Callable[[str, float], bool]  # site, timestep -> whether it is rounded there


class RoundedLayers:
    """The layers of every asked site, made when they are first asked for."""

    def __init__(
        self,
        model: Model,
        sites: Sequence[str],
        method: str,
        options: Mapping[str, Any],
        seen: Seen | None,
    ) -> None:
        self.model, self.sites, self.seen = model, tuple(sites), seen
        self.method, self.options = method, dict(options)
        self._made: dict[tuple[Operand, Bits], dict[str, QuantLinear]] = {}
        _check_alone(method, self.options)

    def check(self, operand: Operand, bits: Bits) -> None:
        """Stop at bits that are not understood, or that the method or a shape cannot have."""
        if format_of(bits, operand) is not None:
            plan = self._plan(operand, bits)
            check_plan(plan, self.model)
            timesteps = () if self.seen is None else self.seen.timesteps
            check_options(self.model, self.method, plan, self.options, timesteps)

    def of(self, operand: Operand, bits: Bits) -> dict[str, QuantLinear]:
        """Of every asked site."""
        if (operand, bits) not in self._made:
            self._made[operand, bits] = self._make(operand, bits)
        return self._made[operand, bits]

    @torch.no_grad()
    def output(self, site: str, operand: Operand, bits: Bits, x: Tensor) -> Tensor:
        """What a layer makes of an input; its expanded weight goes again where all of them are too large."""
        layer = self.of(operand, bits)[site]
        y = layer(x.detach())
        if self._expanded_bytes() > KEEP_BYTES:
            layer.forget()
        return y

    def change(self, site: str, operand: Operand, bits: Bits, x: Tensor, y: Tensor) -> Tensor:
        """What rounding changes of an output y = layer(x), in float32."""
        return self.output(site, operand, bits, x).float() - y.float()

    def let_go(self, operand: Operand, bits: Bits) -> None:
        """Drop the layers of these bits."""
        self._made.pop((operand, bits), None)

    def slim(self) -> None:
        """Drop expanded weights, unless all of them fit into `KEEP_BYTES`."""
        if self._expanded_bytes() > KEEP_BYTES:
            for made in self._made.values():
                for layer in made.values():
                    layer.forget()

    def _expanded_bytes(self) -> int:
        sizes = {s.name: 4 * s.in_features * s.out_features for s in self.model.sites}
        return len(self._made) * sum(sizes[name] for name in self.sites)

    def _plan(self, operand: Operand, bits: Bits) -> Plan:
        fmt = format_of(bits, operand)
        weight, activation = (fmt, None) if operand == "weight" else (None, fmt)
        site = SitePlan(weight=weight, activations=(activation,))
        every = (Window(low=LOWEST, high=HIGHEST),)
        sites = dict.fromkeys(self.sites, site)
        return Plan(model=self.model.fingerprint, windows=every, sites=sites)

    def _make(self, operand: Operand, bits: Bits) -> dict[str, QuantLinear]:
        plan = self._plan(operand, bits)
        made = quantize(self.model, self.method, plan, self.options, self.seen, share=False)
        found: dict[str, QuantLinear] = {}
        for name in self.sites:
            layer = made.transformer.get_submodule(name)
            assert isinstance(layer, QuantLinear)
            _check_width(self.method, layer, operand, bits)
            others = [layers[name] for layers in self._made.values()]
            _share(layer, [self.model.transformer.get_submodule(name), *others])
            found[name] = layer
        return found


def _check_alone(method: str, options: Mapping[str, Any]) -> None:
    """Stop at methods whose layers are right beside the others alone."""
    chosen = parse_options(method, options)
    why = ""
    if methods()[method].learns:
        why = "learns over the whole network"
    elif getattr(chosen, "fold", "none") != "none":
        why = f"with fold={getattr(chosen, 'fold', '')} changes weights of other layers"
    if why:
        raise BadInput(
            f"{method} {why}, so its layers do not stand alone; take a method of which each does, e.g. rtn"
        )


def _check_width(method: str, layer: QuantLinear, operand: Operand, bits: Bits) -> None:
    wanted = format_of(bits, operand)
    held = (layer.plan.weight,) if operand == "weight" else layer.plan.activations
    if wanted is not None and any(f is None or f.bits != wanted.bits for f in held):
        raise BadInput(
            f"{method} gives sites bits of its own, so a cell cannot have {bits} for its {operand}; "
            "take another method, e.g. rtn"
        )


def _share(layer: QuantLinear, others: Sequence[nn.Module]) -> None:
    """Hold equal tensors of other layers in the place of its own."""
    for name, own in list(layer.named_buffers(recurse=False)):
        for other in others:
            held = getattr(other, name, None)
            if isinstance(held, Tensor) and _same(own, held.detach()):
                setattr(layer, name, held.detach())
                break


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.device == b.device and torch.equal(a, b)


class Switch(nn.Module):
    """In the place of one layer: that layer, or a rounded one in the steps that are chosen."""

    def __init__(self, layer: nn.Module, site: str) -> None:
        super().__init__()
        self.layer, self.site = layer, site
        self.rounded: nn.Module | None = None
        self.where: Where = _nowhere

    def forward(self, x: Tensor) -> Tensor:
        """x [..., i] -> [..., o]."""
        if self.rounded is not None and self.where(self.site, current_timestep()):
            return self.rounded(x)
        return self.layer(x)


class Switched:
    """A copy of the transformer that shares its tensors, with a switch at every asked site."""

    def __init__(self, model: Model, sites: Sequence[str]) -> None:
        self.network = shallow_copy(model.transformer)
        self._switches: dict[str, Switch] = {}
        for name in sites:
            switch = self._switches[name] = Switch(self.network.get_submodule(name), name)
            parent, _, last = name.rpartition(".")
            setattr(self.network.get_submodule(parent) if parent else self.network, last, switch)
        attach_exact(self.network, model.adapter.noisiest_timestep)

    @contextmanager
    def rounding(self, layers: Mapping[str, nn.Module], where: Where) -> Iterator[nn.Module]:
        """The network with these layers, rounded where `where` says, during a block of code."""
        for name, layer in layers.items():
            self._switches[name].rounded, self._switches[name].where = layer, where
        try:
            yield self.network
        finally:
            for name in layers:
                self._switches[name].rounded, self._switches[name].where = None, _nowhere


def _nowhere(site: str, timestep: float) -> bool:
    return False
