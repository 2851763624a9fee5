"""Any method on one synthetic input with outlier channels: its layers, and their error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cards import load_method
from ..group_layers import layers_of
from ..layers import QuantLinear
from ..methods.base import Group
from ..plans import HIGHEST, LOWEST, steps_of
from ..schema import Plan, SitePlan, Window
from ..site_groups import planned
from ..step import at
from . import synthetic

STEPS, ROWS, FRESH, CHANNELS, OUTS, FACTORS = 6, 64, 32, 192, 96, 16
TIMESTEPS = tuple(950.0 - 180 * step for step in range(STEPS))
ONE = (Window(low=LOWEST, high=HIGHEST),)


def inputs(seed: int) -> Tensor:
    """Outlier channels over channels that vary together, as real ones do, [steps, rows, c]."""
    x = synthetic.activations(CHANNELS, ROWS + FRESH, STEPS, seed)
    generator = torch.Generator().manual_seed(seed + 77)
    mixing = torch.randn(FACTORS, CHANNELS, generator=generator) * 2 / FACTORS**0.5
    return x + torch.randn(STEPS, ROWS + FRESH, FACTORS, generator=generator) @ mixing


class Trial:
    """One method on one draw; calibrated on some rows of every step, judged on others."""

    def __init__(
        self,
        key: str,
        site_plan: SitePlan,
        seed: int,
        options: Mapping[str, Any] | None = None,
        *,
        outs: tuple[int, ...] = (OUTS,),
        windows: tuple[Window, ...] = ONE,
        seen: bool = True,
    ) -> None:
        x = inputs(seed)
        self.calibrated, self.fresh = x[:, :ROWS], x[:, ROWS:]  # [steps, rows, c]
        module = load_method(key)
        chosen = module.Options.parse(dict(options or {}), f"options of {key}")
        statistics = synthetic.statistics(self.calibrated) if seen else None
        group = synthetic.group(CHANNELS, outs, site_plan, seed)
        plan = Plan(model="trial", windows=windows, sites={s.name: s.plan for s in group.sites})
        timesteps = TIMESTEPS if seen else ()
        self.plan = planned(module, plan, [(group, statistics)], timesteps, chosen, seed)
        sites = tuple(replace(site, plan=self.plan.sites[site.name]) for site in group.sites)
        self.group = Group("input", sites, steps_of(self.plan.windows, timesteps))
        made = layers_of(
            module, self.group, statistics, self.plan, chosen, seed, dtype=torch.float32
        )
        self.layers: dict[str, QuantLinear] = {name: layer for name, (layer, _) in made.items()}
        self.notes = {name: notes for name, (_, notes) in made.items()}

    def output(self, name: str, x: Tensor) -> Tensor:
        """What the layer makes of x [steps, rows, c], every step at its timestep, two samples each."""
        found = []
        for step, rows in enumerate(x):
            with at(TIMESTEPS[step]):
                found.append(
                    self.layers[name](rows.reshape(2, -1, CHANNELS)).reshape(len(rows), -1)
                )
        return torch.stack(found)

    def error(self, x: Tensor | None = None) -> float:
        """||Y - Y_q||^2 / ||Y||^2, mean over steps and sites, on fresh rows unless x is given."""
        x = self.fresh if x is None else x
        errors = []
        for site in self.group.sites:
            exact = F.linear(x, site.weight, site.bias)
            lost = (self.output(site.name, x) - exact).square().sum((1, 2))
            errors.append((lost / exact.square().sum((1, 2))).mean())
        return float(torch.stack(errors).mean())


def mean_error(
    key: str, site_plan: SitePlan, options: Mapping[str, Any] | None = None, seeds: int = 5
) -> float:
    """Mean over draws."""
    return sum(Trial(key, site_plan, seed, options).error() for seed in range(seeds)) / seeds
