"""`dqviz gate`: a study held against bounds, for continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import complain
from .base import show
from .options import NO_LIST, Json, options_of

MISSED = 4  # exit code


def gate(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY_OR_DIR", help="A study, or a folder of studies.")
    ],
    max_latent_error: Annotated[
        float | None,
        typer.Option("--max-latent-error", metavar="X", help="Relative error of the latents."),
    ] = None,
    min_psnr: Annotated[
        float | None, typer.Option("--min-psnr", metavar="DB", help="PSNR in decibels.")
    ] = None,
    min_ssim: Annotated[
        float | None, typer.Option("--min-ssim", metavar="X", help="Structural similarity.")
    ] = None,
    max_size_mb: Annotated[
        float | None,
        typer.Option("--max-size-mb", metavar="MB", help="Transformer on disk, 10^6 bytes."),
    ] = None,
    bound: Annotated[
        list[str],
        typer.Option("--bound", metavar="METRIC=X", help="Bound on any other paired metric."),
    ] = NO_LIST,
    run: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="NAME", help="Run to judge; default: the latest comparison's."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="NAME", help="A run that none may be shown to be worse than."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Exit with 4 where a run misses a bound on quality or size."""
    from ..gate import bounds_of, judge

    given = {
        "latent_rel_error": max_latent_error,
        "psnr_db": min_psnr,
        "ssim": min_ssim,
        "size_mb": max_size_mb,
    }
    bounds = bounds_of(given, options_of(bound))
    found = judge(study, bounds, run=run, against=against)
    missed, met = found.pop("missed"), found.pop("met")
    for study_ in found["skipped"]:
        complain(f"note: {study_} has nothing to gate: nothing was compared in it")
    show(found, json_, "\n".join(met) or "no bound is met")
    for sentence in missed:
        complain(sentence)
    if not found["passed"]:
        raise typer.Exit(MISSED)
