"""Tables on disk: rows go beside those that are there, in place of those of the same case; written whole, or not at all."""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch

from kernels import tables
from kernels.int_linear import tuned
from quant.errors import BadInput

from .. import machine
from ..files import write_text

Row = Mapping[str, Any]


def file(folder: Path, device: torch.device, table: str) -> Path:
    """Where a table of this kind of device lies."""
    return tables.file(folder, tuned.device_name(device), table)


def place(device: torch.device) -> dict[str, Any]:
    """Where rows are measured; cores are the threads that compute."""
    found: dict[str, Any] = {"torch": torch.__version__}
    if device.type == "cuda":
        return {**found, "device": torch.cuda.get_device_name(device)}
    return {**found, "cpu": machine.processor(), "cores": torch.get_num_threads()}


def save(path: Path, place: Mapping[str, Any], cases: Collection[Any], rows: Iterable[Row]) -> Path:
    """Write a table of a device.

    Args:
        path: of the table.
        place: where rows were measured; what a table there says has to agree.
        cases: named tuples of all that was measured; their older rows go, whether they have a new one or not.
        rows: new ones.

    Raises BadInput, and writes nothing, where the table there is of another place or does not read.
    """
    columns = next(iter(cases))._fields
    others = [r for r in kept(path, place) if tuple(map(r.get, columns)) not in cases]
    lines = ",\n".join(f"    {json.dumps(row)}" for row in (*others, *rows))
    told = json.dumps({"date": datetime.date.today().isoformat(), **place}, indent=2)
    write_text(path, told.rstrip("\n}") + f',\n  "rows": [\n{lines}\n  ]\n}}\n')
    return path


def check(path: Path, place: Mapping[str, Any]) -> None:
    """Stop before anything is measured that could not be saved, with BadInput; nothing is left on disk."""
    kept(path, place)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadInput(
            f"{path} cannot be written ({folder}: {error.strerror}); name another folder with {tables.VARIABLE}"
        ) from None


def kept(path: Path, place: Mapping[str, Any]) -> Sequence[Row]:
    """Rows of a table that new ones may be put beside; none where there is no table. Raises as `save` does."""
    try:
        there = tables.read(path)
    except ValueError as error:
        raise BadInput(str(error)) from None
    for name, value in place.items() if there["rows"] else ():
        if there.get(name) != value:
            raise BadInput(
                f"{path} was measured with {name} {there.get(name)}, and here it is {value}; move it away, or name "
                f"another folder with {tables.VARIABLE}"
            )
    return there["rows"]
