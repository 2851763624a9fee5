"""`dqviz probe`: what only one method needs to know, measured into a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .base import show, watched
from .options import CALIBRATING, DRAWING, SOURCE, Json, Model, fields_of, taking


@taking(SOURCE, DRAWING, CALIBRATING)
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
    *,
    json_: Json = False,
    **common: Any,
) -> None:
    """Measure what only one method has, for its views."""
    from ..probing import ProbeRequest
    from ..probing import probe as run
    from ..tables import probed

    request = ProbeRequest.parse(
        {
            **fields_of(model, common),
            "method": method,
            "bits": bits,
            "only": only,
            "out": study,
        },
        "command line",
    )
    with watched() as (progress, cancelled):
        made = run(request, progress, cancelled)
    show(made, json_, probed(made))
