"""`dqviz size`: storage, predicted from shapes."""

from __future__ import annotations

from typing import Annotated

import typer

from .base import show
from .options import NO_LIST, Base, BitsText, Json, Offline, Options, PlanFile, Revision, options_of


def size(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_SHAPE", help="A model, or a shape known by name such as dit-xl-2."
        ),
    ],
    revision: Revision = None,
    base: Base = None,
    offline: Offline = False,
    method: Annotated[str, typer.Option("--method", "-m", metavar="KEY", help="Method.")] = "rtn",
    bits: BitsText = "",
    plan: PlanFile = None,
    option: Options = NO_LIST,
    json_: Json = False,
) -> None:
    """Tell the storage of a quantized transformer."""
    from quant.sources import Source

    from ..catalogue import size_report
    from ..tables import sized

    source = Source.of(target, revision=revision, base=base, offline=offline)
    found = size_report(source, method, bits, plan, options_of(option))
    show(found, json_, sized(found))
