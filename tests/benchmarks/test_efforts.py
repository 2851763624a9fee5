"""Times and bytes: made by one command, and the page says what the numbers say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import efforts

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "efforts.json"


@pytest.fixture
def committed() -> dict[str, Any]:
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_numbers(committed: dict[str, Any]) -> None:
    assert COMMITTED.with_suffix(".md").read_text(encoding="utf-8") == efforts.markdown(committed)


def test_four_windows_were_calibrated_within_the_limit(committed: dict[str, Any]) -> None:
    (four,) = [r for r in committed["rows"] if r["options"].get("windows") == 4]
    assert committed["calibration"]["seconds"] + four["seconds"] <= efforts.LIMIT
    slow = {**committed, "calibration": {"seconds": 200.0, "predicted": 1.0}}
    assert "beyond the limit" in efforts.markdown(slow)


def test_it_runs_on_any_model(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = f"efforts --methods rtn --samples 1 --steps 2 --model {tiny_dit} --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", asked.split())
    assert efforts.main() == 0
    found = json.loads((tmp_path / "efforts.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in found["rows"]] == ["rtn"]
    assert found["rows"][0]["seconds"] > 0
    assert {row["tier"] for row in found["tiers"][efforts.SHAPE]} == {"A", "B", "C"}
