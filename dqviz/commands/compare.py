"""`dqviz compare`: judge methods against full precision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import (
    CALIBRATION,
    NO_LIST,
    Backend,
    BatchSize,
    BitsText,
    CalibrationSeeds,
    Classes,
    Device,
    DType,
    GroupSize,
    Guidance,
    Json,
    Methods,
    Model,
    Options,
    OutlierFactor,
    OutlierKind,
    OutlierSeed,
    PlanFile,
    Prompts,
    Seeds,
    Steps,
    Windows,
    compare_request,
    listed,
    show,
    watched,
)


def compare(
    model: Model,
    method: Methods = NO_LIST,
    bits: BitsText = "",
    plan: PlanFile = None,
    candidate: Annotated[
        list[Path] | None,
        typer.Option(
            "--candidate",
            metavar="PATH",
            help="Quantized transformer folder that diffusers loads; repeat for several.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--study",
            metavar="DIR",
            help="Study folder; new, empty, or a study of this model. Default studies/MODEL.",
        ),
    ] = None,
    seeds: Seeds = "0-7",
    steps: Steps = None,
    guidance: Guidance = None,
    classes: Classes = "",
    prompt: Prompts = NO_LIST,
    option: Options = NO_LIST,
    windows: Windows = 1,
    group_size: GroupSize = None,
    calibration_seeds: CalibrationSeeds = CALIBRATION,
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder/--no-ladder", help="Measure what harmless changes do to the same numbers."
        ),
    ] = True,
    outliers: OutlierFactor = None,
    outliers_kind: OutlierKind = "static",
    outliers_seed: OutlierSeed = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    backend: Backend = "auto",
    batch_size: BatchSize = 8,
    json_: Json = False,
) -> None:
    """Judge methods against full precision, same seeds."""
    from ..comparison import compare as run
    from ..tables import compared

    request = compare_request(
        model=model,
        methods=listed(method),
        bits=bits,
        plan=plan,
        candidates=tuple(candidate or ()),
        out=out,
        seeds=seeds,
        steps=steps,
        guidance=guidance,
        classes=classes,
        prompts=tuple(prompt),
        option=option,
        windows=windows,
        group_size=group_size,
        calibration_seeds=calibration_seeds,
        ladder=ladder,
        outliers=outliers,
        outliers_kind=outliers_kind,
        outliers_seed=outliers_seed,
        device=device,
        dtype=dtype,
        backend=backend,
        batch_size=batch_size,
    )
    with watched() as (progress, cancelled):
        result = run(request, progress, cancelled, previews=False)
    show(result, json_, compared(result))
