"""The committed comparison of the choice of a transform with every single kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import balance
from quant.intervals import paired_difference

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "balance.json"


@pytest.fixture
def committed() -> dict[str, Any]:
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_numbers(committed: dict[str, Any]) -> None:
    assert COMMITTED.with_suffix(".md").read_text(encoding="utf-8") == balance.markdown(committed)


def test_every_kind_is_there_with_every_draw(committed: dict[str, Any]) -> None:
    assert len(committed["seeds"]) >= 64
    for kind in balance.KINDS:
        draws = [r["draw"] for r in committed["rows"] if r["kind"] == kind]
        wanted = 1 if kind in balance.WITHOUT_SIGNS else committed["draws"]
        assert draws == list(range(wanted)), kind


@pytest.mark.parametrize("kind", [k for k in balance.KINDS if k != "choose"])
def test_the_choice_is_not_worse_than_any_single_kind(kind: str, committed: dict[str, Any]) -> None:
    pair = paired_difference(
        balance.per_sample(committed, "choose"), balance.per_sample(committed, kind)
    )
    assert pair.diff is not None
    assert pair.diff.hi is not None
    assert pair.diff.hi >= -balance.MARGIN
    assert pair.diff.mean >= -balance.MARGIN
