"""Which denoising step is running: one scoped value that every quantized layer can read.

A forward pre-hook on the quantized transformer reads the transformer's own `timestep` argument, so
the same model works in our sampler and in plain diffusers, in any order and without counters. What
layers read counts as the scheduler does, from 1000, whatever the transformer's argument counts from.

`torch.compile` cannot trace a context variable, and would ask at every timestep for a new graph. Graphs
read a module's attribute beside it, which is the low end of the running window: one graph for each window.
It is one for all threads, so compiled transformers of several windows run in one thread at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from .errors import BadInput
from .schema import Window

NOISIEST = 1000.0  # timestep of pure noise, as schedulers count
_timestep: ContextVar[float | None] = ContextVar("dqviz_timestep", default=None)


class _Graphs:
    """What graphs read: a timestep of the running window, the same one throughout the window."""

    timestep: float | None = None


_graphs = _Graphs()


def window_of(windows: Sequence[Window], timestep: float) -> int:
    """Index of the half-open window that holds `timestep`.

    Total: above the first window (the noisiest) counts as the first, below the last as the last.
    """
    for index, window in enumerate(windows):
        if timestep >= window.low:
            return index
    return len(windows) - 1


def current_window(windows: Sequence[Window]) -> int:
    """Window of the step that is running now; 0 where a model has only one."""
    if len(windows) == 1:
        return 0
    return window_of(windows, current_timestep())


class at:
    """Run a block of code as if the transformer were at `timestep`."""

    def __init__(self, timestep: float) -> None:
        self.timestep = timestep

    def __enter__(self) -> None:
        self._token = _timestep.set(self.timestep)
        self._before, _graphs.timestep = _graphs.timestep, self.timestep

    def __exit__(self, *_: object) -> None:
        _timestep.reset(self._token)
        _graphs.timestep = self._before


def current_timestep() -> float:
    """Timestep of the step that is running now."""
    timestep = _graphs.timestep if torch.compiler.is_compiling() else _timestep.get()
    if timestep is None:
        raise RuntimeError(
            "a layer that depends on the step was called outside its transformer, so its timestep "
            "is unknown; call the transformer, or use quant.step.at(timestep)"
        )
    return timestep


def values_of(timestep: Any) -> list[float]:
    """The different timesteps of a batch."""
    if not isinstance(timestep, torch.Tensor):
        return [float(timestep)]
    return [float(t) for t in timestep.detach().reshape(-1).unique().cpu()]


def attach(transformer: nn.Module, windows: Sequence[Window], noisiest: float = NOISIEST) -> None:
    """Make `transformer` announce its `timestep` argument, `noisiest` at pure noise, to the layers inside it."""
    if len(windows) == 1:
        return

    def one_window(timestep: Any) -> float:
        values = [v * NOISIEST / noisiest for v in values_of(timestep)]
        if len({window_of(windows, v) for v in values}) > 1:
            raise BadInput(
                f"one batch holds timesteps of different step windows ({min(values):g} and {max(values):g}); "
                "run them in separate batches"
            )
        return values[0]

    _announce(transformer, one_window, lambda value: windows[window_of(windows, value)].low)


def attach_exact(transformer: nn.Module, noisiest: float = NOISIEST) -> None:
    """Like `attach`, for layers that depend on the timestep itself: a batch may hold only one."""

    def one_timestep(timestep: Any) -> float:
        values = [v * NOISIEST / noisiest for v in values_of(timestep)]
        if len(values) > 1:
            raise BadInput(
                f"one batch holds timesteps {min(values):g} and {max(values):g}, and layers of this "
                "model depend on the timestep; run them in separate batches"
            )
        return values[0]

    _announce(transformer, one_timestep, lambda value: value)


def _announce(
    transformer: nn.Module, value_of: Callable[[Any], float], in_graphs: Callable[[float], float]
) -> None:
    position = list(inspect.signature(transformer.forward).parameters).index("timestep")

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[position]
        value = value_of(timestep)
        _timestep.set(value)
        _graphs.timestep = in_graphs(value)

    def leave(*_: object) -> None:
        _timestep.set(None)
        _graphs.timestep = None

    transformer.register_forward_pre_hook(enter, with_kwargs=True)
    transformer.register_forward_hook(leave, always_call=True)
