"""What a request will take of memory, time and disk on this machine: said before the start, or a refusal.

Everything is predicted, from configuration and file headers; nothing is loaded for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from quant import cards
from quant.errors import BadInput, DQVizError, EnvironmentFault

from . import machine
from .projection import projected, rates
from .request import CompareRequest, RunRequest, check_request
from .study_folder import default_folder
from .terminal import duration

if TYPE_CHECKING:
    from quant.preflight import Need, Outline, Run, Work
    from quant.schema import Plan, Sampler
    from quant.sources import Located

    from .request import ModelRequest

PREFLIGHT = "preflight"  # name of the stage that says so
LADDER = 8  # generations of half of the samples


@dataclass(frozen=True)
class Preflight:
    """Predicted for this machine, and what follows from it."""

    work: str
    memory_bytes: int  # at most, with everything in memory
    low_memory_bytes: int | None  # at most, with blocks on disk; None: not for this work
    free_memory_bytes: int
    disk_bytes: int  # that stay
    scratch_bytes: int  # besides, with blocks on disk, until the end
    free_disk_bytes: int
    read_bytes: int | None  # of the disk, with blocks there: the transformer once per evaluation
    seconds: float | None  # about, of computing; None where it is not known
    untimed: str  # why it is not
    drawing_known: bool  # whether memory counts activations: where the configuration tells how many
    low_memory: bool  # chosen
    why: str
    fits: bool
    refusal: str  # one line; empty where it fits
    size: tuple[int, int] | None = (
        None  # height and width that are asked for; None: the model's own
    )
    evidence: Literal["predicted"] = "predicted"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def sentence(self) -> str:
        """One line for people."""
        mib = machine.mib
        shape = "" if self.size is None else f", {self.size[0]} pixels high and {self.size[1]} wide"
        low = (
            ""
            if self.low_memory_bytes is None
            else f" ({mib(self.low_memory_bytes)} with --low-memory)"
        )
        text = (
            f"predicted, at most{shape}: {mib(self.memory_bytes)} of memory{low}, {mib(self.free_memory_bytes)} "
            f"are free; {mib(self.disk_bytes)} on disk"
        )
        if self.low_memory:
            text += f" and {mib(self.scratch_bytes)} until the end"
        text += f", {mib(self.free_disk_bytes)} are free"
        if self.seconds is not None:
            text += f"; about {duration(self.seconds)}"
        elif self.untimed:
            text += f"; no time yet: {self.untimed}"
        if self.low_memory and self.read_bytes:
            text += f" and reading {mib(self.read_bytes)}"
        if not self.drawing_known:
            text += "; without what drawing takes, which the configuration does not tell"
        return f"{text}; {self.why}"


def look(
    request: ModelRequest,
    work: Work,
    located: Located,
    folder: Path,
    low_memory: bool | None = None,
) -> Preflight:
    """What a request takes of a model on this machine, when it writes to `folder`.

    With `low_memory` None it is chosen whether blocks lie on disk: where all does not fit otherwise.

    Raises BadInput where blocks on disk are asked for and this work cannot have them.
    """
    from quant.loading import check_device
    from quant.preflight import need

    check_device(request.device)
    model = outlined(located, request)
    runs = _runs(request)
    if work != "quantize" or _calibrated(request, runs, work):
        check_subjects(model, request)
    sampler = sampler_asked(model, request)
    given: dict[str, Any] = {
        "sampler": sampler,
        "record": getattr(request, "record", None),
        "copies": int(request.outliers is not None),
    }
    found = need(model, work, runs, batch_size=request.batch_size, **given)
    least = need(model, work, runs, batch_size=1, **given)
    if low_memory and found.streamed_bytes is None:
        raise BadInput(f"--low-memory: {found.why_not}")
    free, room = free_memory(request.device), machine.free_disk(folder)
    chosen, why = _choice(found, free, low_memory)
    wanted = found.streamed_bytes if chosen else found.memory_bytes
    assert wanted is not None
    disk = found.disk_bytes + (found.scratch_bytes if chosen else 0)
    refusal = ""
    if wanted > free:
        refusal = (
            f"{request.model} needs about {machine.mib(wanted)} of memory and {machine.mib(free)} "
            f"are free; {_advice(found, least, free, work, chosen, runs)}"
        )
    elif disk > room:
        refusal = (
            f"{folder} needs about {machine.mib(disk)} on disk and {machine.mib(room)} are free; "
            "free some, or write elsewhere with --out"
        )
    evaluations = sampler.steps * -(-_calibrated(request, runs, work) // request.batch_size)
    return Preflight(
        work=work,
        memory_bytes=found.memory_bytes,
        low_memory_bytes=found.streamed_bytes,
        free_memory_bytes=free,
        disk_bytes=found.disk_bytes,
        scratch_bytes=found.scratch_bytes,
        free_disk_bytes=room,
        read_bytes=None
        if found.streamed_bytes is None
        else (evaluations + 3) * sum(f.stat().st_size for f in located.files),
        seconds=_seconds(model, request, work, runs, sampler),
        untimed=untimed(model, runs),
        drawing_known=bool(model.shapes),
        low_memory=chosen,
        why=why,
        fits=not refusal,
        refusal=refusal,
        size=request.size,
    )


def outlined(located: Located, request: ModelRequest) -> Outline:
    """The model that a request names, without its weights."""
    from quant.preflight import outline

    from .planning import quiet_diffusers

    quiet_diffusers()
    return outline(located, request.dtype, request.device, request.size, request.frames)


def check_subjects(model: Outline, request: ModelRequest) -> None:
    """Stop at classes and prompts that the model cannot draw."""
    from .drawing import samples_of

    assert model.subjects is not None, "a located model has a card"
    samples_of(model.subjects, request, (0,))


def of_request(
    request: ModelRequest, work: Work, folder: Path, low_memory: bool | None = None
) -> Preflight:
    """`look` of a request by itself, before anything else is done with it."""
    from quant.sources import check_source, locate

    check_source(request.source)
    return look(request, work, locate(request.source), folder, low_memory)


def require(found: Preflight) -> Preflight:
    """Stop with the numbers where it does not fit."""
    if not found.fits:
        raise EnvironmentFault(found.refusal)
    return found


@contextmanager
def scratch(out: Path, low_memory: bool) -> Iterator[Path | None]:
    """A folder beside `out` for what does not fit into memory, removed at the end; None without need."""
    if not low_memory:
        yield None
        return
    place = out.absolute().parent
    place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", suffix=".scratch", dir=place) as folder:
        yield Path(folder)


def _choice(found: Need, free: int, asked: bool | None) -> tuple[bool, str]:
    """Whether blocks lie on disk, and why."""
    if asked:
        return True, "blocks lie on disk, as --low-memory asks"
    if asked is False or found.streamed_bytes is None or found.memory_bytes <= free:
        return False, "everything is in memory"
    return True, (
        f"blocks lie on disk (--low-memory, chosen because {machine.mib(found.memory_bytes)} do not fit)"
    )


def _advice(found: Need, least: Need, free: int, work: str, low: bool, runs: Sequence[Run]) -> str:
    """What would fit, or what comes nearest."""
    learned = [run.method for run in runs if cards.methods()[run.method].learns]
    learning = found.parts["method"]
    if learned and 2 * learning > found.memory_bytes:
        return (
            f"{machine.mib(learning)} of it is for learning: give {learned[0]} options that take less "
            f"(dqviz methods {learned[0]}), e.g. fewer samples"
        )
    small = least.streamed_bytes if low else least.memory_bytes
    if not low and found.streamed_bytes is not None and found.streamed_bytes <= free:
        return f"--low-memory takes {machine.mib(found.streamed_bytes)}"
    if small is not None and small <= free:
        return f"--batch-size 1 takes {machine.mib(small)}"
    if work != "quantize":
        return "dqviz quantize --low-memory needs less, or use a smaller model, --batch-size 1, or a larger machine"
    return "use a smaller model, --batch-size 1, or a larger machine"


def free_memory(device: str) -> int:
    """Of where the model computes."""
    import torch

    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return int(torch.cuda.mem_get_info()[0])
    return machine.available_memory()


def sampler_asked(model: Outline, request: Any) -> Sampler:
    """The card's, with the steps and guidance of the request."""
    card = model.target.sampler
    steps = card.steps if request.steps is None else request.steps
    guidance = card.guidance if request.guidance is None else request.guidance
    return card.model_copy(update={"steps": steps, "guidance": guidance})


