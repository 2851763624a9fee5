"""`dqviz compare`: judge methods against full precision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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
    Residency,
    Seeds,
    fields_of,
    listed,
    taking,
)


@taking(SOURCE, QUANTIZING, DRAWING)
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
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder/--no-ladder", help="Measure what harmless changes do to the same numbers."
        ),
    ] = True,
    backend: Backend = "auto",
    residency: Residency = "speed",
    *,
    preflight_: Preflight = False,
    json_: Json = False,
    **common: Any,
) -> None:
    """Judge methods against full precision, same seeds."""
    from ..comparison import compare as run
    from ..request import CompareRequest
    from ..study_folder import default_folder
    from ..tables import compared

    given = {
        "methods": listed(method),
        "bits": bits,
        "plan": plan,
        "candidates": tuple(candidate or ()),
        "out": out,
        "seeds": seeds,
        "ladder": ladder,
        "backend": backend,
        "residency": residency,
    }
    request = CompareRequest.parse({**fields_of(model, common), **given}, "command line")
    if preflight_:
        folder = request.out or default_folder(request.model, request.outliers, request.loras)
        preflight(request, "compare", folder, json_)
        return
    with watched() as (progress, cancelled):
        result = run(request, progress, cancelled, previews=False)
    show(result, json_, compared(result))
