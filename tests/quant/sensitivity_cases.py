"""Small sweeps for the tests of sensitivity, and the derivative that its gradient tier is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from quant.models import Model
from quant.plans import windows_for
from quant.schema import Sample, Sampler, Window
from quant.sensitivity.cells import Bits, Cell, Operand, Row, cells_of
from quant.sensitivity.rounded import RoundedLayers
from quant.sensitivity.sampling import Drawer
from quant.sensitivity.sweep import Outcome, measure
from quant.sensitivity.task import Settings, Task, tapped

CHEAP = Settings(both_ways=False, pictures=False, probes=4)


def sweep(tier: str, model: Model, *given: Any, **more: Any) -> tuple[list[Row], Outcome]:
    """All rows of a call of `measure`, and what it did."""
    rows: list[Row] = []
    outcome = measure(tier, model, *given, **{"settings": CHEAP, "on_rows": rows.extend} | more)
    return rows, outcome


def task_of(
    model: Model,
    sites: Sequence[str],
    bits: Sequence[Bits],
    samples: Sequence[Sample],
    sampler: Sampler,
    *,
    windows: tuple[Window, ...] | None = None,
    settings: Settings = CHEAP,
    operands: Sequence[Operand] = ("weight", "activation"),
) -> Task:
    """What a tier is given for these sites."""
    windows = windows or windows_for(sampler, 1)
    return Task(
        model=model,
        cells=cells_of(sites, bits, len(windows), operands, whole=settings.whole),
        sites=tuple(sites),
        windows=windows,
        samples=tuple(samples),
        sampler=sampler,
        layers=RoundedLayers(model, sites, "rtn", {}, None),
        drawer=Drawer(model, sampler),
        settings=settings,
    )


def pushed_forward(task: Task, site: str, layer: nn.Module, steps: Sequence[int]) -> Tensor:
    """J dy of z_0 by forward differentiation of the whole sampler: dy is what `layer` changes in these steps."""
    now = 0

    def before(step: int) -> None:
        nonlocal now
        now = step

    def heard(_: str, x: Tensor, y: Tensor) -> Tensor | None:
        if now not in steps:
            return None
        exact, own = forward_ad.unpack_dual(y).primal, forward_ad.unpack_dual(x).primal
        change = layer(own) - exact
        return y + forward_ad.make_dual(torch.zeros_like(change), change)

    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), tapped(task.model, (site,), heard):
        begun = task.drawer.begin(task.samples)
        run = task.drawer.drawn(task.model.transformer, begun, before=before)
        tangent = forward_ad.unpack_dual(run.latents).tangent
    assert tangent is not None
    return tangent


def table(rows: Sequence[Row], metric: str) -> dict[Cell, float]:
    """Value of every cell by one metric."""
    return {r.cell: r.value for r in rows if r.metric == metric and r.value is not None}


class FixedLayers(RoundedLayers):
    """Layers that a test made itself, whatever the bits."""

    def __init__(self, made: Mapping[str, nn.Module]) -> None:
        self._layers = made

    def of(self, operand: Operand, bits: Bits) -> Any:
        return self._layers

    def output(self, site: str, operand: Operand, bits: Bits, x: Tensor) -> Tensor:
        return self._layers[site](x)


class Changed(nn.Module):
    """A layer whose output is changed."""

    def __init__(self, layer: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.change = layer, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.layer(x))
