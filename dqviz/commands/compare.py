"""`dqviz compare`: judge methods against full precision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import (
    CALIBRATION,
    NO_LIST,
    Backend,
    Base,
    BatchSize,
    BitsText,
    CalibrationSeeds,
    Classes,
    Device,
    DType,
    Frames,
    GroupSize,
    Guidance,
    Json,
    Loras,
    Methods,
    Model,
    Negative,
    Offline,
    Options,
    OutlierFactor,
    OutlierKind,
    OutlierSeed,
    PlanFile,
    Preflight,
    Prompts,
    PromptsFile,
    Revision,
    Seeds,
    Size,
    Steps,
    Windows,
    compare_request,
    listed,
    preflight,
    prompts_of,
    show,
    source_fields,
    watched,
)


def compare(
    model: Model,
    revision: Revision = None,
    base: Base = None,
    lora: Loras = NO_LIST,
    offline: Offline = False,
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
    prompts_file: PromptsFile = None,
    negative: Negative = None,
    size: Size = None,
    frames: Frames = None,
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
    preflight_: Preflight = False,
    json_: Json = False,
) -> None:
    """Judge methods against full precision, same seeds."""
    from ..comparison import compare as run
    from ..study import default_folder
    from ..tables import compared

    request = compare_request(
        **source_fields(model, revision, base, lora, offline),
        methods=listed(method),
        bits=bits,
        plan=plan,
        candidates=tuple(candidate or ()),
        out=out,
        seeds=seeds,
        steps=steps,
        guidance=guidance,
        classes=classes,
        prompts=prompts_of(prompt, prompts_file),
        negative=negative,
        size=size,
        frames=frames,
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
    if preflight_:
        folder = request.out or default_folder(request.model, request.outliers, request.loras)
        preflight(request, "compare", folder, json_)
        return
    with watched() as (progress, cancelled):
        result = run(request, progress, cancelled, previews=False)
    show(result, json_, compared(result))
