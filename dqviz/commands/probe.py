"""`dqviz probe`: what only one method needs to know, measured into a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import (
    CALIBRATION,
    NO_LIST,
    Base,
    BatchSize,
    CalibrationSeeds,
    Classes,
    Device,
    DType,
    Frames,
    Guidance,
    Json,
    Loras,
    Model,
    Negative,
    Offline,
    Options,
    OutlierFactor,
    OutlierKind,
    OutlierSeed,
    Prompts,
    PromptsFile,
    Revision,
    Size,
    Steps,
    options_of,
    outliers_of,
    prompts_of,
    show,
    source_fields,
    watched,
)


def probe(
    model: Model,
    method: Annotated[
        str, typer.Option("--method", "-m", metavar="KEY", help="Method that is looked at.")
    ],
    bits: Annotated[str, typer.Option("--bits", "-b", metavar="BITS", help="Its bits, e.g. w4a8.")],
    only: Annotated[
        str, typer.Option("--only", metavar="LIST", help="These probes, e.g. alpha,rotation.")
    ] = "",
    study: Annotated[
        Path | None,
        typer.Option(
            "--study", metavar="DIR", help="Study folder to write into; default studies/MODEL."
        ),
    ] = None,
    revision: Revision = None,
    base: Base = None,
    lora: Loras = NO_LIST,
    offline: Offline = False,
    steps: Steps = None,
    guidance: Guidance = None,
    classes: Classes = "",
    prompt: Prompts = NO_LIST,
    prompts_file: PromptsFile = None,
    negative: Negative = None,
    size: Size = None,
    frames: Frames = None,
    option: Options = NO_LIST,
    calibration_seeds: CalibrationSeeds = CALIBRATION,
    outliers: OutlierFactor = None,
    outliers_kind: OutlierKind = "static",
    outliers_seed: OutlierSeed = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    batch_size: BatchSize = 8,
    json_: Json = False,
) -> None:
    """Measure what only one method has, for its views."""
    from ..probing import ProbeRequest
    from ..probing import probe as run
    from ..tables import probed

    request = ProbeRequest.parse(
        {
            **source_fields(model, revision, base, lora, offline),
            "method": method,
            "bits": bits,
            "options": options_of(option),
            "only": only,
            "out": study,
            "calibration_seeds": calibration_seeds,
            "classes": classes,
            "prompts": prompts_of(prompt, prompts_file),
            "negative": negative,
            "size": size,
            "frames": frames,
            "steps": steps,
            "guidance": guidance,
            "outliers": outliers_of(outliers, outliers_kind, outliers_seed),
            "device": device,
            "dtype": dtype,
            "batch_size": batch_size,
        },
        "command line",
    )
    with watched() as (progress, cancelled):
        made = run(request, progress, cancelled)
    show(made, json_, probed(made))
