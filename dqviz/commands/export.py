"""`dqviz export`: a checkpoint for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..terminal import complain, counted
from .base import show
from .options import Json, Offline

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


def _sums(lossy: list[dict[str, Any]]) -> list[str]:
    """What befell several sites alike, a line for each kind."""
    count = len({loss["site"] for loss in lossy if loss["dequantized"]})
    whole = {loss["written"] for loss in lossy}
    if count:
        each, made = ("was", "an ordinary layer") if count == 1 else ("were", "ordinary layers")
        what = f"{counted(count, 'site')} {each} dequantized: {made} in full size"
        return [f"  {what}, without the savings"]
    return [f"  all of them: {whole.pop()}"] if len(whole) == 1 and len(lossy) > 1 else []


def _text(made: dict[str, Any]) -> str:
    """Where it is, how large, and what it does not hold: in sum, then for a few sites."""
    lossy = made["lossy"]
    size = made["size_bytes"]
    lines = [f"{made['out']}: {made['format']}, "]
    lines[0] += f"{size / 1e6:.2f} MB" if size >= 10_000 else f"{size} bytes"
    if not lossy:
        lines[0] += "; nothing is lost"
        return lines[0]
    sites = {loss["site"] for loss in lossy}
    lines[0] += f"; {counted(len(sites), 'site')} not as in the checkpoint"
    lines += _sums(lossy)
    lines += [f"  {x['site']}: {x['lost']} -> {x['written']}" for x in lossy[:SHOWN]]
    if len(lossy) > SHOWN:
        lines.append(f"  and {len(lossy) - SHOWN} more: --json lists them")
    return "\n".join(lines)
