"""`dqviz methods`: the methods and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from .base import Json, show


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
            ("method", "", "bits", "beats"),
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
    show({"methods": found}, json_, "\n\n".join(parts))
