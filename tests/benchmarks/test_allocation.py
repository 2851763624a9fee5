"""Times and gaps of allocations: made by one command, within what was asked, and the page says what the numbers say."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import allocation

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "allocation.json"


@pytest.fixture
def committed() -> dict[str, Any]:
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_numbers(committed: dict[str, Any]) -> None:
    assert COMMITTED.with_suffix(".md").read_text(encoding="utf-8") == allocation.markdown(
        committed
    )


def test_what_was_asked_was_reached(committed: dict[str, Any]) -> None:
    said = allocation.markdown(committed)
    assert "beyond" not in said
    assert "not every gap" not in said
    slow = copy.deepcopy(committed)
    slow["rows"][0]["exact"] |= {"seconds": 3.0, "gap": 0.01}
    slow["rows"][0]["heuristic"]["seconds"] = 0.2
    said = allocation.markdown(slow)
    assert "slowest 3.00 s, beyond 2 s; not every gap reached" in said
    assert "slowest 200 ms, beyond 100 ms" in said


def test_it_runs_on_few_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = f"allocation --sites 6 --seeds 1 --limit 5 --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", asked.split())
    assert allocation.main() == 0
    found = json.loads((tmp_path / "allocation.json").read_text(encoding="utf-8"))
    assert [row["family"] for row in found["rows"]] == ["sites", "cells", "pairs"]
    assert [row["items"] for row in found["rows"]] == [6, 30, 30]
    assert all(row["heuristic"]["above_exact"] >= -allocation.GAP for row in found["rows"])
