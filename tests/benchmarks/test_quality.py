"""The committed quality results: the page is made from the numbers, and the numbers say what we claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quality
from quant.intervals import paired_difference

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "quality.json"


@pytest.fixture
def committed() -> dict[str, Any]:
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def runs(committed: dict[str, Any], bits: str) -> dict[str, dict[str, Any]]:
    group = next(g for g in committed["bits"] if g["bits"] == bits)
    return {run["method"]: run for run in group["runs"]}


def test_the_page_is_made_from_the_numbers(committed: dict[str, Any]) -> None:
    assert COMMITTED.with_suffix(".md").read_text(encoding="utf-8") == quality.markdown(committed)


def test_every_bit_width_and_method_is_there(committed: dict[str, Any]) -> None:
    assert [g["bits"] for g in committed["bits"]] == quality.BITS.split(",")
    assert all([r["method"] for r in g["runs"]] == list(quality.METHODS) for g in committed["bits"])
    assert len(committed["seeds"]) >= 64


def test_at_four_bits_viditq_is_better_than_rounding(committed: dict[str, Any]) -> None:
    """Recomputed from the values per seed: the lower end of the interval lies above 0."""
    both = runs(committed, "w4a4")
    pair = paired_difference(
        both["viditq"]["psnr_db"]["per_sample"], both["rtn"]["psnr_db"]["per_sample"]
    )
    assert pair.diff is not None
    assert pair.diff.lo is not None
    assert pair.diff.lo > 0


def test_at_eight_bits_viditq_is_nearly_lossless(committed: dict[str, Any]) -> None:
    assert runs(committed, "w8a8")["viditq"]["psnr_db"]["mean"] >= 48


def test_fewer_bits_cost_quality(committed: dict[str, Any]) -> None:
    for method in quality.METHODS:
        means = [
            runs(committed, bits)[method]["psnr_db"]["mean"] for bits in ("w8a8", "w4a8", "w4a4")
        ]
        assert means == sorted(means, reverse=True)


def test_no_path_of_a_machine_is_in_the_results(committed: dict[str, Any]) -> None:
    assert "--out" not in committed["command"]
