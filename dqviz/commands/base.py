"""What the commands share: their options, and how a request is read, watched and shown.

A command is one file of this folder: a function of the file's name, found by existing. Its imports
stay inside it, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import ProgressLine, interruptible

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Embedded key, folder, .safetensors, or owner/name[@revision]."
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        "--revision", metavar="REV", help="Branch, tag or commit of a hub model, as owner/name@REV."
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="MODEL", help="Pipeline of a transformer in a .safetensors file."
    ),
]
Loras = Annotated[
    list[str],
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        help="Fuse a LoRA into the weights first; repeat for several.",
    ),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Ask nothing of the hub; take what its cache holds."),
]
Methods = Annotated[
    list[str],
    typer.Option("--method", "-m", metavar="KEY", help="Method; repeat, or separate by commas."),
]
BitsText = Annotated[
    str,
    typer.Option(
        "--bits",
        "-b",
        metavar="BITS",
        help="w4a8, w4a16 (weights only), fp8, mxfp4; one for all, or one per method.",
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan", metavar="FILE", help="Formats per site from a JSON plan, instead of --bits."
    ),
]
Seeds = Annotated[str, typer.Option("--seeds", metavar="SEEDS", help="Seeds, e.g. 0-7 or 1,5,9.")]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="Denoising steps; default from the model's card."),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance", metavar="F", help="Guidance scale, 1 turns it off; default from the card."
    ),
]
Classes = Annotated[
    str,
    typer.Option(
        "--classes",
        metavar="LIST",
        help="Class ids or names, e.g. 1,2 or apple,panda; default from the card.",
    ),
]
Prompts = Annotated[
    list[str],
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="Prompt of a text model, 'prompt ||| negative prompt'; repeat for several.",
    ),
]
PromptsFile = Annotated[
    Path | None,
    typer.Option("--prompts-file", metavar="FILE", help="Prompts, one per line, as --prompt."),
]
Negative = Annotated[
    str | None,
    typer.Option(
        "--negative", metavar="TEXT", help="Negative prompt of those that have none of their own."
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="HxW",
        help="Height and width in pixels, e.g. 480x720; 512 is 512x512; default: the model's.",
    ),
]
Frames = Annotated[
    int | None,
    typer.Option("--frames", metavar="N", help="Frames of a clip; default: the model's."),
]
Options = Annotated[
    list[str],
    typer.Option(
        "--option",
        "-o",
        metavar="K=V",
        help="Option of a method; method.name=value speaks to one method.",
    ),
]
OutlierFactor = Annotated[
    float | None,
    typer.Option(
        "--outliers",
        metavar="F",
        help="Put synthetic outliers into the model, F times as large; it computes the same.",
    ),
]
OutlierKind = Annotated[
    str, typer.Option("--outliers-kind", metavar="KIND", help="static, drifting or token.")
]
OutlierSeed = Annotated[
    int, typer.Option("--outliers-seed", metavar="N", help="Seed of the channels that get them.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
DType = Annotated[str, typer.Option("--dtype", help="auto, float32, float16 or bfloat16.")]
Backend = Annotated[str, typer.Option("--backend", help="auto, simulate, integer or triton.")]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size", metavar="N", help="Samples per batch; results do not depend on it."
    ),
]
Windows = Annotated[
    int,
    typer.Option(
        "--windows", metavar="N", help="Cut the steps into N windows with formats of their own."
    ),
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        "--group-size", metavar="N", help="One weight scale per N inputs, instead of one per row."
    ),
]
CalibrationSeeds = Annotated[
    str,
    typer.Option(
        "--calibration-seeds",
        metavar="SEEDS",
        help="Seeds to calibrate on; must not overlap --seeds.",
    ),
]
Preflight = Annotated[
    bool,
    typer.Option("--preflight", help="Say what it would take of memory, time and disk, and stop."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
]

NO_LIST: list[str] = []
CALIBRATION = "100000-100007"


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


def compare_request(
    *,
    option: Sequence[str] = (),
    outliers: float | None,
    outliers_kind: str,
    outliers_seed: int,
    **fields: Any,
) -> Any:
    """A checked `CompareRequest` from what was typed."""
    from ..request import CompareRequest

    chosen = outliers_of(outliers, outliers_kind, outliers_seed)
    return CompareRequest.parse(
        {**fields, "options": options_of(option), "outliers": chosen}, "command line"
    )


def source_fields(
    model: str, revision: str | None, base: str | None, lora: Sequence[str], offline: bool
) -> dict[str, Any]:
    """Fields of a request that say which model, from what was typed."""
    from quant.sources import with_revision

    return {
        "model": with_revision(model, revision),
        "base": base,
        "loras": tuple(lora) or None,
        "offline": offline or None,
    }


def outliers_of(factor: float | None, kind: str, seed: int) -> Any:
    """`--outliers F` with its kind and seed; None without it."""
    from quant.errors import BadInput, unknown
    from quant.schema import OUTLIER_KINDS, Outliers

    if kind not in OUTLIER_KINDS:
        raise unknown("kind of outliers", kind, OUTLIER_KINDS)
    if factor is None:
        if (kind, seed) != ("static", 0):
            raise BadInput("--outliers-kind and --outliers-seed go with --outliers F, e.g. 32")
        return None
    return Outliers.parse({"kind": kind, "factor": factor, "seed": seed}, "--outliers")


def prompts_of(prompt: Sequence[str], file: Path | None) -> tuple[str, ...]:
    """What `--prompt` and `--prompts-file` say, the file's after the others."""
    from ..prompts import read_prompts

    return (*prompt, *(read_prompts(file) if file is not None else ()))


def options_of(pairs: Sequence[str]) -> dict[str, Any]:
    """`--option k=v` pairs as a dictionary."""
    from quant.schema import options_from_pairs

    return options_from_pairs(pairs)


def listed(values: Sequence[str]) -> tuple[str, ...]:
    """Repeated and comma-separated values as one list."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())
