"""What tests of the Methods page ask of a study in which a method has learned."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dqviz.study_folder import studies_root
from dqviz.ui.bench import Bench
from dqviz.ui.methods import Methods
from tests import learners
from tests.app.conftest import FakeCompare


@pytest.fixture(autouse=True)
def method() -> Iterator[Any]:
    with learners.registered() as found:
        yield found


def study(name: str = "mine", **more: Any) -> Path:
    share = 1 / more.get("steps", 24)
    fill = {"measures": lambda k: learners.vectors(learners.LAYERS, k * share)}
    folder = studies_root() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    learners.study_with_learning(folder, **{**fill, **more})
    return folder


def ask(**query: Any) -> dict[str, Any]:
    answer = Methods(Bench(compare=FakeCompare())).answer(
        {"study": "mine", "method": "wander", **query}
    )
    json.dumps(answer, allow_nan=False)
    return answer


def aged(log: Path) -> None:
    """Nobody has written into it for an hour."""
    then = time.time() - 3600
    os.utime(log, (then, then))


def section(answer: dict[str, Any], key: str) -> dict[str, Any]:
    return next(s for s in answer["sections"] if s["key"] == key)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))
