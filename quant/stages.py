"""What a method makes of an input and of a weight before rounding, one transform after the other.

The stages come from what a quantized layer says of itself (`QuantLinear.transform` and its buffers),
not from the method's name: "scaled" after a channel scale, "rotated" after a rotation. Where windows of
steps have transforms of their own, a step's input goes through those of its window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .adapters import Site
from .layers import QuantLinear
from .recording import bin_of
from .schema import Window
from .seen_layout import BINS, INPUT, of_window
from .step import window_of
from .transforms import BlockRotation, to_input, to_weight

CHUNK = 2**20  # weights that are binned at once


Basis = tuple[Tensor | None, Tensor | None, BlockRotation | None]  # as `to_input` takes it


@dataclass(frozen=True)
class Stage:
    """One transform: of inputs [..., i], and of weights [o, i] so that the product stays the same."""

    name: str
    bases: tuple[Basis, ...]  # one for every window of the plan, or one for all

    def of_input(self, x: Tensor, window: int = 0) -> Tensor:
        """What the layer makes of its input in this window."""
        return to_input(x, *self.bases[window if len(self.bases) > 1 else 0])

    def of_weight(self, weight: Tensor, window: int = 0) -> Tensor:
        """What is rounded for this window."""
        return to_weight(weight, *self.bases[window if len(self.bases) > 1 else 0])


@dataclass(frozen=True)
class Stages:
    """The transforms that a method gave to each input, and what it was asked for."""

    by_input: Mapping[str, tuple[Stage, ...]]
    manifest: Mapping[str, object] = field(default_factory=dict)  # method, bits, options
    windows: tuple[Window, ...] = ()  # in which transforms differ; empty: they hold for all steps

    @property
    def names(self) -> tuple[str, ...]:
        """Every stage that some input has, "input" first, in the order of application."""
        found = dict.fromkeys(s.name for stages in self.by_input.values() for s in stages)
        return (INPUT, *sorted(found, key=_ORDER.index))

    def window_at(self, timestep: float) -> int:
        """The window whose transforms are those of this step."""
        return window_of(self.windows, timestep) if self.windows else 0


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
    windows = len(layer.windows) if layer.transform.per_window else 1
    bases = [layer.basis(window) for window in range(windows)]
    found = []
    if layer.transform.scale or layer.folded is not None:
        scales = [layer.folded if scale is None else scale for scale, _, _ in bases]
        found.append(Stage("scaled", tuple((scale, None, None) for scale in scales)))
    if layer.transform.rotate or layer.transform.block:
        found.append(Stage("rotated", tuple((None, signs, blocks) for _, signs, blocks in bases)))
    return tuple(found)


def stages_by_input(
    transformer: nn.Module, sites: list[Site], manifest: Mapping[str, object]
) -> Stages:
    """Of a whole quantized transformer; sites that read one tensor share its transforms."""
    found: dict[str, tuple[Stage, ...]] = {}
    windows: tuple[Window, ...] = ()
    for site in sites:
        layer = transformer.get_submodule(site.name)
        if isinstance(layer, QuantLinear):
            found.setdefault(site.input_of, stages_of(layer))
            if layer.transform.per_window and len(layer.windows) > 1:
                windows = layer.windows
    return Stages(found, manifest, windows)


def weight_statistics(
    transformer: nn.Module, sites: list[Site], stages: Stages | None = None
) -> dict[str, dict[str, WeightStatistics]]:
    """Of every quantizable weight of the full-precision transformer: {stage: {site: statistics}}.

    Where windows have transforms of their own, every window after the first is a stage of its own
    (`quant.seen_layout.of_window`).
    """
    found: dict[str, dict[str, WeightStatistics]] = {}
    for site in sites:
        if site.kept_reason is None:
            linear = transformer.get_submodule(site.name)
            assert isinstance(linear, nn.Linear)
            own = () if stages is None else stages.by_input.get(site.input_of, ())
            for stage, weight in _staged(linear.weight.detach().float(), own):
                found.setdefault(stage, {})[site.name] = _measured(weight)
    return found


def _staged(plain: Tensor, stages: tuple[Stage, ...]) -> Iterator[tuple[str, Tensor]]:
    yield INPUT, plain
    for window in range(max((len(stage.bases) for stage in stages), default=0)):
        weight = plain
        for stage in stages:
            weight = stage.of_weight(weight, window)
            yield of_window(stage.name, window), weight


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
