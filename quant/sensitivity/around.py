"""What changing one cell costs where a plan is in force: tier `gradient` taken along the plan's own trajectory.

    d       z'_0 - z_0: final latents of the plan less full precision's
    dy_lt   what other bits of the cell change of the output y_{l,t} of the plan's layer, at its input
    change  = (||d + sum_t J_lt dy_lt||^2 - ||d||^2) / ||z_0||^2
            = (2 sum_t d . J_lt dy_lt + E_v (sum_t v . J_lt dy_lt)^2) / ||z_0||^2

so the change of the plan's loss to first order in the latent. The first term is exact: d is one direction more for
the backward passes; the second is the tier's own sketch. A change may be negative: more bits take some of d away.

J is full precision's, along the latents that the plan draws: rounding has no derivative, and what it lets through on
average is what the layer would (the straight-through estimate, Bengio et al. 2013, arXiv 1308.3432). Ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..layers import QuantLinear
from ..plan_loss import PlanLoss, typical
from ..schema import Plan, SitePlan
from .cells import Bits, Cell, Operand, format_of
from .gradient import inner_products
from .rounded import RoundedLayers
from .task import Settings, Task


@dataclass(frozen=True)
class Around:
    """One plan's neighbourhood."""

    loss: np.ndarray  # of the plan, float64[n]
    changes: Mapping[Cell, np.ndarray]  # of its loss, by the cell with its other bits, float64[n]

    def typical(self, cell: Cell) -> float:
        """Change of the typical loss: what a cell changes of every sample's loss, relative to that, on average.

        The plain mean over samples would be that of the few whose pictures turned into others.
        """
        whole = np.maximum(self.loss, np.finfo(np.float64).tiny)
        return typical(self.loss) * float((self.changes[cell] / whole).mean())


class _Layers(RoundedLayers):
    """A plan's layers with one operand at other bits."""

    def __init__(self, loss: PlanLoss, plan: Plan) -> None:
        super().__init__(loss.model, tuple(plan.sites), loss.method, loss.options, loss.seen)
        self.plan, self.network = plan, loss.quantized(plan).transformer

    def _plan(self, operand: Operand, bits: Bits) -> Plan:
        fmt, windows = format_of(bits, operand), len(self.plan.windows)

        def changed(site: SitePlan) -> SitePlan:
            if operand == "weight":
                return site.model_copy(update={"weight": fmt})
            return site.model_copy(update={"activations": (fmt,) * windows})

        return self.plan.each(changed)

    def change(self, site: str, operand: Operand, bits: Bits, x: Tensor, y: Tensor) -> Tensor:
        """Against the plan's own layer."""
        own = self.network.get_submodule(site)
        assert isinstance(own, QuantLinear)
        return self.output(site, operand, bits, x).float() - own(x.detach()).float()


def around(
    loss: PlanLoss,
    plan: Plan,
    cells: Sequence[Cell],
    *,
    settings: Settings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Around:
    """The change of a plan's loss for every cell, which names other bits of one operand of a site of the plan.

    Args:
        loss: draws plans; its samples are drawn.
        plan: in force; both operands of no site may end in 16 bit.
        cells: of all steps for weights, of the plan's windows for activations.
        settings: batches and directions, as tier `gradient` has them.
        on_progress: called with (parts done, parts in all); may raise `Cancelled`.
    """
    layers = _Layers(loss, plan)
    task = Task(
        model=loss.model,
        cells=tuple(cells),
        sites=tuple(plan.sites),
        windows=plan.windows,
        samples=loss.samples,
        sampler=loss.drawer.sampler,
        layers=layers,
        drawer=loss.drawer,
        settings=settings or Settings(),
        on_progress=on_progress,
    )
    base: list[np.ndarray] = []
    found: dict[Cell, list[np.ndarray]] = {cell: [] for cell in task.cells}
    for index, batch in enumerate(task.batches):
        full = loss.drawer.drawn(loss.model.transformer, loss.drawer.begin(batch)).latents
        power = full.double().flatten(1).square().sum(1).cpu().numpy()  # [n]
        away: list[np.ndarray] = []

        def also(run, full=full, away=away) -> Tensor:
            d = run.latents - full
            away.append(d.double().flatten(1).square().sum(1).cpu().numpy())
            return d

        products, _ = inner_products(task, index, network=layers.network, also=also)
        base.append(away[0] / power)
        for cell in task.cells:
            of = products[cell.site, cell.operand, cell.bits].numpy()
            summed = of[list(task.steps_in(cell.window))].sum(0)  # [K + 1, n]
            change = 2 * summed[-1] + np.square(summed[:-1]).mean(0)
            found[cell].append(change / power)
    changes = {cell: np.concatenate(parts) for cell, parts in found.items()}
    return Around(np.concatenate(base), changes)
