"""Tables on disk: rows go beside those that are there, in place of those of the same case; written whole, or not at all."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernels import tables
from quant.errors import BadInput

from ..files import write_text

Row = Mapping[str, Any]


def save(path: Path, place: Mapping[str, Any], columns: Sequence[str], rows: Iterable[Row]) -> Path:
    """Write a table of a device.

    Args:
        path: of the table.
        place: where rows were measured; what a table there says has to agree.
        columns: that tell one case from another.
        rows: new ones.

    Raises BadInput, and writes nothing, where the table there is of another place or does not read.
    """
    own = {tuple(row[c] for c in columns): row for row in (*kept(path, place), *rows)}
    lines = ",\n".join(f"    {json.dumps(row)}" for row in own.values())
    told = json.dumps({"date": datetime.date.today().isoformat(), **place}, indent=2)
    write_text(path, told.rstrip("\n}") + f',\n  "rows": [\n{lines}\n  ]\n}}\n')
    return path


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
