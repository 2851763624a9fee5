"""What a method makes of an input and of a weight before rounding, one transform after the other.

The stages come from what a quantized layer says of itself (`QuantLinear.transform` and its buffers),
not from the method's name: "scaled" after a channel scale, "rotated" after a rotation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .adapters import Site
from .errors import BadInput
from .layers import QuantLinear
from .recording import bin_of
from .seen_layout import BINS, INPUT
from .transforms import to_input, to_weight

CHUNK = 2**20  # weights that are binned at once


@dataclass(frozen=True)
class Stage:
    """One transform: of inputs [..., i], and of weights [o, i] so that the product stays the same."""

    name: str
    of_input: Callable[[Tensor], Tensor]
    of_weight: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stages:
    """The transforms that a method gave to each input, and what it was asked for."""

    by_input: Mapping[str, tuple[Stage, ...]]
    manifest: Mapping[str, object] = field(default_factory=dict)  # method, bits, options

    @property
    def names(self) -> tuple[str, ...]:
        """Every stage that some input has, "input" first, in the order of application."""
        found = dict.fromkeys(s.name for stages in self.by_input.values() for s in stages)
        return (INPUT, *sorted(found, key=_ORDER.index))


_ORDER = ("scaled", "rotated")


@dataclass(frozen=True)
class WeightStatistics:
    """Of one weight W [o, i]."""

    in_absmax: Tensor  # [i] largest |W| of every input channel
    out_absmax: Tensor  # [o] of every output channel
    histogram: Tensor  # [BINS] int64, every weight
    incoherence: Tensor  # [1] max |W| / mean |W|


def stages_of(layer: QuantLinear) -> tuple[Stage, ...]:
    """The transforms of one quantized layer, in order; none where it rounds the plain input."""
    if layer.transform.per_window:
        raise BadInput(
            "this method has a transform of its own in every step window, which a capture cannot show "
            "yet; give it one for all steps (windows=1)"
        )
    found = []
    scale, signs, blocks = layer.basis()
    if scale is not None:
        found.append(
            Stage("scaled", lambda x: to_input(x, scale, None), lambda w: to_weight(w, scale, None))
        )
    if signs is not None or blocks is not None:
        found.append(
            Stage(
                "rotated",
                lambda x: to_input(x, None, signs, blocks),
                lambda w: to_weight(w, None, signs, blocks),
            )
        )
    return tuple(found)


def stages_by_input(
    transformer: nn.Module, sites: list[Site], manifest: Mapping[str, object]
) -> Stages:
    """Of a whole quantized transformer; sites that read one tensor share its transforms."""
    found: dict[str, tuple[Stage, ...]] = {}
    for site in sites:
        layer = transformer.get_submodule(site.name)
        if isinstance(layer, QuantLinear):
            found.setdefault(site.input_of, stages_of(layer))
    return Stages(found, manifest)


def weight_statistics(
    transformer: nn.Module, sites: list[Site], stages: Stages | None = None
) -> dict[str, dict[str, WeightStatistics]]:
    """Of every quantizable weight of the full-precision transformer: {stage: {site: statistics}}."""
    found: dict[str, dict[str, WeightStatistics]] = {}
    for site in sites:
        if site.kept_reason is None:
            linear = transformer.get_submodule(site.name)
            assert isinstance(linear, nn.Linear)
            own = () if stages is None else stages.by_input.get(site.input_of, ())
            for stage, weight in _staged(linear.weight.detach().float(), own):
                found.setdefault(stage, {})[site.name] = _measured(weight)
    return found


def _staged(weight: Tensor, stages: tuple[Stage, ...]) -> Iterator[tuple[str, Tensor]]:
    yield INPUT, weight
    for stage in stages:
        weight = stage.of_weight(weight)
        yield stage.name, weight


def _measured(weight: Tensor) -> WeightStatistics:
    magnitude = weight.abs()
    counts = torch.zeros(BINS, dtype=torch.int64)
    for part in weight.reshape(-1).split(CHUNK):
        counts += torch.bincount(bin_of(part), minlength=BINS).cpu()
    mean = magnitude.mean()
    incoherence = magnitude.amax() / mean if float(mean) else torch.ones(())
    return WeightStatistics(
        in_absmax=magnitude.amax(0).cpu(),
        out_absmax=magnitude.amax(1).cpu(),
        histogram=counts,
        incoherence=incoherence.reshape(1).cpu(),
    )
