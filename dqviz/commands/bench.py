"""`dqviz bench`: times on this machine, beside named peers; the tables that `--backend auto` decides by."""

from __future__ import annotations

from typing import Annotated

import typer

from ..terminal import complain
from .base import show, watched
from .options import Device, Json


def bench(
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="MODEL_OR_SHAPE", help="A model, or a shape such as dit-xl-2."
        ),
    ] = "dit-emoji",
    device: Device = "auto",
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Write the tables that --backend auto decides by; on a GPU those of its tiles too.",
        ),
    ] = False,
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", help="Timed runs of each way; the least counts.")
    ] = 15,
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", "--batch", metavar="N", help="Samples of one evaluation."),
    ] = 1,
    json_: Json = False,
) -> None:
    """Time a model's layers and one evaluation here."""
    from ..benching import BenchRequest
    from ..benching import bench as run
    from ..benching.rows import shown

    request = BenchRequest.parse(
        {
            "model": model,
            "device": device,
            "tune": tune,
            "runs": runs,
            "batch_size": batch_size,
        },
        "command line",
    )
    with watched() as (progress, cancelled):
        made = run(request, progress, cancelled)
    if json_:
        for warning in made["warnings"]:
            complain(f"warning: {warning}")
    show(made, json_, shown(made))
