"""`dqviz doctor`: what is installed, missing or in the way."""

from __future__ import annotations

from typing import Any

import typer

from .. import provenance
from .base import show
from .options import Json


def doctor(json_: Json = False) -> None:
    """Tell what is installed, missing or in the way."""
    from ..doctor import checks, healthy

    found = checks()
    text = "" if provenance.foreign() else _checked(found)
    if not text:
        text = "\n".join(f"{c['name']}: {c['detail']} {c['fix']}".strip() for c in found)
    show({"ok": healthy(found), "checks": found}, json_, text)
    if not healthy(found):
        raise typer.Exit(3)


def _checked(found: list[dict[str, Any]]) -> str:
    from ..tables import checked

    return checked(found)
