"""The commands of `dqviz`: one file each, found by existing."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path


def commands() -> dict[str, Callable[..., None]]:
    """Every command's function by its name on the command line, in alphabetical order."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in ("__init__", "base", "options"):
            module = importlib.import_module(f".{path.stem}", __name__)
            found[path.stem.replace("_", "-")] = getattr(module, path.stem)
    return found
