"""The command line: `dqviz COMMAND`; every command is one documented Python function away.

Nothing slow is imported until a command needs it, so that `--help` answers at once. With `--json`
stdout holds exactly one JSON object. Exit codes: 0 done, 2 bad input, 3 environment, 1 internal,
130 cancelled; an error is one line on stderr.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from . import __version__, provenance
from .terminal import ProgressLine, complain, interruptible, only_our_warnings

app = typer.Typer(
    name="dqviz",
    help="What post-training quantization does to a Diffusion Transformer, and what to do about it.",
    epilog="MODEL is an embedded key (dqviz models), a folder, or owner/name[@revision] on the hub.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Embedded key, folder, or owner/name[@revision].")
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
        help="w4a8, w4a16 (weights only), fp8; one for all, or a comma list with one per method.",
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
        help="Class ids or names, e.g. 1,2 or cat,panda; default from the card.",
    ),
]
Prompts = Annotated[
    list[str],
    typer.Option("--prompt", metavar="TEXT", help="Prompt of a text model; repeat for several."),
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
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")
]

NO_LIST: list[str] = []
CALIBRATION = "100000-100007"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error becomes one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    shadowed = provenance.foreign()
    if shadowed and arguments[:1] != ["doctor"]:
        complain(shadowed[0].sentence())
        return 3
    with only_our_warnings():
        return _guarded(arguments)


def _guarded(arguments: list[str]) -> int:
    """The edge: nothing passes it but exit codes, unless DQVIZ_TRACE asks for the trace."""
    traced = bool(os.environ.get("DQVIZ_TRACE"))
    try:
        code = app(args=arguments, prog_name="dqviz", standalone_mode=False)
        if code == 130:  # how typer hands on a Ctrl-C
            complain("cancelled")
        return code if isinstance(code, int) else 0
    except TyperException as error:
        complain(_usage(error, arguments))
        return 2
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return 0
    except Exception as error:
        if traced:
            raise
        code, message = _explained(error)
        complain(message)
        return code


def _explained(error: Exception) -> tuple[int, str]:
    """Exit code and line of an error that reached the edge."""
    if not provenance.foreign():
        from quant.errors import DQVizError

        if isinstance(error, DQVizError):
            return error.exit_code, str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return 3, f"out of memory ({error}); use --batch-size 1, fewer seeds, or a larger machine"
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return 3, f"the system refused{where}: {error.strerror or error}"
    trace = "run again with DQVIZ_TRACE=1 for the trace, and report it"
    return 1, f"internal error: {type(error).__name__}: {error}; {trace}"


def _usage(error: TyperException, arguments: Sequence[str]) -> str:
    """A usage error as one line with the nearest name that exists."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "dqviz"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    see = f"see: {command} --help"
    option = getattr(error, "option_name", None)
    if option is not None and context is not None:
        names = [name for p in context.command.params for name in (*p.opts, *p.secondary_opts)]
        return f"unknown option {option}; {_nearest(option, names)}{see}"
    match = re.match(r"No such command '(.*?)'", message)
    if match is not None and context is not None:
        names = context.command.list_commands(context)
        return f"unknown command '{match[1]}'; {_nearest(match[1], names)}{see}"
    named = re.match(r"Invalid value for '(--[\w-]+)", message)
    if named is not None and named[1] in arguments[:-1]:
        message = f"{message.rstrip('.')} (got '{arguments[arguments.index(named[1]) + 1]}')"
    return f"{message.rstrip('.')}; {see}"


def _nearest(name: str, names: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    return f"nearest: {', '.join(found)}; " if found else ""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dqviz {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Show help when no command is given."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def show(data: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a result: one JSON object, or text for people."""
    print(json.dumps(data, allow_nan=False, ensure_ascii=False, indent=1) if as_json else text)


@app.command()
def models(json_: Json = False) -> None:
    """List the models that are available offline."""
    from .catalogue import list_models
    from .tables import table

    found = list_models()
    rows = [
        (m["key"], m["family"], m["task"], f"{m['params'] / 1e6:.1f} M", m["title"]) for m in found
    ]
    text = table(("model", "family", "task", "parameters", ""), rows)
    show(
        {"models": found},
        json_,
        text if found else "no embedded model found; name a folder or a hub id",
    )


@app.command()
def methods(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="Show one method alone.")
    ] = None,
    json_: Json = False,
) -> None:
    """List the methods with their options and presets."""
    from .catalogue import list_methods
    from .tables import table

    found = list_methods(key)
    parts = [
        table(
            ("method", "", "bits", "beats"),
            [
                (m["key"], m["summary"] or m["title"], " ".join(m["bits"]), m["beats"] or "")
                for m in found
            ],
        )
    ]
    parts += [
        f"options of {m['key']} ({m['paper']})\n"
        + table(
            ("", "default", ""), [(f"  {o['name']}", o["default"], o["text"]) for o in m["options"]]
        )
        for m in found
        if m["options"]
    ]
    show({"methods": found}, json_, "\n\n".join(parts))


