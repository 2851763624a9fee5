"""Rounding of the sites of one group, learned from rows of their input: no model, no unit around them.

Shapes: X [r, i] calibration rows of all steps; W [o, i] weight of a site; Y = X W^T [r, o].

    loss = sum over sites ||Q(X) W~^T - Y||^2 / mean Y^2 + w sum (1 - |2 h - 1|^beta)     64 rows a step

Steps of quantizers that learn fall in their rate as a cosine; blocks as in `quant.reconstruction`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .learning import generator
from .methods.base import Group
from .range_search import searched_grid
from .reconstruction import ReconstructionOptions
from .soft_rounding import SoftWeight, beta_at, undecidedness

ROWS = 64  # of a step


def learned_weights(
    group: Group,
    rows: Tensor,
    quantizers: Mapping[str, Callable[[Tensor], Tensor]],
    options: ReconstructionOptions,
    seed: int,
    scale_lr: float = 0.0,
) -> dict[str, SoftWeight]:
    """Of every site that has a weight format; `quantizers` by site, those that are modules learn at `scale_lr`."""
    softs = {
        s.name: SoftWeight(s.weight, searched_grid(s.weight, s.plan.weight))
        for s in group.sites
        if s.plan.weight is not None
    }
    wanted = {s.name: F.linear(rows, s.weight) for s in group.sites if s.name in softs}  # [r, o]
    sizes = {name: float(y.square().mean().sqrt()) for name, y in wanted.items()}
    learns = {q for q in quantizers.values() if isinstance(q, nn.Module)}
    scales = [p for module in learns for p in module.parameters()]
    if not softs:
        return softs
    adam = torch.optim.Adam(
        [{"params": [s.a for s in softs.values()]}, *([{"params": scales}] if scales else [])],
        lr=options.rounding_lr,
    )
    for k in range(options.iterations):
        drawn = torch.randint(len(rows), (ROWS,), generator=generator(seed, group.input_of, k))
        beta, loss = beta_at(k, options.iterations), torch.zeros(())
        for name, soft in softs.items():
            made = F.linear(quantizers[name](rows[drawn]), soft())
            loss = loss + ((made - wanted[name][drawn]) / sizes[name]).square().sum(0).mean()
            if beta is not None:
                loss = loss + options.rounding_weight * undecidedness(soft.h(), beta)
        if scales:
            fall = 0.5 * (1 + math.cos(math.pi * k / options.iterations))
            adam.param_groups[1]["lr"] = scale_lr * fall
        adam.zero_grad()
        loss.backward()
        adam.step()
    return softs
