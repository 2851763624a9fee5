"""What a comparison would take, as a card: predicted numbers beside what is free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..machine import mib
from ..terminal import duration

NOTHING: dict[str, Any] = {"state": "", "verdict": "", "rows": [], "note": ""}
BUSY = {**NOTHING, "state": "busy", "verdict": "Looking at the model…"}


def card(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of a `Preflight`: whether it fits, rows of name and text, and what kind of numbers they are."""
    seconds = found["seconds"]
    needed, free = mib(found["memory_bytes"]), mib(found["free_memory_bytes"])
    rows = [
        ["Memory", f"at most {needed}, {free} are free"],
        ["Time", found["untimed"] if seconds is None else f"about {duration(seconds)}"],
        ["Disk", f"{mib(found['free_disk_bytes'])} are free"],
    ]
    if found["size"]:
        high, wide = found["size"]
        rows.append(["Size", f"{high} pixels high, {wide} wide"])
    return {
        "state": "fits" if found["fits"] else "refused",
        "verdict": "It fits" if found["fits"] else found["refusal"],
        "rows": rows,
        "note": "predicted for this machine",
    }


def refused(message: str) -> dict[str, Any]:
    """What cannot be told, or asked."""
    return {**NOTHING, "state": "refused", "verdict": message}
