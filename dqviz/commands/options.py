"""The options that commands share: what each is called and says, which go together, and how they are read.

@taking(SOURCE, DRAWING)
def command(model: Model, own: Own, **common: Any) -> None:
    request = Request.parse({**fields_of(model, common), "own": own}, "command line")
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

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
Residency = Annotated[
    str,
    typer.Option(
        "--residency",
        metavar="MODE",
        help="speed holds weights as products read them; memory as stored, expanded in every call.",
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        "--batch",
        metavar="N",
        help="Samples per batch; results do not depend on it.",
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
Attention = Annotated[
    str | None,
    typer.Option(
        "--attention",
        metavar="FORMAT",
        help="int8: scores of spatial self-attention from int8 queries and keys; also beside --plan.",
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

Group = Mapping[str, tuple[Any, Any]]  # annotation and default of options, by parameter

SOURCE: Group = {
    "revision": (Revision, None),
    "base": (Base, None),
    "lora": (Loras, NO_LIST),
    "offline": (Offline, False),
}
DRAWING: Group = {
    "steps": (Steps, None),
    "guidance": (Guidance, None),
    "classes": (Classes, ""),
    "prompt": (Prompts, NO_LIST),
    "prompts_file": (PromptsFile, None),
    "negative": (Negative, None),
    "size": (Size, None),
    "frames": (Frames, None),
    "outliers": (OutlierFactor, None),
    "outliers_kind": (OutlierKind, "static"),
    "outliers_seed": (OutlierSeed, 0),
    "device": (Device, "auto"),
    "dtype": (DType, "auto"),
    "batch_size": (BatchSize, 8),
}
CALIBRATING: Group = {
    "option": (Options, NO_LIST),
    "calibration_seeds": (CalibrationSeeds, CALIBRATION),
}
QUANTIZING: Group = {
    "windows": (Windows, 1),
    "group_size": (GroupSize, None),
    "attention": (Attention, None),
    **CALIBRATING,
}

Command = TypeVar("Command", bound=Callable[..., None])


def taking(*groups: Group) -> Callable[[Command], Command]:
    """Let a command take the options of these groups, as its `**common`: before those that are keyword-only."""

    def with_them(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        last = [p for p in own if p.kind is p.KEYWORD_ONLY]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=kind)
            for group in groups
            for name, (kind, value) in group.items()
        ]
        shown = signature.replace(parameters=[*own[: len(own) - len(last)], *added, *last])
        command.__signature__ = shown  # type: ignore[attr-defined]
        return command

    return with_them


def fields_of(model: str, common: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a request from a model and the options of groups, `SOURCE` and `DRAWING` among them."""
    found = dict(common)
    named = (found.pop(name) for name in SOURCE)
    prompts = prompts_of(found.pop("prompt"), found.pop("prompts_file"))
    factor, kind, seed = (found.pop(f"outliers{part}") for part in ("", "_kind", "_seed"))
    read = {"prompts": prompts, "outliers": outliers_of(factor, kind, seed)}
    if "option" in found:
        read["options"] = options_of(found.pop("option"))
    return {**source_fields(model, *named), **found, **read}


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
