"""`dqviz sensitivity`: what rounding single layers costs the picture, measured into a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .base import show, show_preflight, watched
from .options import (
    CALIBRATING,
    DRAWING,
    SOURCE,
    Json,
    Model,
    Preflight,
    Windows,
    fields_of,
    taking,
)


@taking(SOURCE, DRAWING, CALIBRATING)
def sensitivity(
    model: Model,
    bits: Annotated[
        str, typer.Option("--bits", "-b", metavar="LIST", help="Bits of the cells, e.g. 3,4,6,8.")
    ],
    tier: Annotated[
        str,
        typer.Option(
            "--tier",
            metavar="KEY",
            help="weight, layer, gradient or exact: from seconds to hours, ever closer to the picture.",
        ),
    ] = "gradient",
    windows: Windows = 4,
    method: Annotated[
        str, typer.Option("--method", "-m", metavar="KEY", help="Method that rounds the layers.")
    ] = "rtn",
    sites: Annotated[
        str | None,
        typer.Option("--sites", metavar="REGEX", help="Layers whose names it finds; default all."),
    ] = None,
    seeds: Annotated[
        str,
        typer.Option(
            "--seeds",
            metavar="SEEDS",
            help="Seeds to draw; others than those that plans are verified and reported on.",
        ),
    ] = "200000-200007",
    probes: Annotated[
        int,
        typer.Option("--probes", metavar="N", help="Tier gradient: random directions per sample."),
    ] = 8,
    both_ways: Annotated[
        bool,
        typer.Option("--both-ways", help="Tier exact: also with everything rounded but the cell."),
    ] = False,
    pictures: Annotated[
        bool,
        typer.Option("--pictures/--no-pictures", help="Tier exact: also by metrics of pictures."),
    ] = True,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study", metavar="DIR", help="Study folder to write into; default studies/MODEL."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="ADDRESS", help="Measure on a Ray cluster: HOST:PORT, or auto."
        ),
    ] = None,
    *,
    preflight_: Preflight = False,
    json_: Json = False,
    **common: Any,
) -> None:
    """Measure what rounding each layer costs."""
    from ..study_folder import default_folder
    from ..sweep_preflight import of_request
    from ..sweep_request import SweepRequest, check_fields
    from ..sweeping import sweep
    from ..tables import swept

    request = SweepRequest.parse(
        {
            **fields_of(model, common),
            "tier": tier,
            "bits": bits,
            "windows": windows,
            "method": method,
            "sites": sites,
            "seeds": seeds,
            "probes": probes,
            "both_ways": both_ways,
            "pictures": pictures,
            "out": study,
            "ray": ray,
        },
        "command line",
    )
    if preflight_:
        check_fields(request)
        folder = request.out or default_folder(request.model, request.outliers, request.loras)
        show_preflight(of_request(request, folder), json_)
        return
    with watched() as (progress, cancelled):
        made = sweep(request, progress, cancelled)
    show(made, json_, swept(made))
