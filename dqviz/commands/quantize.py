"""`dqviz quantize`: write a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import complain
from .base import (
    CALIBRATION,
    NO_LIST,
    Backend,
    Base,
    BatchSize,
    BitsText,
    CalibrationSeeds,
    Classes,
    Device,
    DType,
    Frames,
    GroupSize,
    Guidance,
    Json,
    Loras,
    Methods,
    Model,
    Negative,
    Offline,
    Options,
    OutlierFactor,
    OutlierKind,
    OutlierSeed,
    PlanFile,
    Preflight,
    Prompts,
    PromptsFile,
    Revision,
    Size,
    Steps,
    Windows,
    compare_request,
    listed,
    preflight,
    prompts_of,
    show,
    source_fields,
    watched,
)


def quantize(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write; new or empty.")
    ],
    study: Annotated[
        Path | None,
        typer.Option(
            "--study",
            metavar="DIR",
            help="Study that keeps what a method learns, so that it can go on. Default studies/MODEL.",
        ),
    ] = None,
    method: Methods = NO_LIST,
    bits: BitsText = "",
    plan: PlanFile = None,
    pipeline: Annotated[
        bool,
        typer.Option("--pipeline", help="Write the whole pipeline, not the transformer alone."),
    ] = False,
    revision: Revision = None,
    base: Base = None,
    lora: Loras = NO_LIST,
    offline: Offline = False,
    steps: Steps = None,
    guidance: Guidance = None,
    classes: Classes = "",
    prompt: Prompts = NO_LIST,
    prompts_file: PromptsFile = None,
    negative: Negative = None,
    size: Size = None,
    frames: Frames = None,
    option: Options = NO_LIST,
    windows: Windows = 1,
    group_size: GroupSize = None,
    calibration_seeds: CalibrationSeeds = CALIBRATION,
    outliers: OutlierFactor = None,
    outliers_kind: OutlierKind = "static",
    outliers_seed: OutlierSeed = 0,
    device: Device = "auto",
    dtype: DType = "auto",
    backend: Backend = "auto",
    batch_size: BatchSize = 8,
    low_memory: Annotated[
        bool | None,
        typer.Option(
            "--low-memory/--no-low-memory",
            help="Leave blocks on disk and read them layer by layer; default: where all does not fit.",
        ),
    ] = None,
    preflight_: Preflight = False,
    json_: Json = False,
) -> None:
    """Write a quantized checkpoint for plain diffusers."""
    from ..export import drawing_command, quantize_to
    from ..sharing import sharing_sentence

    request = compare_request(
        **source_fields(model, revision, base, lora, offline),
        methods=listed(method),
        bits=bits,
        plan=plan,
        out=study,
        steps=steps,
        guidance=guidance,
        classes=classes,
        prompts=prompts_of(prompt, prompts_file),
        negative=negative,
        size=size,
        frames=frames,
        option=option,
        windows=windows,
        group_size=group_size,
        calibration_seeds=calibration_seeds,
        outliers=outliers,
        outliers_kind=outliers_kind,
        outliers_seed=outliers_seed,
        device=device,
        dtype=dtype,
        backend=backend,
        batch_size=batch_size,
    )
    if preflight_:
        preflight(request, "quantize", out, json_, low_memory)
        return
    with watched() as (progress, cancelled):
        made = quantize_to(
            request,
            out,
            pipeline=pipeline,
            low_memory=low_memory,
            on_event=progress,
            cancelled=cancelled,
        )
    for warning in made["warnings"]:
        complain(f"warning: {warning}")
    shared = sharing_sentence(made["sharing"])
    share = 100 * made["size_bytes"] / made["fp16_bytes"]
    text = (
        f"{made['out']}: {made['method']} {made['bits']}, {made['size_bytes'] / 1e6:.2f} MB "
        f"({share:.0f} % of 16 bit), {made['bits_per_weight']:.2f} bits per weight; "
        f"{len(made['scope']['quantized'])} sites quantized, {len(made['scope']['kept'])} kept"
        f"{shared and '; ' + shared}"
    )
    if not pipeline:
        text += (
            f"\ndraw with it: {drawing_command(Path(made['out']), request.base or request.model)}"
        )
    show(made, json_, text)
