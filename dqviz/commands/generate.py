"""`dqviz generate`: draw pictures."""

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
    Guidance,
    Json,
    OutlierFactor,
    OutlierKind,
    OutlierSeed,
    Prompts,
    Seeds,
    Steps,
    compare_request,
    show,
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
            help="Pipeline of a transformer checkpoint that does not name it.",
        ),
    ] = None,
    seeds: Seeds = "0-7",
    steps: Steps = None,
    guidance: Guidance = None,
    classes: Classes = "",
    prompt: Prompts = NO_LIST,
    outliers: OutlierFactor = None,
    outliers_kind: OutlierKind = "static",
    outliers_seed: OutlierSeed = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    backend: Backend = "auto",
    batch_size: BatchSize = 8,
    json_: Json = False,
) -> None:
    """Draw pictures of a model or of a checkpoint."""
    from ..export import draw_to

    request = compare_request(
        model=base or target,
        seeds=seeds,
        steps=steps,
        guidance=guidance,
        classes=classes,
        prompts=tuple(prompt),
        outliers=outliers,
        outliers_kind=outliers_kind,
        outliers_seed=outliers_seed,
        device=device,
        dtype=dtype,
        backend=backend,
        batch_size=batch_size,
    )
    with watched() as (progress, cancelled):
        made = draw_to(target, request, out, base=base, on_event=progress, cancelled=cancelled)
    for warning in made["warnings"]:
        complain(f"warning: {warning}")
    took = made["seconds_per_sample"]
    speed = "simulated, so no time" if took is None else f"{took:.3g} s per sample"
    show(made, json_, f"{len(made['files'])} pictures in {made['out']}; {speed}, {made['backend']}")