@app.command()
def layers(
    model: Model, device: Device = "auto", dtype: DType = "auto", json_: Json = False
) -> None:
    """List the linear layers: roles, shapes, what is kept."""
    from .catalogue import list_sites
    from .tables import table

    found = list_sites(model, device, dtype)
    rows = [
        (
            s["name"],
            "" if s["block"] is None else s["block"],
            s["role"],
            f"{s['in_features']} -> {s['out_features']}",
            s["kept_reason"] or "",
        )
        for s in found["sites"]
    ]
    show(found, json_, table(("site", "block", "role", "shape", "kept because"), rows))


@app.command()
def compare(
    model: Model,
    method: Methods = NO_LIST,
    bits: BitsText = "",
    plan: PlanFile = None,
    candidate: Annotated[
        list[Path] | None,
        typer.Option(
            "--candidate",
            metavar="PATH",
            help="Quantized transformer folder that diffusers loads; repeat for several.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--study",
            metavar="DIR",
            help="Study folder; new, empty, or a study of this model. Default studies/MODEL.",
        ),
    ] = None,
    seeds: Seeds = "0-7",
    steps: Steps = None,
    guidance: Guidance = None,
    classes: Classes = "",
    prompt: Prompts = NO_LIST,
    option: Options = NO_LIST,
    windows: Windows = 1,
    group_size: GroupSize = None,
    calibration_seeds: CalibrationSeeds = CALIBRATION,
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder/--no-ladder", help="Measure what harmless changes do to the same numbers."
        ),
    ] = True,
    device: Device = "auto",
    dtype: DType = "auto",
    backend: Backend = "auto",
    batch_size: BatchSize = 8,
    json_: Json = False,
) -> None:
    """Judge methods against full precision, same seeds."""
    from .comparison import compare as run
    from .tables import compared

    request = _request(
        model=model,
        methods=_listed(method),
        bits=bits,
        plan=plan,
        candidates=tuple(candidate or ()),
        out=out,
        seeds=seeds,
        steps=steps,
        guidance=guidance,
        classes=classes,
        prompts=tuple(prompt),
        option=option,
        windows=windows,
        group_size=group_size,
        calibration_seeds=calibration_seeds,
        ladder=ladder,
        device=device,
        dtype=dtype,
        backend=backend,
        batch_size=batch_size,
    )
    progress = ProgressLine()
    try:
        with interruptible() as cancelled:
            result = run(request, progress, cancelled, previews=False)
    finally:
        progress.clear()
    show(result, json_, compared(result))


@app.command()
def quantize(
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder to write; new or empty.")
    ],
    method: Methods = NO_LIST,
    bits: BitsText = "",
    plan: PlanFile = None,
    pipeline: Annotated[
        bool,
        typer.Option("--pipeline", help="Write the whole pipeline, not the transformer alone."),
    ] = False,
    steps: Steps = None,
    guidance: Guidance = None,
    classes: Classes = "",
    prompt: Prompts = NO_LIST,
    option: Options = NO_LIST,
    windows: Windows = 1,
    group_size: GroupSize = None,
    calibration_seeds: CalibrationSeeds = CALIBRATION,
    device: Device = "auto",
    dtype: DType = "auto",
    backend: Backend = "auto",
    batch_size: BatchSize = 8,
    json_: Json = False,
) -> None:
    """Write a quantized checkpoint for plain diffusers."""
    from .export import quantize_to

    request = _request(
        model=model,
        methods=_listed(method),
        bits=bits,
        plan=plan,
        steps=steps,
        guidance=guidance,
        classes=classes,
        prompts=tuple(prompt),
        option=option,
        windows=windows,
        group_size=group_size,
        calibration_seeds=calibration_seeds,
        device=device,
        dtype=dtype,
        backend=backend,
        batch_size=batch_size,
    )
    progress = ProgressLine()
    try:
        with interruptible() as cancelled:
            made = quantize_to(
                request, out, pipeline=pipeline, on_event=progress, cancelled=cancelled
            )
    finally:
        progress.clear()
    for warning in made["warnings"]:
        complain(f"warning: {warning}")
    share = 100 * made["size_bytes"] / made["fp16_bytes"]
    text = (
        f"{made['out']}: {made['method']} {made['bits']}, {made['size_bytes'] / 2**20:.2f} MiB "
        f"({share:.0f} % of 16 bit), {made['bits_per_weight']:.2f} bits per weight; "
        f"{len(made['scope']['quantized'])} sites quantized, {len(made['scope']['kept'])} kept"
    )
    show(made, json_, text)


