"""`dqviz kernels`: operations and their versions; what compilers say of the GPU kernels."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from .base import show
from .options import Json


def kernels(
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="GPU",
            help="Compile every Triton kernel for sm_80, sm_89, sm_90, sm_100 or gfx942; no GPU is needed.",
        ),
    ] = "",
    json_: Json = False,
) -> None:
    """List the operations and the backends that run them here."""
    from kernels import overview

    from ..tables import table

    ops = overview.here()
    rows = [(op.name, " ".join(op.backends), op.why) for op in ops]
    data: dict[str, Any] = {"ops": [op._asdict() for op in ops], "kernels": []}
    data |= {"fused": overview.FUSED, "residency": overview.RESIDENCY}
    parts = [
        table(("operation", "runs here", "why"), rows),
        table(("operation", "fuses"), overview.FUSED.items()),
        table(("--residency", "holds"), overview.RESIDENCY.items()),
    ]
    text = "\n\n".join(parts)
    if target:
        data["kernels"] = found = _compiled(target)
        columns = (
            "op",
            "config",
            "registers",
            "spills",
            "shared_bytes",
            "mma",
            "instructions",
            "faults",
        )
        text = table(columns, [[_cell(row[name]) for name in columns] for row in found])
        text += f"\n\nCompiled for {target}, not yet measured on a GPU."
    show(data, json_, text)


def _cell(value: Any) -> str:
    """A value of a row: "-" where there is none, "missing" where one is wanted and was not found."""
    if isinstance(value, list):
        return "; ".join(value) or "-"
    return "-" if value is None else "missing" if value == "" else str(value)


def _compiled(target: str) -> list[dict[str, Any]]:
    """Every kernel compiled for a target; spills and shared memory in bytes."""
    from kernels import ahead
    from quant.errors import BadInput, EnvironmentFault

    try:
        reason = ahead.obstacle(target)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if reason:
        raise EnvironmentFault(f"kernels cannot be compiled for {target}: {reason}")
    rows = []
    for op, build in ahead.builds():
        if not build.fits(target):
            continue
        print(f"compiling {op}: {build.name}", file=sys.stderr)
        row = ahead.compiled(op, build, target)
        rows.append({**row._asdict(), "faults": row.faults(), "evidence": "predicted"})
    return rows
