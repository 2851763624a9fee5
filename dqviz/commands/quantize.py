"""`dqviz quantize`: write a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import complain
from .base import preflight, show, watched
from .options import (
    DRAWING,
    NO_LIST,
    QUANTIZING,
    SOURCE,
    Backend,
    BitsText,
    Json,
    Methods,
    Model,
    PlanFile,
    Preflight,
    fields_of,
    listed,
    taking,
)


@taking(SOURCE, QUANTIZING, DRAWING)
def quantize(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write; new or empty.")
    ],
    study: Annotated[
        Path | None,
        typer.Option(
            "--study",
            metavar="DIR",
            help="Study that keeps what a method learns, so that it can go on. Default studies/MODEL.",
        ),
    ] = None,
    method: Methods = NO_LIST,
    bits: BitsText = "",
    plan: PlanFile = None,
    pipeline: Annotated[
        bool,
        typer.Option("--pipeline", help="Write the whole pipeline, not the transformer alone."),
    ] = False,
    backend: Backend = "auto",
    low_memory: Annotated[
        bool | None,
        typer.Option(
            "--low-memory/--no-low-memory",
            help="Leave blocks on disk and read them layer by layer; default: where all does not fit.",
        ),
    ] = None,
    *,
    preflight_: Preflight = False,
    json_: Json = False,
    **common: Any,
) -> None:
    """Write a quantized checkpoint for plain diffusers."""
    from ..export import drawing_command, quantize_to
    from ..request import CompareRequest
    from ..sharing import sharing_sentence

    given = {
        "methods": listed(method),
        "bits": bits,
        "plan": plan,
        "out": study,
        "backend": backend,
    }
    request = CompareRequest.parse({**fields_of(model, common), **given}, "command line")
    if preflight_:
        preflight(request, "quantize", out, json_, low_memory)
        return
    with watched() as (progress, cancelled):
        made = quantize_to(
            request,
            out,
            pipeline=pipeline,
            low_memory=low_memory,
            on_event=progress,
            cancelled=cancelled,
        )
    for warning in made["warnings"]:
        complain(f"warning: {warning}")
    shared = sharing_sentence(made["sharing"])
    share = 100 * made["size_bytes"] / made["fp16_bytes"]
    text = (
        f"{made['out']}: {made['method']} {made['bits']}, {made['size_bytes'] / 1e6:.2f} MB "
        f"({share:.0f} % of 16 bit), {made['bits_per_weight']:.2f} bits per weight; "
        f"{len(made['scope']['quantized'])} sites quantized, {len(made['scope']['kept'])} kept"
        f"{'; int8 attention' if made['attention'] else ''}{shared and '; ' + shared}"
    )
    if not pipeline:
        text += (
            f"\ndraw with it: {drawing_command(Path(made['out']), request.base or request.model)}"
        )
    show(made, json_, text)
