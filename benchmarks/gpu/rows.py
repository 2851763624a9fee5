"""The file of a run: one line of JSON for each row, on disk as soon as it is there.

`rows.jsonl` is only ever appended to. A line that a cut left unfinished is dropped. `begun.json` names the row that is being
made: where the process that made it died, that row is what it died of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Rows:
    """The rows of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file, self._begun = folder / "rows.jsonl", folder / "begun.json"

    def open(self) -> None:
        """Make the folder, and drop a line that was not finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.file.is_file():
            data = self.file.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                with self.file.open("r+b") as stream:
                    stream.truncate(whole)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """What is there; a last line without an end is not."""
        if not self.file.is_file():
            return
        text = self.file.read_text(encoding="utf-8")
        for line in text[: text.rfind("\n") + 1].splitlines():
            yield json.loads(line)

    def keys(self) -> set[str]:
        """Keys of what is there."""
        return {row["key"] for row in self}

    def begin(self, key: str) -> None:
        """A row is being made."""
        self._begun.write_text(json.dumps(key), encoding="utf-8")

    def begun(self) -> str | None:
        """The row that was being made when the last process ended."""
        return (
            json.loads(self._begun.read_text(encoding="utf-8")) if self._begun.is_file() else None
        )

    def append(self, row: dict[str, Any]) -> None:
        """Keep a row for good; ValueError where it holds nan or infinity."""
        line = json.dumps(row, allow_nan=False, separators=(",", ":")) + "\n"
        with self.file.open("ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._begun.unlink(missing_ok=True)
