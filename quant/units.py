"""Units: parts of a transformer that are reconstructed one after another, and what goes in and out of them.

Shapes: x^q [n, ...] input with all earlier units quantized, x^f in full precision, y^f = u(x^f); each n rows
of the batch axis (samples of both guidance branches at several steps).

A unit is one attention, one MLP, or a layer by itself. Captures are kept in float16 on the CPU, whatever
computes, and thinned row by row so that they stay within a bound (ours; the released code of TaQ-DiT, arXiv
2411.14172, holds 21 GiB of them on the device).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.attention import AttentionModuleMixin, FeedForward
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from .errors import BadInput

MIB = 2**20
HELD_OUT = 8  # every so many rows is for judging, not for learning
Grain = Literal["unit", "layer"]


@dataclass(frozen=True)
class Unit:
    """One part, with the quantized sites in it."""

    name: str
    sites: tuple[str, ...]
    kind: Literal["attention", "mlp", "layer"]


def units_of(transformer: nn.Module, sites: Sequence[str], grain: Grain = "unit") -> list[Unit]:
    """The units that hold these sites, in the order of the network."""
    found: dict[str, list[str]] = {}
    for site in sites:
        found.setdefault(_owner(transformer, site) if grain == "unit" else site, []).append(site)
    return [
        Unit(name, tuple(own), _kind(transformer.get_submodule(name)))
        for name, own in found.items()
    ]


def _owner(transformer: nn.Module, site: str) -> str:
    name = site
    while name := name.rpartition(".")[0]:
        if _kind(transformer.get_submodule(name)) != "layer":
            return name
    return site


def _kind(module: nn.Module) -> Literal["attention", "mlp", "layer"]:
    if isinstance(module, (Attention, AttentionModuleMixin)):  # classes of two generations
        return "attention"
    return "mlp" if isinstance(module, FeedForward) else "layer"


class Enough(Exception):
    """The unit was reached; the rest of the network is not needed."""


@dataclass
class Captured:
    """Calls of one unit: the tensors with a batch axis as rows, all else as it was."""

    inputs: list[Tensor]  # float16 [n, ...] on the CPU
    outputs: list[Tensor]  # the same; empty where they were not asked for
    steps: Tensor  # [n] int64, which step each row is of
    call: tuple[tuple[Any, ...], dict[str, Any]]  # arguments, with `_Row` in the place of tensors
    every: int  # which share of the rows was kept

    @property
    def size_bytes(self) -> int:
        """Of all rows."""
        return sum(t.nbytes for t in (*self.inputs, *self.outputs))

    def __len__(self) -> int:
        return len(self.steps)

    def arguments(self, inputs: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call with these rows."""
        args, kwargs = self.call

        def filled(value: Any) -> Any:
            return inputs[value.index] if isinstance(value, _Row) else value

        return tuple(map(filled, args)), {n: filled(v) for n, v in kwargs.items()}


@dataclass(frozen=True)
class _Row:
    index: int


Runs = Sequence[tuple[int, Callable[[nn.Module], object]]]  # step, and the call of a network there


@torch.no_grad()
def capture(
    transformer: nn.Module, name: str, runs: Runs, bound: int, like: Captured | None = None
) -> Captured:
    """What goes into the submodule `name`, and comes out, in these calls of the network.

    `bound` bytes at most, of inputs counted twice (x^q and x^f) and outputs once: rows are left out evenly
    to stay within. With `like`, the rows that it has, without outputs. BadInput where a row is too large.
    """
    taker = _Taker(len(runs), bound, name, 0 if like is None else like.every)
    module = transformer.get_submodule(name)
    hooks = [module.register_forward_pre_hook(taker.enter, with_kwargs=True)]
    if like is None:
        hooks.append(module.register_forward_hook(taker.leave))
    try:
        for step, run in runs:
            taker.step = step
            try:
                run(transformer)
            except Enough:
                continue
            raise BadInput(f"the network does not run through {name}; leave it out of the plan")
    finally:
        for hook in hooks:
            hook.remove()
    return taker.captured()


class _Taker:
    def __init__(self, calls: int, bound: int, name: str, every: int) -> None:
        self.calls, self.bound, self.name, self.every = calls, bound, name, every
        self.outputs = not every
        self.step, self.count = 0, 0
        self.rows: list[list[Tensor]] = []
        self.made: list[list[Tensor]] = []
        self.steps: list[Tensor] = []
        self.call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        batch, found = len(first), []

        def placed(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_floating_point() and len(value) == batch:
                found.append(value)
                return _Row(len(found) - 1)
            return value

        self.call = tuple(map(placed, args)), {n: placed(v) for n, v in kwargs.items()}
        self.found, self.batch = found, batch
        if not self.outputs:
            self._keep([])
            raise Enough

    def leave(self, _: nn.Module, __: Any, output: Any) -> None:
        made = [output] if isinstance(output, Tensor) else list(output)
        self._keep(made)
        self.made.append([self._taken(t) for t in made])
        raise Enough

    def _keep(self, made: list[Tensor]) -> None:
        if not self.every:
            row = 2 * sum(t.numel() // self.batch for t in (*self.found, *self.found, *made))
            if row > self.bound:
                raise BadInput(
                    f"one row of {self.name} takes {row / MIB:.1f} MiB, more than the cache may; "
                    f"take cache_mib={1 + row * HELD_OUT // MIB} or more"
                )
            self.every = -(-self.batch * self.calls // (self.bound // row))
        start = -self.count % self.every
        self.kept = torch.arange(start, self.batch, self.every)
        self.count += self.batch
        self.rows.append([self._taken(t) for t in self.found])
        self.steps.append(torch.full((len(self.kept),), self.step))

    def _taken(self, t: Tensor) -> Tensor:
        return _half(t.detach()[self.kept.to(t.device)])

    def captured(self) -> Captured:
        inputs = [torch.cat(parts) for parts in zip(*self.rows, strict=True)]
        made = [torch.cat(parts) for parts in zip(*self.made, strict=True)]
        return Captured(inputs, made, torch.cat(self.steps), self.call, self.every)


def _half(t: Tensor) -> Tensor:
    """In float16 on the CPU, where it fits."""
    half = t.to(torch.float16).cpu()
    return half if bool(torch.isfinite(half).all()) else t.float().cpu()
