"""`dqviz check-method`: a method held to what every method promises."""

from __future__ import annotations

from typing import Annotated

import typer

from ..terminal import complain
from .base import show, watched
from .options import Device, DType, Json

BROKEN = 4  # exit code


def check_method(
    method: Annotated[
        str,
        typer.Argument(
            metavar="KEY_OR_FILE", help="A method that is installed, or a .py file, which is run."
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="Model that it is tried on.")
    ] = "dit-emoji",
    device: Device = "auto",
    dtype: DType = "auto",
    json_: Json = False,
) -> None:
    """Hold a method to what every method promises."""
    from ..method_check import check_method as check
    from ..tables import table

    with watched() as (progress, cancelled):
        found = check(
            method, model, device=device, dtype=dtype, on_event=progress, cancelled=cancelled
        )
    rows = [("ok" if p["passed"] else "FAILED", p["promise"], p["text"]) for p in found["promises"]]
    show(found, json_, table(("", "promise", ""), rows))
    for promise in found["promises"]:
        for fault in promise["faults"]:
            complain(f"{found['method']}: {promise['promise']}: {fault}")
    if not found["passed"]:
        raise typer.Exit(BROKEN)
