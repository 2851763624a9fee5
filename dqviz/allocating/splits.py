"""Solved splits of a scan on disk, so that a stopped one goes on: a line for each, in the order of the scan.

sensitivity/.KEY.splits.jsonl    gone once the plan is kept
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from quant.decisions import Allocation, Key
from quant.group_budgets import Candidate

from ..line_log import LineLog


class SplitLog:
    """The candidates of one operand, those of earlier attempts first."""

    def __init__(self, folder: Path, key: str) -> None:
        """`folder` of the study; equal keys mean the same scan."""
        self._log = LineLog(folder / "sensitivity" / f".{key}.splits.jsonl")

    @property
    def candidates(self) -> list[Candidate]:
        """What is solved."""
        return [_read(line) for line in self._log.lines]

    def keeping(self, solved: Iterable[Candidate]) -> Iterator[Candidate]:
        """The same candidates, each on disk before it is passed on."""
        for candidate in solved:
            self._log.append(_written(candidate))
            yield candidate

    def remove(self) -> None:
        """The scan is done with."""
        self._log.file.unlink(missing_ok=True)


def _written(candidate: Candidate) -> dict[str, Any]:
    found = {
        group: asdict(replace(part, chosen={})) | {"chosen": [[*k, b] for k, b in part.chosen.items()]}
        for group, part in candidate.allocations.items()
    }  # fmt: skip
    return {**asdict(replace(candidate, allocations={})), "allocations": found}


def _read(line: Mapping[str, Any]) -> Candidate:
    found = {
        group: Allocation(
            **{
                **part,
                "chosen": {Key(*key): label for *key, label in part["chosen"]},
                "binding": tuple(part["binding"]),
            }
        )
        for group, part in line["allocations"].items()
    }
    return Candidate(**{**line, "allocations": found})
