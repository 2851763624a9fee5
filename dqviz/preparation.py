"""A comparison before it runs: everything checked, the model loaded, its runs named in a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.schema import Plan, Sample, Sampler

from . import machine
from .candidates import OURS, check_candidate
from .command_lines import as_command
from .drawing import sampler_of, samples_of
from .learnings import Foreseen
from .planning import (
    given_plan,
    load,
    needs_statistics,
    plan_for,
    plan_warnings,
    statistics_bytes,
)
from .preflight import PREFLIGHT, look, require
from .records import classifier_of, describe, image_bytes, versions
from .request import CompareRequest, RunRequest
from .sharing import check_sharing, sharing_warnings
from .study import Study
from .watch import Watch

if TYPE_CHECKING:
    from quant.evaluate import Classifier
    from quant.generation import Generation
    from quant.models import Model
    from quant.sharing_choice import Similarity

FULL_PRECISION = "full-precision"
TRACED = 4  # samples whose trajectory is kept and traced


@dataclass
class Task:
    """One comparison under way."""

    request: CompareRequest
    watch: Watch
    model: Model
    samples: tuple[Sample, ...]
    sampler: Sampler
    calibration: tuple[Sample, ...]
    reference: str  # name of the full-precision run
    runs: list[tuple[str, RunRequest, Plan]]  # name, what to do, formats
    foreign: list[tuple[str, Path]]  # name, folder
    classifier: Classifier | None
    study: Study
    comparison: int
    warnings: list[str]
    shared: set[str]  # tensors that are stored once, under another name
    kept: Path | None  # where full precision is kept for a resumption
    records: list[dict[str, Any]] = field(default_factory=list)
    ladder: list[dict[str, Any]] = field(default_factory=list)
    learning: Foreseen = field(default_factory=lambda: Foreseen({}, ""))
    similarity: Similarity | None = None  # of the guidance branches' attention, where a run asks

    @property
    def steps(self) -> int:
        """Denoiser steps of one run, over all samples."""
        return len(self.samples) * self.sampler.steps

    @property
    def traced(self) -> int:
        """Samples whose trajectory is kept."""
        return min(TRACED, len(self.samples))

    @property
    def ladder_samples(self) -> int:
        """Half of the samples, 4 to 16 of them: the ladder costs eight generations."""
        return min(len(self.samples), 16, max(4, len(self.samples) // 2))


@dataclass(frozen=True)
class Drawn:
    """The pictures of one run."""

    all: Generation
    head: Generation  # the first samples, with their trajectory
    seconds_per_sample: float
    rows: int  # rows that a quantized site gets in one call


def prepare(
    request: CompareRequest, jobs: Sequence[RunRequest], folder: Path, watch: Watch, key: str | None
) -> Task:
    """Load the model and check all that only it can tell; the study is opened last."""
    from quant.checkpoint import check_checkpoint
    from quant.sources import locate
    from quant.storage import stored_tensors

    given = given_plan(request)
    saved = [
        check_checkpoint(path).sharing
        for path in request.candidates
        if check_candidate(path).get("quantization_config", {}).get("quant_method") == OURS
    ]
    located = locate(request.source)
    fits = require(look(request, "compare", located, folder))
    model = load(
        located, request.device, request.dtype, request.backend, request.outliers, preflighted=True
    )
    samples = samples_of(model, request, request.seeds)
    sampler = sampler_of(model, request)
    check_sharing(jobs, saved, model, sampler)

    plans = [plan_for(request, job, model, sampler, given) for job in jobs]
    needed = (len(jobs) + len(request.candidates) + 1) * len(samples) * image_bytes(model, sampler)
    if key is not None:
        needed += (
            4 * len(samples) * image_bytes(model, sampler)
        )  # full precision in float32, until the end
    if needs_statistics(request.methods):
        needed += statistics_bytes(model, sampler)
    machine.require_disk(needed + 16 * machine.MIB, folder)
    watch.stage(PREFLIGHT, fits.sentence())  # last: bad input is one line
    if request.out is None:
        watch.stage("study", f"writing into the study {folder}; --out DIR takes another")
    watch.check()
    study = Study.open_or_create(folder, describe(model), versions())
    resumed = None if key is None else study.comparison_of(key)
    if resumed is not None:
        comparison, names = resumed, study.resume(resumed)
    else:
        names = _names(study, request, jobs)
        recipe = {
            "command": as_command(request),
            "request": request.to_json(),
            "sampler": sampler.to_json(),
            "samples": [s.to_json() for s in samples],
        }
        comparison = study.begin(request.to_json(), recipe, names, key)
    return Task(
        request=request,
        watch=watch,
        model=model,
        samples=samples,
        sampler=sampler,
        calibration=samples_of(model, request, request.calibration_seeds),
        reference=names[0],
        runs=list(zip(names[1:], jobs, plans)),
        foreign=list(zip(names[1 + len(jobs) :], request.candidates, strict=True)),
        classifier=classifier_of(model),
        study=study,
        comparison=comparison,
        warnings=[
            *plan_warnings(given, sampler),
            *(text for sharing in saved for text in sharing_warnings(sharing, sampler)),
        ],
        shared=set(stored_tensors(model.transformer, model.source_dtype).shared),
        kept=None if key is None else folder / f"resume-{comparison}.safetensors",
        records=study.runs(comparison),
    )


def _names(study: Study, request: CompareRequest, jobs: Sequence[RunRequest]) -> list[str]:
    """Names of the runs, full precision first: free in the study, and also their folders' names."""
    names: list[str] = [study.free_name(FULL_PRECISION)]
    for job in jobs:
        names.append(study.free_name(f"{job.method}-{job.bits or 'plan'}", names))
    for path in request.candidates:
        names.append(study.free_name(path.resolve().name, names))
    return names
