"""The committed rows of ViDiT-Q's parts: the page is made from them, none is missing, shared scales cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablations
from quant.intervals import paired_difference

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "ablations.json"


@pytest.fixture
def committed() -> dict[str, Any]:
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_numbers(committed: dict[str, Any]) -> None:
    assert COMMITTED.with_suffix(".md").read_text(encoding="utf-8") == ablations.markdown(committed)


def test_every_row_is_there(committed: dict[str, Any]) -> None:
    assert len(committed["seeds"]) >= 32
    for table in ablations.TABLES:
        for bits in table.bits:
            for name, options in table.rows.items():
                assert ablations.find(committed, options, bits) is not None, (table.title, name)


@pytest.mark.parametrize("scales", ["branch", "batch"])
@pytest.mark.parametrize("bits", ["w8a8", "w6a6"])
def test_scales_that_samples_share_cost(scales: str, bits: str, committed: dict[str, Any]) -> None:
    row = ablations.find(committed, {"transform": "plain"}, bits)
    shared = ablations.find(committed, {"transform": "plain", "scales": scales}, bits)
    assert row is not None
    assert shared is not None
    pair = paired_difference(shared["psnr_db"], row["psnr_db"])
    assert pair.diff is not None
    assert pair.diff.hi is not None
    assert pair.diff.hi < 0


@pytest.mark.parametrize("fold", ["values", "all"])
def test_folding_changes_where_scales_are_and_not_the_error(
    fold: str, committed: dict[str, Any]
) -> None:
    none, folded = (ablations.find(committed, o, "w4a8") for o in ({}, {"fold": fold}))
    assert none is not None
    assert folded is not None
    assert none["folded"] == 0 < folded["folded"]
    assert folded["online"] + folded["folded"] == none["online"]
    pair = paired_difference(folded["psnr_db"], none["psnr_db"])
    assert pair.diff is not None
    assert pair.diff.lo is not None
    assert pair.diff.hi is not None
    assert pair.diff.lo < 0.5
    assert pair.diff.hi > -0.5
