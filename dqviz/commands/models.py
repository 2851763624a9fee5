"""`dqviz models`: the models that are here."""

from __future__ import annotations

from .base import show
from .options import Json


def models(json_: Json = False) -> None:
    """List the models that are available offline."""
    from ..catalogue import list_models
    from ..tables import table

    found = list_models()
    rows = [
        (m["key"], m["family"], m["task"], f"{m['params'] / 1e6:.1f} M", m["title"]) for m in found
    ]
    text = table(("model", "family", "task", "parameters", ""), rows)
    show(
        {"models": found},
        json_,
        text if found else "no embedded model found; name a folder or a hub id",
    )