@app.command()
def generate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_CHECKPOINT", help="A model, or a folder that dqviz quantize wrote."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the pictures; new or empty.")
    ],
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="Pipeline of a transformer checkpoint that does not name it.",
        ),
    ] = None,
    seeds: Seeds = "0-7",
    steps: Steps = None,
    guidance: Guidance = None,
    classes: Classes = "",
    prompt: Prompts = NO_LIST,
    device: Device = "auto",
    dtype: DType = "auto",
    backend: Backend = "auto",
    batch_size: BatchSize = 8,
    json_: Json = False,
) -> None:
    """Draw pictures of a model or of a checkpoint."""
    from .export import draw_to

    request = _request(
        model=base or target,
        seeds=seeds,
        steps=steps,
        guidance=guidance,
        classes=classes,
        prompts=tuple(prompt),
        device=device,
        dtype=dtype,
        backend=backend,
        batch_size=batch_size,
    )
    progress = ProgressLine()
    try:
        with interruptible() as cancelled:
            made = draw_to(target, request, out, base=base, on_event=progress, cancelled=cancelled)
    finally:
        progress.clear()
    took = made["seconds_per_sample"]
    speed = "simulated, so no time" if took is None else f"{took:.3g} s per sample"
    show(made, json_, f"{len(made['files'])} pictures in {made['out']}; {speed}, {made['backend']}")


@app.command()
def size(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_SHAPE", help="A model, or a shape known by name such as dit-xl-2."
        ),
    ],
    method: Annotated[str, typer.Option("--method", "-m", metavar="KEY", help="Method.")] = "rtn",
    bits: BitsText = "",
    plan: PlanFile = None,
    option: Options = NO_LIST,
    json_: Json = False,
) -> None:
    """Tell the storage of a quantized transformer."""
    from .catalogue import size_report
    from .tables import sized

    found = size_report(target, method, bits, plan, _options(option))
    show(found, json_, sized(found))


@app.command("app")
def app_command(
    host: Annotated[str, typer.Option("--host", help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to serve on.")] = 7860,
    auth: Annotated[
        str | None,
        typer.Option("--auth", metavar="USER:PASSWORD", help="Ask for this name and password."),
    ] = None,
    study: Annotated[
        Path | None, typer.Option("--study", metavar="DIR", help="Study to open first.")
    ] = None,
) -> None:
    """Serve the app for a browser."""
    from quant.errors import BadInput

    if not 1 <= port <= 65535:
        raise BadInput(f"port {port} is out of range; 1 to 65535, e.g. --port 7860")
    name, colon, password = (auth or "").partition(":")
    if auth is not None and not (name and colon and password):
        raise BadInput("--auth is not of the form USER:PASSWORD; e.g. --auth ada:engine")
    if study is not None:
        from .study import Study

        Study.open(study, read_only=True)
    from . import launch

    launch(host=host, port=port, auth=(name, password) if auth else None, study=study)


@app.command()
def doctor(json_: Json = False) -> None:
    """Tell what is installed, missing or in the way."""
    from .doctor import checks, healthy

    found = checks()
    text = "" if provenance.foreign() else _checked(found)
    if not text:
        text = "\n".join(f"{c['name']}: {c['detail']} {c['fix']}".strip() for c in found)
    show({"ok": healthy(found), "checks": found}, json_, text)
    if not healthy(found):
        raise typer.Exit(3)


def _checked(found: list[dict[str, Any]]) -> str:
    from .tables import checked

    return checked(found)


def _request(*, option: Sequence[str] = (), **fields: Any) -> Any:
    """A checked `CompareRequest` from what was typed."""
    from .request import CompareRequest

    return CompareRequest.parse({**fields, "options": _options(option)}, "command line")


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    from quant.schema import options_from_pairs

    return options_from_pairs(pairs)


def _listed(values: Sequence[str]) -> tuple[str, ...]:
    """Repeated and comma-separated values as one list."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())
