"""The comparison of solved plans with others: it goes on where it was stopped, and what is claimed is in the numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import plans, plans_page

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "plans.json"


def asked(model: Path, out: Path) -> list[str]:
    return (
        f"plans --model {model} --kinds plain --budgets 4 --seeds 0-1 --calibrated-on 2 --closest 3 --calibrate 12 "
        f"--steps 2 --probes 2 --out {out}"
    ).split()


def test_every_plan_is_drawn_once_and_compared(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "CACHE", tmp_path / "kept")
    monkeypatch.setattr(sys, "argv", asked(tiny_dit, tmp_path))
    assert plans.main() == 0
    found = json.loads((tmp_path / "plans.json").read_text(encoding="utf-8"))
    page = (tmp_path / "plans.md").read_text(encoding="utf-8")
    assert page == plans_page.markdown(found)
    (kind,) = found["kinds"]
    (budget,) = kind["budgets"]
    by_name = {p["plan"]: p for p in budget["plans"]}
    bound = by_name["uniform"]["size_bytes"]
    assert by_name["uniform"]["avg_bits"] == 4
    for name, plan in by_name.items():
        assert plan["size_bytes"] <= bound, name
        assert len(plan["per_sample"]) == 3
        assert plan["typical"] == pytest.approx(np.exp(np.log(plan["per_sample"]).mean()), rel=1e-4)
    for pair in budget["pairs"]:
        assert pair["db"]["claim"] == "too few samples"
        assert not plans_page.shown(pair)
    uniform = next(p for p in budget["pairs"] if p["against"] == "uniform")
    ratio = by_name["uniform"]["typical"] / by_name[plans_page.CLAIMED]["typical"]
    assert uniform["db"]["diff"]["mean"] == pytest.approx(10 * np.log10(ratio), abs=1e-3)

    monkeypatch.setattr(plans.PlanLoss, "of", lambda *_: pytest.fail("drawn again"))
    monkeypatch.setattr(plans, "sweep", lambda *_, **__: pytest.fail("swept again"))
    assert plans.main() == 0


@pytest.fixture
def committed() -> dict[str, Any]:
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


class TestCommitted:
    """What docs/results/plans.md says."""

    def test_the_page_is_made_from_the_numbers(self, committed: dict[str, Any]) -> None:
        assert COMMITTED.with_suffix(".md").read_text(encoding="utf-8") == plans_page.markdown(
            committed
        )

    def test_no_plan_is_larger_than_uniform_bits(self, committed: dict[str, Any]) -> None:
        for kind in committed["kinds"]:
            for budget in kind["budgets"]:
                sizes = {p["plan"]: p["size_bytes"] for p in budget["plans"]}
                assert max(sizes.values()) == sizes["uniform"]

    def test_solved_plans_leave_no_byte_but_of_the_header(self, committed: dict[str, Any]) -> None:
        for kind in committed["kinds"]:
            for budget in kind["budgets"]:
                sizes = {p["plan"]: p["size_bytes"] for p in budget["plans"]}
                for tier in plans.TIERS:
                    assert sizes["uniform"] - sizes[tier] < 100, tier

    def test_what_is_said_to_be_shown_is_shown(self, committed: dict[str, Any]) -> None:
        for kind in committed["kinds"]:
            for budget in kind["budgets"]:
                for pair in budget["pairs"]:
                    if plans_page.shown(pair):
                        assert pair["db"]["n"] >= 64
                        assert pair["db"]["diff"]["lo"] > 0

    def test_seeds_of_the_comparison_are_nobody_elses(self, committed: dict[str, Any]) -> None:
        seeds = committed["seeds"]
        own = set(range(*np.cumsum(seeds["comparison"])))
        assert len(own) >= 64
        for other in (
            seeds["table"],
            seeds["calibration"],
            range(*np.cumsum(seeds["predictions"])),
        ):
            assert not own & set(other)
