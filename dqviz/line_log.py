"""Lines of JSON that are on disk as soon as they are there: what long work has found, until it is done.

A line that a killed process cut off goes when the work goes on; a line that is whole stays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quant.errors import BadInput

from .files import dump, faults, write_text


class LineLog:
    """The lines of one file, those of earlier attempts first."""

    def __init__(self, file: Path) -> None:
        """Read what is there; BadInput where it is damaged."""
        self.file = file
        self.lines: list[dict[str, Any]] = []
        with faults(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.is_file():
                whole = whole_lines(file)
                self.lines = [parsed(line, file) for line in whole]
                if "".join(whole).encode() != file.read_bytes():
                    write_text(file, "".join(whole))

    def append(self, line: dict[str, Any]) -> None:
        """One line more."""
        with faults(self.file), self.file.open("a", encoding="utf-8") as stream:
            stream.write(dump(line) + "\n")
        self.lines.append(line)


def whole_lines(file: Path) -> list[str]:
    """The lines of a file that end; one that is being written, or was cut off, does not."""
    text = file.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def parsed(line: str, file: Path) -> dict[str, Any]:
    """One line; BadInput where it is damaged."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise BadInput(f"{file} is damaged ({error}); remove it, and begin again") from None
