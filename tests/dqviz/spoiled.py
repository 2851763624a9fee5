"""Command lines that would work, for cases of bad input to spoil."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Place:
    """What a case may name: a model, a good checkpoint, an empty corner of the disk."""

    model: Path
    checkpoint: Path
    tmp: Path

    @property
    def out(self) -> Path:
        return self.tmp / "out"

    def compare(self, *more: str) -> list[str]:
        """A comparison that would work, with `more` to spoil it."""
        given = [] if "--method" in more else ["--method", "rtn"]
        given += [] if {"--bits", "--plan"} & set(more) else ["--bits", "w4a8"]
        return ["compare", str(self.model), *given, "--out", str(self.out), *more]

    def capture(self, *more: str) -> list[str]:
        """A capture that would work, with `more` to spoil it."""
        return ["capture", str(self.model), "--study", str(self.out), *more]

    def draw(self, checkpoint: Path) -> list[str]:
        """Drawing with a checkpoint."""
        command = ["generate", str(checkpoint), "--base", str(self.model)]
        return [*command, "--out", str(self.out), "--seeds", "0"]

    def copied(self, folder: Path) -> Path:
        """A copy of a folder, to be damaged."""
        return Path(shutil.copytree(folder, self.tmp / "damaged"))

    def plan(self, change: Callable[[dict[str, Any]], None]) -> str:
        """A valid plan of the model with one thing changed."""
        config = json.loads((self.checkpoint / "config.json").read_text())
        plan = config["quantization_config"]["plan"]
        change(plan)
        file = self.tmp / "plan.json"
        file.write_text(json.dumps(plan))
        return str(file)


# A command line, and what the message must hold: the value, and what would work.
Case = tuple[Callable[[Place], list[str]], tuple[str, ...]]
