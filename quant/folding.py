"""Folding the channel scale of a layer into what makes its input, so that nothing is divided at run time.

Shapes: x [.., c] input with scale s [c]; W_v [c, i] value projection; A [6c, e] adaLN linear, T its table.

    attended    x / s = softmax(..) (V / s)       rows of W_v and b_v over s; its codes stay as they are,
                                                  because a row's scale takes what the row is divided by
    modulated   x / s = norm(h) (1 + scale') + shift'         A, b, T as in `quant.rescaling`, f = 1 / s

(Derived from ViDiT-Q's transform, arXiv 2406.02540; the released kernels fold neither.) A rotation mixes
channels, so it is never folded. The fold is exact to rounding: of float32 in values, whose scales and
biases are float32; of the type that the file has in adaLN rows, which stay as wide as they were (the
float32 biases beside them are not rounded). What follows is a rounding to integers, and where one of
those tips over, a picture differs by as much as by any other change of rounding: with or without the
fold the errors are alike, the pictures are not the same.

`makers` says from names and formats alone where a scale can go, and else the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .adapters import Site
from .adapters.producers import Modulation, Producer
from .layers import QuantLinear
from .models import Model
from .rescaling import Rows
from .schema import Plan, SitePlan

Fold = Literal["none", "values", "all"]

FLOATING_SCALES = ("int", "fp8")  # weight formats whose row scale is a float32
OVERFLOW = "a scale folded into '{name}' overflows {dtype}; take fold=values, or --dtype float32"


def makers(
    producers: Sequence[Producer],
    sites: Sequence[Site],
    formats: Mapping[str, SitePlan],
    fold: Fold,
) -> dict[str, tuple[str, ...] | str]:
    """Of every quantized site: the linears that can take its channel scale, or why none can."""
    found = {}
    for site in sites:
        if _quantized(formats, site.name):
            made = next((p for p in producers if site.name in p.read_by), None)
            found[site.name] = _maker(site, made, sites, formats, fold)
    return found


def _quantized(formats: Mapping[str, SitePlan], name: str) -> bool:
    return name in formats and formats[name].quantized


def _maker(
    site: Site,
    producer: Producer | None,
    sites: Sequence[Site],
    formats: Mapping[str, SitePlan],
    fold: Fold,
) -> tuple[str, ...] | str:
    if fold == "none":
        return "fold=none"
    if producer is None:
        return "nothing linear makes its channels one by one"
    if producer.channels != site.in_features:
        return f"attention makes {producer.channels} of its {site.in_features} channels"
    if len({s.input_of for s in sites if s.name in producer.read_by}) > 1:
        return "what makes its channels makes other inputs too, each with a scale of its own"
    kept = [name for name in producer.read_by if not _quantized(formats, name)]
    if kept:
        return f"{kept[0]} reads the same input without a scale"
    if isinstance(producer.made_by, Modulation):
        return (producer.made_by.linear,) if fold == "all" else "adaLN takes it with fold=all"
    for value in producer.made_by:
        fmt = formats[value].weight if value in formats else None
        if fmt is None and fold != "all":
            return f"{value} is kept in 16 bit, which takes it with fold=all"
        if fmt is not None and fmt.kind not in FLOATING_SCALES:
            return f"{value} has scales in {fmt.kind}, which do not hold it"
    return producer.made_by


def fold_scales(
    transformer: nn.Module, model: Model, plan: Plan, fold: Fold
) -> dict[str, dict[str, object]]:
    """Fold every channel scale of a quantized transformer that has a place to go, in place.

    Returns a note for each site with a scale: `folded_into` its makers, or `online` with the reason.
    """
    rows = Rows(transformer, OVERFLOW, model.source_dtype)
    producers = model.adapter.producers(model.transformer)
    planned = makers(producers, model.sites, plan.sites, fold)
    layers = {name: transformer.get_submodule(name) for name in planned}
    scaled = {
        n: layer
        for n, layer in layers.items()
        if isinstance(layer, QuantLinear) and layer.transform.scale
    }
    notes: dict[str, dict[str, object]] = {}
    for producer in producers:
        readers = {name: scaled[name] for name in producer.read_by if name in scaled}
        into = planned[next(iter(readers))] if readers else ""
        if isinstance(into, str):
            continue
        made_by = [transformer.get_submodule(name) for name in into]
        obstacle = _obstacle(readers, len(producer.read_by), made_by, model.dtype)
        if obstacle:
            notes |= {name: {"online": obstacle} for name in readers}
            continue
        scale = next(iter(readers.values())).channel_scale.float()
        _divide(rows, producer, into, scale)
        for name, layer in readers.items():
            layer.fold_scale(into)
            notes[name] = {"folded_into": list(into)}
    return {name: notes.get(name, {"online": planned[name]}) for name in scaled}


def _obstacle(
    readers: Mapping[str, QuantLinear],
    count: int,
    made_by: Sequence[nn.Module],
    dtype: torch.dtype,
) -> str:
    """What the modules themselves have against it; nothing where they have nothing."""
    if dtype == torch.float16:
        return "float16 might overflow"
    if any(layer.transform.per_window for layer in readers.values()):
        return "every window has a scale of its own"
    if any(hasattr(layer, "dqviz_amplified") for layer in readers.values()):
        return "synthetic outliers are put in between"
    first, *others = (layer.channel_scale for layer in readers.values())
    if len(readers) < count or not all(torch.equal(first, other) for other in others):
        return "sites that read the same input have other scales"
    for module in made_by:
        if isinstance(module, QuantLinear):
            if module.transform.rank or module.transform.per_window:
                return "what makes it has parts in 16 bit, or for each window"
        elif module.bias is None:
            return "what makes it has no bias"
    return ""


def _divide(rows: Rows, producer: Producer, into: Sequence[str], scale: Tensor) -> None:
    """1 / s into what makes the channels."""
    if isinstance(producer.made_by, Modulation):
        rows.multiply_modulated(producer.made_by, torch.arange(len(scale)), 1 / scale.double())
        return
    for name in into:
        module = rows.transformer.get_submodule(name)
        if isinstance(module, QuantLinear):
            module.divide_outputs(scale)
        else:
            rows.multiply_outputs(name, torch.arange(len(scale)), 1 / scale.double())
