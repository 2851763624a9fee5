"""What a job can be: how each kind of work is described, written as a command, and done.

Nothing here imports the engine; `run` does, in the process that calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.schema import Value

from . import allocating, capturing, probing, sweeping
from .allocating import AllocateRequest
from .capturing import CaptureRequest
from .catalogue import list_models
from .command_lines import as_command
from .events import OnEvent
from .probing import ProbeRequest
from .request import CompareRequest, check_fields
from .studies import place
from .study_folder import default_folder
from .sweeping import SweepRequest

Request = Mapping[str, Any]
Cancelled = Callable[[], bool]


@dataclass(frozen=True)
class Kind:
    """One kind of work."""

    describe: Callable[[Request], tuple[str, Path]]  # title and study folder; raises BadInput
    command: Callable[[Request], str]
    run: Callable[[Request, OnEvent, Cancelled, str], Any]  # the last is the job's id
    made: str | None = None  # key, in what `run` returns, of the name of what it made in the study


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
    return title, place(asked.out or default_folder(asked.model, asked.outliers, asked.loras))


def _command_compare(request: Request) -> str:
    asked = CompareRequest.parse(request, "the request")
    return as_command(_into_out(asked))


def _run_compare(request: Request, on_event: OnEvent, cancelled: Cancelled, key: str) -> Any:
    from .comparison import compare

    return compare(CompareRequest.parse(request, "the job"), on_event, cancelled, key=key)


def _into_out(asked: Any) -> Any:
    """The request with the folder that the work writes into: for a recorded study its copy, which a command is to name."""
    return asked.model_copy(update={"out": None if asked.out is None else place(asked.out)})


def _into_study(asked: Any) -> Any:
    return asked.model_copy(update={"study": place(asked.study)})


def _kind(
    asks: type[Value],
    into: Callable[[Any], Any],
    title: Any,
    as_command: Any,
    do: Any,
    made: str | None = None,
) -> Kind:
    """Of work that its module describes, says as a command, and does, by one kind of request.

    `into` puts in the folder that the work writes into.
    """

    def run(request: Request, on_event: OnEvent, cancelled: Cancelled, key: str) -> Any:
        return do(asks.parse(request, "the job"), on_event, cancelled)

    return Kind(
        lambda request: title(asks.parse(request, "the request")),
        lambda request: as_command(into(asks.parse(request, "the request"))),
        run,
        made,
    )


KINDS: dict[str, Kind] = {
    "compare": Kind(_describe_compare, _command_compare, _run_compare),
    "capture": _kind(
        CaptureRequest, _into_out, capturing.title, capturing.as_command, capturing.capture
    ),
    "probe": _kind(ProbeRequest, _into_out, probing.title, probing.as_command, probing.probe),
    "sensitivity": _kind(
        SweepRequest, _into_out, sweeping.title, sweeping.as_command, sweeping.sweep
    ),
    "allocate": _kind(
        AllocateRequest,
        _into_study,
        allocating.title,
        allocating.as_command,
        allocating.allocate,
        made="allocation",
    ),
}