def _runs(request: Any) -> list[Run]:
    from quant.preflight import Run
    from quant.schema import parse_bits

    from .planning import given_plan

    if isinstance(request, CompareRequest):
        given: Plan | None = given_plan(request)
        jobs: tuple[RunRequest, ...] = check_request(request)
        return [Run(j.method, j.options, j.bits, given) for j in jobs]
    if request.method is None:
        return []
    return [Run(request.method, request.options, parse_bits(str(request.bits)))]


def _calibrated(request: Any, runs: list[Run], work: Work) -> int:
    """Samples that are drawn for statistics."""
    from .planning import needs_statistics

    if work == "capture":
        return len(request.seeds)
    return len(request.calibration_seeds) if needs_statistics([r.method for r in runs]) else 0


def _seconds(
    model: Outline, request: Any, work: Work, runs: list[Run], sampler: Sampler
) -> float | None:
    """Of calibrating, of methods that do not learn, and of drawing what is compared."""
    from quant.cards import methods
    from quant.effort import drawing

    asked = [(r.method, r.options) for r in runs if not methods()[r.method].learns]
    if not model.shapes or len(asked) < len(runs):
        return None
    samples = _calibrated(request, runs, work)
    made = projected(
        model.network,
        model.shapes,
        sampler,
        samples,
        asked,
        batch_size=request.batch_size,
        frames=model.frames,
    )
    total = sum(own["seconds"] for own in made["methods"].values())
    total += made["seconds"] if samples else 0
    if work == "compare":
        each = drawing(model.target.sites, model.shapes, model.frames).seconds(rates())
        evaluations = sampler.steps * model.network.branches(sampler.guidance)
        pictures = len(request.seeds) * (1 + len(runs) + (LADDER / 2 if request.ladder else 0))
        total += each * evaluations * pictures
    return total


def untimed(model: Outline, runs: Sequence[Run]) -> str:
    """Why no time is told; empty where it is."""
    if not model.shapes:
        return "the configuration does not tell how large a picture is"
    learned = [run.method for run in runs if cards.methods()[run.method].learns]
    if learned:
        return (
            f"how long {learned[0]} learns is told when it starts, from one evaluation of the model"
        )
    return ""


def main() -> int:
    """Answer one comparison, JSON on stdin, with JSON on stdout: what the app asks in a process of its own."""
    try:
        request = CompareRequest.parse(json.load(sys.stdin), "the form")
        folder = request.out or default_folder(request.model, request.outliers, request.loras)
        said = of_request(request, "compare", folder).to_json()
    except DQVizError as error:
        said = {"error": str(error)}
    print(json.dumps(said, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
