"""`dqviz capture`: statistics of the inputs of every layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .base import preflight, show, watched
from .options import (
    CALIBRATING,
    CALIBRATION,
    DRAWING,
    SOURCE,
    Json,
    Model,
    Preflight,
    fields_of,
    taking,
)


@taking(SOURCE, DRAWING, CALIBRATING)
def capture(
    model: Model,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study", metavar="DIR", help="Study folder to capture into; default studies/MODEL."
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", metavar="N", help="Draw N samples, on the calibration seeds."),
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="SEEDS", help="Seeds to draw, instead of --samples.")
    ] = "",
    method: Annotated[
        str | None,
        typer.Option(
            "--method", "-m", metavar="KEY", help="Record what this method's transforms do, too."
        ),
    ] = None,
    bits: Annotated[
        str | None, typer.Option("--bits", "-b", metavar="BITS", help="Bits of the method, w4a8.")
    ] = None,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", help="Rows per sample that histograms look at.")
    ] = 16,
    row_absmax: Annotated[
        int,
        typer.Option("--row-absmax", metavar="N", help="Rows per step whose maximum is kept."),
    ] = 64,
    reservoir: Annotated[
        int,
        typer.Option("--reservoir", metavar="N", help="Whole rows kept of every input, at most."),
    ] = 512,
    surface_mib: Annotated[
        int,
        typer.Option("--surface-mib", metavar="N", help="Size of all surfaces together, at most."),
    ] = 64,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Seed of the choice of rows.")
    ] = 0,
    *,
    preflight_: Preflight = False,
    json_: Json = False,
    **common: Any,
) -> None:
    """Record statistics of every layer's input over the steps."""
    from quant.errors import BadInput

    from ..capturing import CaptureRequest
    from ..capturing import capture as run
    from ..study_folder import default_folder
    from ..tables import captured

    if samples is not None and seeds:
        raise BadInput(f"--samples {samples} and --seeds {seeds} were both given; give one of them")
    if samples is not None and not 1 <= samples <= 10_000:
        raise BadInput(f"samples {samples} is out of range; 1 to 10000, e.g. --samples 8")
    first = int(CALIBRATION.partition("-")[0])
    request = CaptureRequest.parse(
        {
            **fields_of(model, common),
            "out": study,
            "seeds": seeds or f"{first}-{first + (samples or 8) - 1}",
            "method": method,
            "bits": bits,
            "record": {
                "rows": rows,
                "row_absmax": row_absmax,
                "reservoir": reservoir,
                "surface_mib": surface_mib,
                "seed": seed,
            },
        },
        "command line",
    )
    if preflight_:
        folder = request.out or default_folder(request.model, request.outliers, request.loras)
        preflight(request, "capture", folder, json_)
        return
    with watched() as (progress, cancelled):
        made = run(request, progress, cancelled)
    show(made, json_, captured(made))
