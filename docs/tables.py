"""What all generated blocks use: Markdown tables, result files, intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def results(name: str) -> dict[str, Any] | None:
    """A result file, if it has been written."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def interval(value: dict[str, Any] | None, sign: str = "") -> str:
    """`12.34 (12.00 to 12.70)`; a dash where there is no number."""
    if not value or value.get("mean") is None:
        return "identical"
    mean = format(value["mean"], f"{sign}.2f")
    if value.get("lo") is None:
        return mean
    return f"{mean} ({format(value['lo'], f'{sign}.2f')} to {format(value['hi'], f'{sign}.2f')})"
