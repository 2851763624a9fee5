"""How commands watch long work and print results.

A command is one file of this folder: a function of the file's name, found by existing. Its imports
stay inside it, so that `--help` answers at once. Options that several have are in `options.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from ..terminal import ProgressLine, interruptible


@contextmanager
def watched() -> Iterator[tuple[ProgressLine, Callable[[], bool]]]:
    """What long work is given: a line of progress, and a function that says whether to stop."""
    progress = ProgressLine()
    try:
        with interruptible() as cancelled:
            yield progress, cancelled
    finally:
        progress.clear()


def preflight(
    request: Any, work: Any, folder: Path, as_json: bool, low_memory: bool | None = None
) -> None:
    """Print what a request would take; exit code 3 where it does not fit."""
    from ..preflight import of_request

    show_preflight(of_request(request, work, folder, low_memory), as_json)


def show_preflight(found: Any, as_json: bool) -> None:
    """Print a `dqviz.preflight.Preflight`; exit code 3 where it does not fit."""
    from ..terminal import complain

    show(found.to_json(), as_json, found.sentence())
    if not found.fits:
        complain(found.refusal)
        raise typer.Exit(3)


def show(data: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a result: one JSON object, or text for people."""
    print(json.dumps(data, allow_nan=False, ensure_ascii=False, indent=1) if as_json else text)
