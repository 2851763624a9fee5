"""The quantized layers of one group of sites, from what a method made of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .calibration import InputStatistics
from .errors import BadInput
from .layer_making import layer_of_codes, layer_over_windows
from .layers import QuantLinear
from .methods.base import Group, Rounded
from .schema import Plan, SitePlan, Value, Window
from .vectors import VectorCodes


def layers_of(
    module: Any,
    group: Group,
    statistics: InputStatistics | None,
    plan: Plan,
    options: Value,
    seed: int,
    *,
    dtype: torch.dtype,
    backend: str | None = None,
) -> dict[str, tuple[QuantLinear, dict[str, object]]]:
    """The quantized layers of one group by site name, each with the method's notes."""
    rounded = module.quantize_group(group, statistics, options, seed)
    return layers_from(rounded, group, module.CARD.key, plan, dtype=dtype, backend=backend)


def layers_from(
    rounded: Sequence[Rounded | tuple[Rounded, ...]],
    group: Group,
    method: str,
    plan: Plan,
    *,
    dtype: torch.dtype,
    backend: str | None = None,
) -> dict[str, tuple[QuantLinear, dict[str, object]]]:
    """The same from what was made of the sites."""
    made = {}
    for site, found in zip(group.sites, rounded, strict=True):
        parts = found if isinstance(found, tuple) else (found,)
        if site.plan.static_formats and parts[0].ranges is None:
            raise BadInput(
                f"{site.name} has static activation formats, whose ranges {method} does not "
                "calibrate; use method static-step, or formats that are not static"
            )
        for part in parts:
            if isinstance(part.weight, VectorCodes):
                part.weight.check(site.name)
        layers = [
            layer_of_codes(
                r.weight,
                site.bias if r.bias is None else r.bias,
                learned_bias=r.bias is not None,
                plan=own,
                windows=windows,
                channel_scale=r.channel_scale,
                signs=r.signs,
                blocks=r.blocks,
                low_rank=r.low_rank,
                ranges=r.ranges,
                shift=r.shift,
                migration=r.migration,
                dtype=dtype,
                backend=backend,
            )
            for r, own, windows in _formats_of(found, site.plan, plan.windows)
        ]
        layer, notes = layers[0], parts[0].notes or {}
        if isinstance(found, tuple):
            layer = layer_over_windows(layers, site.plan, plan.windows)
            notes = {"windows": [r.notes or {} for r in parts]}
        made[site.name] = layer, notes
    return made


def _formats_of(
    found: Rounded | tuple[Rounded, ...], plan: SitePlan, windows: tuple[Window, ...]
) -> list[tuple[Rounded, SitePlan, tuple[Window, ...]]]:
    """What was made, with its formats and windows: all of them, or each its own."""
    if isinstance(found, Rounded):
        return [(found, plan, windows)]
    return [
        (r, SitePlan(weight=plan.weight, activations=(fmt,)), (window,))
        for r, fmt, window in zip(found, plan.activations, windows, strict=True)
    ]
