"""`dqviz app`: serve the app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def app(
    host: Annotated[str, typer.Option("--host", help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to serve on.")] = 7860,
    auth: Annotated[
        str | None,
        typer.Option("--auth", metavar="USER:PASSWORD", help="Ask for this name and password."),
    ] = None,
    study: Annotated[
        Path | None, typer.Option("--study", metavar="DIR", help="Study to open first.")
    ] = None,
) -> None:
    """Serve the app for a browser."""
    from quant.errors import BadInput

    if not 1 <= port <= 65535:
        raise BadInput(f"port {port} is out of range; 1 to 65535, e.g. --port 7860")
    name, colon, password = (auth or "").partition(":")
    if auth is not None and not (name and colon and password):
        raise BadInput("--auth is not of the form USER:PASSWORD; e.g. --auth ada:engine")
    if study is not None:
        from ..study import Study

        Study.open(study, read_only=True)
    from .. import launch

    launch(host=host, port=port, auth=(name, password) if auth else None, study=study)
