"""The cells of a sweep on disk: a line each, as they are found, and at the end the table.

    sensitivity/.KEY.unfinished.jsonl    a line for each cell: its rows, and what it took; where all cells come at
                                         once, before them a line for each batch of samples: what it gave and took
    sensitivity/NAME.jsonl               the finished table, a line for each row (`quant.sensitivity.table`)

A line that a killed process cut off goes when the sweep goes on; a line that is there is a cell, or a batch, that is done.
Cells may be found in any order: a cluster measures several at once. The table has that of the sweep, and no
times, so it is the same however a sweep went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quant.errors import BadInput
from quant.sensitivity.cells import Batch, Row

from .files import dump, write_text
from .line_log import LineLog, parsed, whole_lines

FOLDER = "sensitivity"
TOOK = ("seconds", "calls", "evaluations", "backward_calls")


def unfinished(key: str) -> str:
    """Where the cells of a sweep that is not done are, relative to the study."""
    return f"{FOLDER}/.{key}.unfinished.jsonl"


class SweepLog(LineLog):
    """The cells of one sweep, those of earlier attempts first."""

    def add(self, rows: Sequence[Row], took: Mapping[str, float]) -> None:
        """One cell more."""
        self._add({"rows": [row.to_json() for row in rows]}, took)

    def add_batch(self, batch: Batch, took: Mapping[str, float]) -> None:
        """One batch of samples more."""
        self._add({"batch": batch.to_json()}, took)

    def _add(self, found: dict[str, Any], took: Mapping[str, float]) -> None:
        self.append({**found, **{name: took[name] for name in TOOK}})

    def __len__(self) -> int:
        """Cells."""
        return sum("rows" in line for line in self.lines)

    @property
    def batches(self) -> tuple[Batch, ...]:
        """What batches of samples gave, in the order that they ended."""
        return tuple(
            Batch.parse(line["batch"], str(self.file)) for line in self.lines if "batch" in line
        )

    @property
    def rows(self) -> list[Row]:
        """Of all cells, in the order that they were found."""
        return _rows(self.lines, self.file)

    def total(self, name: str) -> float:
        """Seconds or evaluations over all cells and batches, whenever they were measured."""
        return sum(line[name] for line in self.lines)


def read_cells(file: Path) -> list[Row]:
    """Rows of a sweep that is not done, as far as they are written."""
    return _rows(read_table(file), file) if file.is_file() else []


def _rows(lines: Sequence[Mapping[str, Any]], file: Path) -> list[Row]:
    return [Row.parse(row, str(file)) for line in lines for row in line.get("rows", ())]


def write_table(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """A finished table, at once."""
    write_text(file, "".join(dump(line) + "\n" for line in lines))


def read_table(file: Path) -> list[dict[str, Any]]:
    """The lines of a finished table; BadInput when it is gone or damaged."""
    if not file.is_file():
        raise BadInput(f"{file} is missing; restore it, or sweep again")
    return [parsed(line, file) for line in whole_lines(file)]
