"""`dqviz methods`: the methods and their options."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .base import show
from .options import Json


def methods(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="Show one method alone.")
    ] = None,
    json_: Json = False,
) -> None:
    """List the methods with their options and presets."""
    from ..catalogue import list_methods
    from ..tables import table

    found = list_methods(key)
    parts = [
        table(
            ("method", "", "bits", "held against"),
            [
                (m["key"], m["summary"] or m["title"], " ".join(m["bits"]), m["beats"] or "")
                for m in found
            ],
        )
    ]
    parts += [
        f"options of {m['key']} ({m['paper']})\n"
        + table(
            ("", "default", ""), [(f"  {o['name']}", o["default"], o["text"]) for o in m["options"]]
        )
        for m in found
        if m["options"]
    ]
    parts += [
        f"presets of {m['key']}, as in --option preset=NAME\n"
        + table(
            ("", "bits", "sets", "source", ""),
            [
                (f"  {p['name']}", p["bits"], _options(p["options"]), p["source"], p["text"])
                for p in m["presets"]
            ],
        )
        for m in found
        if m["presets"]
    ]
    show({"methods": found}, json_, "\n\n".join(parts))


def _options(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())
