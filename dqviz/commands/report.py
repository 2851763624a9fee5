"""`dqviz report`: a comparison as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import show
from .options import Json


def report(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Study folder.")],
    comparison: Annotated[
        int | None,
        typer.Option("--comparison", metavar="N", help="Its number; default: the latest."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="A new file; default: STUDY/report.html."),
    ] = None,
    json_: Json = False,
) -> None:
    """Write a comparison and the latest capture as one HTML page."""
    from ..report import write_report
    from ..study import Study

    file = write_report(Study.open(study), comparison, out)
    found = {"report": str(file), "bytes": file.stat().st_size}
    show(found, json_, f"{file}: {found['bytes'] / 1e6:.1f} MB, opens without a network")
