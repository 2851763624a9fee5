"""The benchmark of learned methods: what its page concludes, which rows are asked for, and that it goes on. Learns nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import learned, learned_page, learning_steps
from quant.learning import Learning
from tests.benchmarks.test_transforms import row as drawn_row

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "learned.json"
SPREAD = np.linspace(-1, 1, 64)
VQ = {"vq4dit, 2 candidates": 26.0, "kmeans-vq": 20.0, "vq4dit, 1 candidate": 23.0, "quanto int2, group 128": 21.0}  # fmt: skip
TAQ = {"taqdit, joint": 30.0, "taqdit, separate": 29.0, "static-step": 25.0}


STAGES = [{"stage": "assignments", "seconds": 2.0, "steps": 90}]
PROJECTED = [{"method": "vq4dit", "bits": "w2a16", "preset": "paper", "stages": STAGES, "seconds": 28 * 180.0}]  # fmt: skip


def row(way: str, bits: str, decibels: float, block: float = 0.1, units: tuple[float, ...] = (), **more: Any) -> dict[str, Any]:  # fmt: skip
    """A row as the benchmark keeps it: PSNR about `decibels`, this block error, hard errors of units from 1."""
    listed = [{"unit": str(k), "hard_before": 1.0, "hard_now": v} for k, v in enumerate(units)]
    return {
        **drawn_row(way, bits, decibels + SPREAD),
        "block_errors": {"mse": [block, 2 * block], "power": [1.0, 2.0]},
        "measures": {"units": listed} if units else None,
        "seconds": 60.0,
        **more,
    }


def result(**rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A result of these parts."""
    return {
        "model": "m",
        "seeds": list(range(64)),
        "many": 512,
        "sampler": {"scheduler": "S", "steps": 2, "guidance": 2.0},
        "calibration_seeds": [100, 101],
        "held_out": [300, 301],
        "device": "d",
        "versions": {"torch": "2"},
        "sources": ["s"],
        "date": "2026-01-01",
        "class_accuracy": None,
        "ladder": [],
        "projected": PROJECTED,
        "parts": [{"part": part, "rows": own} for part, own in rows.items()],
    }


def codebooks(learned: float = 26.0, block: float = 0.05, seconds: float | None = 60.0, **others: float) -> list[dict[str, Any]]:  # fmt: skip
    found = [row(way, "w2a16", mean) for way, mean in {**VQ, **others}.items()]
    return [row(learned_page.LEARNED, "w2a16", learned, block, seconds=seconds), *found[1:]]


def integers(joint: tuple[float, ...] = (0.8, 0.8), apart: tuple[float, ...] = (0.85, 0.85), seconds: float | None = 60.0) -> list[dict[str, Any]]:  # fmt: skip
    """Joint, separate and static."""
    units = {"taqdit, joint": joint, "taqdit, separate": apart}
    return [row(way, "w4a8", mean, units=units.get(way, ()), seconds=seconds) for way, mean in TAQ.items()]  # fmt: skip


def met(found: Mapping[str, Any]) -> list[str]:
    """The last column of the table of targets."""
    lines = learned_page.markdown(dict(found)).split("## Targets")[1].split("\n## ")[0].splitlines()
    return [line.split("|")[-2].strip() for line in lines[4:] if line.startswith("|")]


YES, NO = "yes", "**no**"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (codebooks(), [YES, YES, YES, YES]),
        (codebooks(block=0.0751), [NO, YES, YES, YES]),
        (codebooks(learned=23.9), [YES, NO, YES, YES]),
        (codebooks(learned=22.9), [YES, NO, NO, YES]),
        (codebooks(seconds=601.0), [YES, YES, YES, NO]),
        (codebooks(seconds=None), [YES, YES, YES]),
    ],
)
def test_targets_of_codebooks_are_judged_by_their_bounds(
    rows: list[dict[str, Any]], expected: list[str]
) -> None:
    assert met(result(codebooks=rows)) == expected


def test_three_candidates_may_be_what_beats_one() -> None:
    rows = [*codebooks(learned=22.0), row("vq4dit, 3 candidates", "w2a16", 24.0)]
    assert met(result(codebooks=rows))[2] == YES


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (integers(), [YES, YES, YES]),
        (integers(joint=(0.8, 1.01)), [NO, NO, YES]),
        (integers(joint=(0.86, 0.88)), [YES, NO, YES]),
        (integers(seconds=901.0), [YES, YES, NO]),
    ],
)
def test_targets_of_integers_are_judged_by_their_bounds(
    rows: list[dict[str, Any]], expected: list[str]
) -> None:
    assert met(result(integers=rows)) == expected


def test_without_the_rows_that_a_target_is_about_it_is_not_judged() -> None:
    page = learned_page.markdown(result(codebooks=[row("rtn", "w2a16", 10.0)]))
    assert "## Targets" not in page
    assert "| w2a16 | rtn |" in page


def test_the_page_has_means_and_no_single_sample() -> None:
    rows = codebooks()
    rows[0]["site_bytes"] = 1020
    page = learned_page.markdown(result(codebooks=rows))
    assert "| 26.00 |" in page
    single = {f"{v:.2f}" for r in rows for v in r["psnr_db"]["per_sample"][1:-1]}
    cells = {cell.strip() for line in page.splitlines() for cell in line.split("|")}
    assert not cells & (single - {f"{r['psnr_db']['mean']:.2f}" for r in rows})
    assert "| **x1.020** |" in page, "equal bytes"
    rows[0]["site_bytes"] = 1100
    assert "| x1.100 |" in learned_page.markdown(result(codebooks=rows))
    distance = {"frechet": 3.25, "kid": {"mean": 0.0125}}
    rows[0] |= {"distances": {"label": "own", "own_features": distance}, "class_accuracy_many": None}  # fmt: skip
    assert "| own features | 3.25 | 0.0125 |" in learned_page.markdown(result(codebooks=rows))


