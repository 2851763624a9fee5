"""What a job can be: how each kind of work is described, written as a command, and done.

Nothing here imports the engine; `run` does, in the process that calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import capturing, probing
from .capturing import CaptureRequest
from .catalogue import list_models
from .events import OnEvent
from .probing import ProbeRequest
from .request import CompareRequest, as_command, check_fields
from .studies import place
from .study import default_folder

Request = Mapping[str, Any]
Cancelled = Callable[[], bool]


@dataclass(frozen=True)
class Kind:
    """One kind of work."""

    describe: Callable[[Request], tuple[str, Path]]  # title and study folder; raises BadInput
    command: Callable[[Request], str]
    run: Callable[[Request, OnEvent, Cancelled, str], Any]  # the last is the job's id


def _describe_compare(request: Request) -> tuple[str, Path]:
    asked = CompareRequest.parse(request, "the request")
    check_fields(asked)
    titles = {str(m["key"]): str(m["title"]) for m in list_models()}
    bits = asked.bits or ("plan",)
    widths = bits * len(asked.methods) if len(bits) == 1 else bits
    runs = [f"{method} {width}" for method, width in zip(asked.methods, widths)]
    runs += [path.name for path in asked.candidates]
    seeds = f"{len(asked.seeds)} seed{'' if len(asked.seeds) == 1 else 's'}"
    model = titles.get(asked.model, asked.model)
    if asked.outliers is not None:
        model = asked.outliers.marked(model)
    title = f"{model}: {', '.join(runs)}, {seeds}"
    return title, place(asked.out or default_folder(asked.model, asked.outliers))


def _command_compare(request: Request) -> str:
    asked = CompareRequest.parse(request, "the request")
    return as_command(asked.model_copy(update=_written(asked.out)))


def _run_compare(request: Request, on_event: OnEvent, cancelled: Cancelled, key: str) -> Any:
    from .comparison import compare

    return compare(CompareRequest.parse(request, "the job"), on_event, cancelled, key=key)


def _describe_capture(request: Request) -> tuple[str, Path]:
    return capturing.title(CaptureRequest.parse(request, "the request"))


def _command_capture(request: Request) -> str:
    asked = CaptureRequest.parse(request, "the request")
    return capturing.as_command(asked.model_copy(update=_written(asked.out)))


def _written(out: Path | None) -> dict[str, Path | None]:
    """Where the work writes: for a recorded study its copy, which a command is to name."""
    return {"out": None if out is None else place(out)}


def _run_capture(request: Request, on_event: OnEvent, cancelled: Cancelled, key: str) -> Any:
    return capturing.capture(CaptureRequest.parse(request, "the job"), on_event, cancelled)


def _describe_probe(request: Request) -> tuple[str, Path]:
    return probing.title(ProbeRequest.parse(request, "the request"))


def _command_probe(request: Request) -> str:
    asked = ProbeRequest.parse(request, "the request")
    return probing.as_command(asked.model_copy(update=_written(asked.out)))


def _run_probe(request: Request, on_event: OnEvent, cancelled: Cancelled, key: str) -> Any:
    return probing.probe(ProbeRequest.parse(request, "the job"), on_event, cancelled)


KINDS: dict[str, Kind] = {
    "compare": Kind(_describe_compare, _command_compare, _run_compare),
    "capture": Kind(_describe_capture, _command_capture, _run_capture),
    "probe": Kind(_describe_probe, _command_probe, _run_probe),
}
