"""axe-core in a page: violations that are serious or critical."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

SERIOUS = ("serious", "critical")


def axe_script() -> str:
    """axe-core's source."""
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Any) -> list[str]:
    """One line per violated element of the page."""
    page.evaluate(axe_script() + ";0")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{v['impact']} {v['id']}: {' '.join(map(str, n['target']))} {n['html'][:120]}"
        for v in found["violations"]
        if v["impact"] in SERIOUS
        for n in v["nodes"]
    ]
