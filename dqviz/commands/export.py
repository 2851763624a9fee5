"""`dqviz export`: a checkpoint for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import complain
from .base import Json, Offline, show

SHOWN = 5  # lossy sites that are listed for people; --json has all


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="Folder that dqviz quantize wrote.")
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="E.g. torchao; docs/exports.md lists all.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="PATH", help="A new file or folder, by the format.")
    ],
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="MODEL", help="Pipeline whose sampler counts windows in steps."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", help="Steps of that sampler; default: its card's."),
    ] = None,
    offline: Offline = False,
    json_: Json = False,
) -> None:
    """Write a checkpoint in the format of another program."""
    from ..foreign import export_to

    made = export_to(checkpoint, to, out, base=base, steps=steps, offline=offline)
    for warning in made["warnings"]:
        complain(f"warning: {warning}")
    show(made, json_, _text(made))


def _text(made: dict[str, Any]) -> str:
    """Where it is, how large, and what it does not hold."""
    lossy = made["lossy"]
    lines = [f"{made['out']}: {made['format']}, {made['size_bytes'] / 2**20:.2f} MiB"]
    if not lossy:
        lines[0] += "; nothing is lost"
        return lines[0]
    sites = {loss["site"] for loss in lossy}
    lines[0] += f"; {len(sites)} site{'s' * (len(sites) > 1)} not as in the checkpoint:"
    lines += [f"  {x['site']}: {x['lost']} -> {x['written']}" for x in lossy[:SHOWN]]
    if len(lossy) > SHOWN:
        lines.append(f"  and {len(lossy) - SHOWN} more: --json lists them")
    return "\n".join(lines)
