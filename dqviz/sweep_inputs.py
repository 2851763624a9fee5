"""What a sweep asks of the engine: the same in every process that measures cells of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from quant.errors import BadInput
from quant.schema import Sample, Sampler, Window
from quant.sensitivity import list_tiers
from quant.sensitivity.cells import Batch, Cell, Row, cells_of
from quant.sources import locate

from .drawing import sampler_of, samples_of
from .planning import load, needed_memory, needs_statistics
from .request import split_options

if TYPE_CHECKING:
    from quant.adapters import Site
    from quant.models import Model
    from quant.seen import Seen
    from quant.sensitivity.sampling import Counter
    from quant.sensitivity.task import Settings

    from .sweep_request import SweepRequest

Took = Mapping[str, float]  # seconds and evaluations
Keep = Callable[[Sequence[Row], Took], None]  # rows of a cell
KeepBatch = Callable[[Batch, Took], None]  # what a batch of samples gave
_COUNTS = ("calls", "evaluations", "backward_calls")


@dataclass(frozen=True)
class Inputs:
    """A request, and what it comes to for one model."""

    request: SweepRequest
    model: Model
    memory_bytes: int  # that loading and measuring it takes, predicted
    sites: tuple[str, ...]
    samples: tuple[Sample, ...]
    calibration: tuple[Sample, ...]
    sampler: Sampler
    windows: tuple[Window, ...]
    settings: Settings
    options: dict[str, Any]  # of the method, defaults included

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, in the order of the table."""
        operands, bits = list_tiers()[self.request.tier].operands, self.request.bits
        return cells_of(self.sites, bits, len(self.windows), operands, whole=self.settings.whole)


def inputs_of(request: SweepRequest, *, preflighted: bool = False) -> Inputs:
    """Load the model and check all that only it can tell; raises BadInput or EnvironmentFault.

    `preflighted`: memory was looked at already (`dqviz.sweep_preflight`).
    """
    from quant.method_options import parse_options
    from quant.plans import windows_for

    (given,) = split_options((request.method,), request.options)
    options = parse_options(request.method, given)
    located = locate(request.source)
    model = load(
        located, request.device, request.dtype, outliers=request.outliers, preflighted=preflighted
    )
    sites = found_sites(request, model.sites, model.ref)
    sampler = sampler_of(model, request)
    return Inputs(
        request=request,
        model=model,
        memory_bytes=needed_memory(located, request.outliers),
        sites=sites,
        samples=samples_of(model, request, request.seeds),
        calibration=samples_of(model, request, request.calibration_seeds),
        sampler=sampler,
        windows=windows_for(sampler, request.windows),
        settings=settings_of(request),
        options=options.to_json(),
    )


def measure_cells(
    inputs: Inputs,
    seen: Seen | None,
    done: Collection[Cell],
    keep: Keep,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    kept: Sequence[Batch] = (),
    keep_batch: KeepBatch | None = None,
) -> None:
    """Measure every cell that is not done, in this process.

    Args:
        inputs: what is measured.
        seen: the calibration, where the tier or the method reads one.
        done: cells whose rows are there already.
        keep: called with the rows of each cell, as it is found, and what they took.
        on_progress: called with (parts done, parts in all); may raise `Cancelled`.
        kept: batches that ended in an earlier attempt, of tiers that measure all cells at once.
        keep_batch: called with what each batch gave, as it ends, and what it took, by those tiers.
    """
    from quant.sensitivity.sampling import Counter
    from quant.sensitivity.sweep import measure

    from .records import classifier_of

    request, counter = inputs.request, Counter()
    meter = _Meter(counter)

    def on_batch(batch: Batch) -> None:
        if keep_batch is not None:
            keep_batch(batch, meter.took())

    measure(
        request.tier,
        inputs.model,
        inputs.sites,
        request.bits,
        inputs.windows,
        inputs.samples,
        inputs.sampler,
        method=request.method,
        options=inputs.options,
        seen=seen,
        classifier=classifier_of(inputs.model) if list_tiers()[request.tier].flips else None,
        settings=inputs.settings,
        counter=counter,
        done=done,
        kept=kept,
        on_rows=lambda rows: keep(rows, meter.took()),
        on_batch=on_batch,
        on_progress=on_progress,
    )


def settings_of(request: SweepRequest) -> Settings:
    """How it is measured."""
    from quant.sensitivity.task import Settings

    return Settings(
        batch_size=request.batch_size,
        probes=request.probes,
        both_ways=request.both_ways,
        pictures=request.pictures,
    )


def reads_statistics(request: SweepRequest) -> bool:
    """Whether there is a calibration first: for the method, or to weigh the weights' errors."""
    return not list_tiers()[request.tier].draws or needs_statistics([request.method])


def found_sites(request: SweepRequest, sites: Sequence[Site], ref: str) -> tuple[str, ...]:
    """Names of the sites that are asked for, in the order of the model `ref`."""
    free = [site.name for site in sites if site.kept_reason is None]
    found = tuple(name for name in free if re.search(request.sites or "", name))
    if not found:
        raise BadInput(
            f"sites '{request.sites}' finds none of the {len(free)} layers that are not kept in 16 bit, "
            f"e.g. {free[0]}; list them: dqviz layers {ref}"
        )
    return found


class _Meter:
    """What was spent since it was asked before."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._last = time.perf_counter(), replace(counter)

    def took(self) -> Took:
        """Seconds and evaluations."""
        then, before = self._last
        now = self._last = time.perf_counter(), replace(self._counter)
        counts = {name: getattr(now[1], name) - getattr(before, name) for name in _COUNTS}
        return {"seconds": now[0] - then, **counts}
