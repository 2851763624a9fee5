"""How much a capture takes, said before it starts: bytes on disk and bytes of memory.

Both follow from the options, the shapes of the inputs and the sampler: not from how many samples are
drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from . import seen_layout as layout
from .adapters import Site
from .generation import predict, starting_noise, timesteps_of
from .models import Model
from .recording import FIELDS, SURFACE, InputShape
from .row_choice import RowChoice, quotas
from .schema import Sample, Sampler
from .seen_layout import BINS, CalibrationOptions
from .stages import CHUNK, Stages, WeightStatistics
from .summaries import STATISTICS

MIB = 2**20
_ENTRY = 90  # bytes of the file's header per tensor beside its name, at most
_CODE = 16 * MIB  # libraries' code that recording is the first to touch, about
_REST = 16_384  # the rest of the header: manifest, timesteps, names of inputs, about


@dataclass(frozen=True)
class Footprint:
    """Upper bounds."""

    file_bytes: int
    memory_bytes: int  # of the statistics, on top of what plain drawing takes


def input_shapes(model: Model, sample: Sample, sampler: Sampler) -> dict[str, InputShape]:
    """Rows per sample and width of every recorded input: one evaluation of the network, one sample."""
    branches = model.branches(sampler.guidance)
    found: dict[str, InputShape] = {}

    def hook_for(name: str):
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            width = args[0].shape[-1]
            found[name] = InputShape(args[0].numel() // (width * branches), width)

        return hook

    first = {s.input_of: s.name for s in reversed(model.sites) if s.kept_reason is None}
    handles = [
        model.transformer.get_submodule(site).register_forward_pre_hook(hook_for(name))
        for name, site in first.items()
    ]
    try:
        noise = starting_noise(model.latent_shape(sampler), (sample,))
        predict(model, noise, timesteps_of(sampler)[0], (sample,), sampler)
    finally:
        for handle in handles:
            handle.remove()
    return {s.input_of: found[s.input_of] for s in model.sites if s.input_of in found}


def widest_shapes(model: Model) -> dict[str, InputShape]:
    """Shapes without a look at the model's tokens: the footprint is then a wider bound."""
    return {
        s.input_of: InputShape(SURFACE, s.in_features) for s in model.sites if s.kept_reason is None
    }


def row_choice(
    options: CalibrationOptions, samples: Sequence[Sample], sampler: Sampler, branches: int
) -> RowChoice:
    """Which rows these options look at closely."""
    return RowChoice(
        samples=tuple(samples),
        seed=options.seed,
        histogram=options.rows,
        absmax=options.row_absmax,
        quota=quotas(options.reservoir, sampler.steps, branches),
    )


def surface_steps(
    options: CalibrationOptions, shapes: Mapping[str, InputShape], stages: Stages, steps: int
) -> list[int]:
    """Steps whose surfaces are kept: all when they fit the budget, else evenly spaced, at least one."""
    each = sum(
        2 * int(np.prod(shape.surface)) * (1 + len(stages.by_input.get(name, ())))
        for name, shape in shapes.items()
    )
    count = min(steps, max(1, options.surface_mib * MIB // max(1, each)))
    return sorted({round(i * (steps - 1) / max(1, count - 1)) for i in range(count)})


class Recorded(Protocol):
    """What is calibrated: a model, or a network of which only shapes are known."""

    @property
    def sites(self) -> list[Site]:
        """Its linear layers."""
        ...

    def branches(self, guidance: float) -> int:
        """Guidance branches of one evaluation."""
        ...


def footprint(
    model: Recorded,
    sampler: Sampler,
    options: CalibrationOptions,
    shapes: Mapping[str, InputShape],
    stages: Stages | None = None,
    batch_size: int = 8,
) -> Footprint:
    """What a calibration with these options will take at most."""
    stages = stages or Stages({})
    branches = model.branches(sampler.guidance)
    series = sampler.steps * branches
    kept = len(surface_steps(options, shapes, stages, sampler.steps))
    quota = quotas(options.reservoir, sampler.steps, branches)
    rows, places = int(quota.sum()), int(quota.max()) * series
    file = memory = widest = 0
    keys = [layout.summary(stage, key) for stage in stages.names for key in STATISTICS]
    for name, shape in shapes.items():
        own = (layout.INPUT, *(s.name for s in stages.by_input.get(name, ())))
        count, c = len(own), shape.channels
        surface = 2 * kept * int(np.prod(shape.surface))
        small = series * (4 * BINS + 8 * 4 + 4 * options.row_absmax + 8 * 3) + 4 * rows
        file += count * (c * (4 * rows + series * 4 * 4) + small + surface + 2 * kept + 4)
        memory += count * (c * (4 * places + series * (2 * 4 + 2 * 8)) + small + surface)
        keys += [layout.activation(stage, name, f) for stage in own for f in FIELDS]
        # Of one call: the batch in float32, its squares, and what a stage makes of it.
        call = 4 * branches * batch_size * shape.tokens * c * (2 + min(1, count - 1))
        sampled = batch_size * options.rows + options.row_absmax
        widest = max(widest, call + 8 * 4 * branches * sampled * c)
        # Of one step, until it is merged.
        memory += count * 4 * branches * c * (4 + int(quota.max()))
    for site in model.sites:
        if site.kept_reason is None:
            own = (
                layout.INPUT,
                *(
                    layout.of_window(s.name, window)
                    for s in stages.by_input.get(site.input_of, ())
                    for window in range(len(s.bases))
                ),
            )
            each = 4 * (site.in_features + site.out_features) + 8 * BINS + 4
            file += len(own) * each
            memory += len(own) * each
            fields = WeightStatistics.__dataclass_fields__
            keys += [layout.weight(stage, site.name, f) for stage in own for f in fields]
    file += 4 * series * len(shapes) * len(STATISTICS) * len(stages.names)
    header = sum(len(key) + _ENTRY for key in keys) + _REST
    weights = [s.in_features * s.out_features for s in model.sites if s.kept_reason is None]
    weight = 4 * 4 * max(weights, default=0) + 3 * 8 * CHUNK
    # Totals, and the statistics that are made of them: freed memory is not always used again.
    return Footprint(file + header, memory + file + max(widest, weight) + _CODE)
