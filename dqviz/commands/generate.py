"""`dqviz generate`: draw pictures or clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import complain
from .base import show, watched
from .options import DRAWING, SOURCE, Backend, Json, Residency, Seeds, fields_of, taking

OwnBase = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="MODEL",
        help="Pipeline of a .safetensors file, or of a checkpoint that names none.",
    ),
]


@taking({**SOURCE, "base": (OwnBase, None)}, DRAWING)
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
    seeds: Seeds = "0-7",
    backend: Backend = "auto",
    residency: Residency = "speed",
    *,
    json_: Json = False,
    **common: Any,
) -> None:
    """Draw pictures or clips of a model or of a checkpoint."""
    from ..export import draw_to
    from ..request import CompareRequest

    given = {"seeds": seeds, "backend": backend, "residency": residency}
    request = CompareRequest.parse({**fields_of(target, common), **given}, "command line")
    with watched() as (progress, cancelled):
        made = draw_to(
            request.model, request, out, base=common["base"], on_event=progress, cancelled=cancelled
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
