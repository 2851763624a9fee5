"""A method held to every promise that the suite holds ours to: what `dqviz check-method` tells."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from quant.errors import Cancelled, unknown
from quant.sources import Source, check_source

from .events import OnEvent, Stage
from .planning import load

MODEL = "dit-emoji"


def check_method(
    method: str,
    model: str = MODEL,
    *,
    device: str = "auto",
    dtype: str = "auto",
    on_event: OnEvent | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Look at every promise of a method, on synthetic layers and on a model.

    Args:
        method: key of one that `dqviz methods` lists, or a file of Python that holds one; its code is run.
        model: calibrated and drawn with for a few steps, then quantized at several bits.
        device: that the model computes on.
        dtype: that it computes in.
        on_event: told about each promise before it is looked at.
        cancelled: asked as often.
    """
    is_file = method.endswith(".py") or Path(method).is_file()
    check_source(Source(ref=model))
    if not is_file:
        _check_key(method)

    from quant.conformance.check import check_method as verdicts
    from quant.conformance.method_files import file_method

    def tell(name: str, text: str) -> None:
        if cancelled is not None and cancelled():
            raise Cancelled(f"cancelled before '{name}'")
        if on_event is not None:
            on_event(Stage(name, f"{name}: {text}"))

    # What a method prints is not what this tells.
    with (
        redirect_stdout(sys.stderr),
        file_method(Path(method)) if is_file else nullcontext(method) as key,
    ):
        opened = load(model, device, dtype)
        found = verdicts(key, opened, tell)
    return {
        "method": key,
        "model": opened.ref,
        "passed": all(verdict.passed for verdict in found),
        "promises": [
            {
                "promise": verdict.promise,
                "text": verdict.text,
                "passed": verdict.passed,
                "faults": list(verdict.faults),
            }
            for verdict in found
        ],
    }


def _check_key(key: str) -> None:
    from quant.cards import methods

    if key not in methods():
        raise unknown("method", key, methods(), "List them: dqviz methods; or name a .py file")
