"""A sweep as a table: one flat row for each cell and metric, as a study keeps it. No torch in here.

    site group operand window bits metric value lo hi noise inside_floor evidence per_sample per_step

`group` is the metric group of the site's role, `inside_floor` whether the row is inside the noise floor of the
whole table (`quant.sensitivity.floor`; null where that is not known), `evidence` what kind of number the tier's are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .cells import Cell, Row
from .floor import floors, inside

COLUMNS = (
    "site",
    "group",
    "operand",
    "window",
    "bits",
    "metric",
    "value",
    "lo",
    "hi",
    "noise",
    "inside_floor",
    "evidence",
    "per_sample",
    "per_step",
)
_OF_CELL = tuple(Cell.model_fields)
_OF_ROW = tuple(name for name in Row.model_fields if name != "cell")


def flat(rows: Sequence[Row], groups: Mapping[str, str], evidence: str) -> list[dict[str, Any]]:
    """Rows with the columns of the table, as plain JSON types.

    Args:
        rows: of the whole sweep, or of as much as there is: the floor is theirs.
        groups: metric group by site.
        evidence: of the tier.
    """
    limits = floors(rows)
    found = []
    for row in rows:
        data = row.to_json()
        cell = data.pop("cell")
        more = {"group": groups[row.cell.site], "evidence": evidence}
        line = {**cell, **data, **more, "inside_floor": inside(row, limits)}
        found.append({name: line[name] for name in COLUMNS})
    return found


def rows_of(lines: Iterable[Mapping[str, Any]], where: str) -> list[Row]:
    """The rows that a table was made of; BadInput names `where` for what is none."""
    return [
        Row.parse(
            {"cell": {n: line.get(n) for n in _OF_CELL}, **{n: line.get(n) for n in _OF_ROW}}, where
        )
        for line in lines
    ]