class Pretended(learned.Learned):
    """A subject that makes up its rows."""

    made: list[tuple[str, str, bool]]

    def __init__(self, ref: str, seeds: Any, steps: int | None = None) -> None:
        self.sampler: Any = SimpleNamespace(
            to_json=lambda: {"scheduler": "S", "steps": 2, "guidance": 2.0}
        )
        self.depends_on = {"weights": ref, "samples": list(seeds)}

    def learned(self, way: Any, bits: str, far: bool) -> dict[str, Any]:
        self.made.append((way.name, bits, far))
        found = row(way.name, bits, 20.0)
        return {k: v for k, v in found.items() if k not in ("way", "bits")}

    def full_precision(self) -> dict[str, Any]:
        return {"class_accuracy": None}

    def yardstick(self) -> dict[str, Any]:
        return {"rungs": []}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str, bool]]:
    listed: list[tuple[str, str, bool]] = []
    monkeypatch.setattr(Pretended, "made", listed, raising=False)
    monkeypatch.setattr(learned, "Learned", Pretended)
    monkeypatch.setattr(learned, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(learned, "projected", lambda *way: PROJECTED[0])
    monkeypatch.setattr(learned, "versions", lambda: {"optimum-quanto": "not installed"})
    return listed


def asked(**given: Any) -> argparse.Namespace:
    fill = {"model": "m", "parts": "codebooks,integers", "bits": None, "seeds": "0-3", "steps": None}  # fmt: skip
    return argparse.Namespace(**{**fill, **given})


def test_parts_and_bits_choose_the_rows_and_kept_ones_are_not_made_again(
    made: list[tuple[str, str, bool]],
) -> None:
    found = learned.measure(asked(parts="integers", bits="w4a8"))
    assert [p["part"] for p in found["parts"]] == ["integers"]
    assert [r["way"] for r in found["parts"][0]["rows"]] == [w.name for w in learned.PARTS["integers"]]  # fmt: skip
    assert {name for name, _, far in made if far} == set(learned.FAR["integers", "w4a8"])
    made.clear()
    learned.measure(asked(parts="codebooks", bits="w2a16,w4a16"))
    assert {bits for _, bits, _ in made} == {"w2a16", "w4a16"}
    assert not any(name.startswith("quanto") for name, _, _ in made), "it is not installed"
    made.clear()
    whole = learned.measure(asked())
    assert {bits for _, bits, _ in made} == {"w3a16"}, "the others are kept"
    assert whole["parts"][1] == found["parts"][0]
    assert "## Weights alone: VQ4DiT" in learned_page.markdown(whole)
    made.clear()
    assert learned.measure(asked(bits="w9a9", parts="integers"))["parts"][0]["rows"] == []
    learned.measure(asked(seeds="4-7", parts="integers"))
    assert len(made) == len(learned.PARTS["integers"]), "other samples, other rows"


def test_steps_on_one_block_are_projected_by_the_counts_of_the_preset() -> None:
    """k-means of two sites in two steps each; the fastest step counts, of units that of the longest stage."""
    took = {"k-means": [5.0, 1.0, 7.0, 2.0], "assignments": [9.0, 4.0, 4.0], "codebooks": [9.0, 3.0]}  # fmt: skip
    whole = SimpleNamespace(iterations=100, trajectories=2, steps=50, deadline=0.6)
    found = list(learning_steps._codebooks(took, whole))
    assert [(s["seconds"], s["steps"]) for s in found] == [(12, 1), (3, 9), (4, 60), (3, 40)]
    took = {"trajectories": [1.0], "a.attn1: ranges": [50.0], "a.attn1: free": [2.0], "a.attn1: rounding": [9.0, 3.0, 4.0], "a.ff: rounding": [9.0, 5.0]}  # fmt: skip
    found = list(learning_steps._units(took, SimpleNamespace(iterations=100)))
    assert [(s["stage"], s["seconds"], s["steps"]) for s in found] == [("attn1, one iteration", 3, 100), ("ff, one iteration", 5, 100)]  # fmt: skip


def test_every_target_and_every_distance_is_of_a_way_that_there_is() -> None:
    for (part, bits), names in learned.FAR.items():
        assert set(names) <= {way.name for way in learned.PARTS[part] if bits in way.bits}
    every = {way.name for ways in learned.PARTS.values() for way in ways}
    assert {learned_page.LEARNED, learned_page.JOINT, *VQ, *TAQ} <= every


def test_the_last_measures_are_read_from_the_log(tmp_path: Path) -> None:
    lines = [{"steps": 2}, *({"step": k, "measures": {"units": [k]}} for k in range(2)), {"step": 1, "losses": {}}]  # fmt: skip
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert learned._last_measures(Learning(tmp_path, "x")) == {"units": [1]}


def test_the_page_is_made_from_the_numbers() -> None:
    found = json.loads(COMMITTED.read_text(encoding="utf-8"))
    written = COMMITTED.with_suffix(".md").read_text(encoding="utf-8")
    assert written == learned_page.markdown(found)
    assert not set(found["seeds"]) & set(found["calibration_seeds"])
    assert not set(found["held_out"]) & {*found["seeds"], *found["calibration_seeds"]}
