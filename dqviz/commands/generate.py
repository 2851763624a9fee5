"""`dqviz generate`: draw pictures or clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import complain
from .base import (
    NO_LIST,
    Backend,
    BatchSize,
    Classes,
    Device,
    DType,
    Frames,
    Guidance,
    Json,
    Loras,
    Negative,
    Offline,
    OutlierFactor,
    OutlierKind,
    OutlierSeed,
    Prompts,
    PromptsFile,
    Revision,
    Seeds,
    Size,
    Steps,
    compare_request,
    prompts_of,
    show,
    source_fields,
    watched,
)


def generate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_CHECKPOINT", help="A model, or a folder that dqviz quantize wrote."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the pictures; new or empty.")
    ],
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="Pipeline of a .safetensors file, or of a checkpoint that names none.",
        ),
    ] = None,
    revision: Revision = None,
    lora: Loras = NO_LIST,
    offline: Offline = False,
    seeds: Seeds = "0-7",
    steps: Steps = None,
    guidance: Guidance = None,
    classes: Classes = "",
    prompt: Prompts = NO_LIST,
    prompts_file: PromptsFile = None,
    negative: Negative = None,
    size: Size = None,
    frames: Frames = None,
    outliers: OutlierFactor = None,
    outliers_kind: OutlierKind = "static",
    outliers_seed: OutlierSeed = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    backend: Backend = "auto",
    batch_size: BatchSize = 8,
    json_: Json = False,
) -> None:
    """Draw pictures or clips of a model or of a checkpoint."""
    from ..export import draw_to

    fields = source_fields(target, revision, base, lora, offline)
    request = compare_request(
        **fields,
        seeds=seeds,
        steps=steps,
        guidance=guidance,
        classes=classes,
        prompts=prompts_of(prompt, prompts_file),
        negative=negative,
        size=size,
        frames=frames,
        outliers=outliers,
        outliers_kind=outliers_kind,
        outliers_seed=outliers_seed,
        device=device,
        dtype=dtype,
        backend=backend,
        batch_size=batch_size,
    )
    with watched() as (progress, cancelled):
        made = draw_to(
            request.model, request, out, base=base, on_event=progress, cancelled=cancelled
        )
    for warning in made["warnings"]:
        complain(f"warning: {warning}")
    took = made["seconds_per_sample"]
    speed = (
        "simulated, so without a time"
        if took is None
        else f"{took:.3g} s per sample, {made['backend']}"
    )
    clip = made["clip"]
    what = "pictures" if clip is None else f"clips of {clip['frames']} frames"
    show(made, json_, f"{len(made['files'])} {what} in {made['out']}; {speed}")
