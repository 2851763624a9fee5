"""The committed comparison of every method on every kind of outlier, and what its page concludes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import transforms, transforms_page
from benchmarks.transforms_page import kind_of, row_of
from quant.schema import OUTLIER_KINDS

COMMITTED = Path(__file__).parents[2] / "docs" / "results" / "transforms.json"


def row(way: str, bits: str, decibels: np.ndarray, site_bytes: int = 1000) -> dict[str, Any]:
    """A row as the benchmark keeps it, with these decibels per sample."""
    errors = 10 ** (-decibels / 20)
    return {
        "way": way,
        "bits": bits,
        "site_bytes": site_bytes,
        "size_bytes": None,
        "bits_per_weight": 4.1,
        "evidence": "measured",
        "psnr_db": {
            "mean": float(decibels.mean()),
            "lo": None,
            "hi": None,
            "min": float(decibels.min()),
            "of_mean_mse": float(decibels.mean()),
            "per_sample": decibels.tolist(),
        },
        "latent_rel_error": {
            "mean": float(errors.mean()),
            "lo": None,
            "hi": None,
            "per_sample": errors.tolist(),
        },
        "ssim": {"mean": 0.9},
        "class_accuracy": None,
        "teacher_forced": [0.1, 0.2],
        "free_running": [0.0, 0.1, 0.2],
        "amplification": [1.0, None],
        "source": "s",
    }


def result(**decibels: dict[tuple[str, str], float]) -> dict[str, Any]:
    """A result whose rows have these means, 64 samples with a spread of 1 dB."""
    spread = np.linspace(-1, 1, 64)
    return {
        "model": "m",
        "factor": 32.0,
        "seeds": list(range(64)),
        "calibration_seeds": [100, 101],
        "sampler": {"scheduler": "S", "steps": 2, "guidance": 2.0},
        "device": "d",
        "versions": {"torch": "2"},
        "sources": ["s"],
        "date": "2026-01-01",
        "kinds": [
            {
                "kind": kind,
                "class_accuracy": None,
                "ladder": [],
                "rows": [row(w, b, mean + spread) for (w, b), mean in rows.items()],
            }
            for kind, rows in decibels.items()
        ],
    }


def met(found: dict[str, Any]) -> list[str]:
    """The last column of the table of targets."""
    lines = transforms_page.markdown(found).split("## Targets")[1].split("\n## ")[0].splitlines()
    return [line.split("|")[-2].strip() for line in lines[4:] if line.startswith("|")]


@pytest.mark.parametrize(
    ("w8a8", "w4a8", "best", "expected"),
    [
        (49.5, 34.5, 27.5, ["yes", "yes", "yes"]),
        (48.9, 34.5, 27.5, ["**no**", "yes", "yes"]),
        (49.5, 33.9, 27.5, ["yes", "**no**", "yes"]),
        (49.5, 34.5, 26.0, ["yes", "yes", "**no**"]),
    ],
)
def test_targets_are_judged_by_their_bounds(
    w8a8: float, w4a8: float, best: float, expected: list[str]
) -> None:
    static = {
        ("viditq", "w8a8"): w8a8,
        ("viditq", "w4a8"): w4a8,
        ("rtn", "w4a8"): 30.0,
        ("viditq, group 128", "w4a8"): best,
        ("rtn, group 128", "w4a8"): 20.0,
        (transforms_page.PEER, "w4a8"): 27.2,
    }
    assert met(result(plain={("viditq", "w8a8"): 50.0}, static=static)) == expected


def test_unequal_bytes_do_not_meet_the_target() -> None:
    found = result(
        plain={("viditq", "w8a8"): 50.0},
        static={("viditq, group 128", "w4a8"): 30.0, (transforms_page.PEER, "w4a8"): 27.2},
    )
    assert met(found) == ["yes"]
    found["kinds"][1]["rows"][0]["site_bytes"] = 1100
    assert met(found) == ["**no**"]


def test_a_method_that_wins_on_static_outliers_alone_is_said_to() -> None:
    same = {("rtn", "w4a8"): 30.0, ("a", "w4a8"): 30.0, ("b", "w4a8"): 30.0}
    a_too, both = same | {("a", "w4a8"): 33.0}, same | {("a", "w4a8"): 33.0, ("b", "w4a8"): 33.0}
    found = result(plain=same, static=both, drifting=a_too, token=same)
    page = transforms_page.markdown(found)
    marked = [line for line in page.splitlines() if line.endswith("| on static outliers alone |")]
    assert [line.split("|")[2].strip() for line in marked] == ["b"]


def test_an_order_that_does_not_hold_is_said_to_be_reversed() -> None:
    found = result(plain={("rtn", "w4a8"): 30.0, ("viditq", "w4a8"): 29.0})
    line = next(
        line
        for line in transforms_page.markdown(found).splitlines()
        if line.startswith("| viditq above rtn")
    )
    assert "**reversed**" in line


@pytest.fixture
def committed() -> dict[str, Any]:
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_the_page_is_made_from_the_numbers(committed: dict[str, Any]) -> None:
    written = COMMITTED.with_suffix(".md").read_text(encoding="utf-8")
    assert written == transforms_page.markdown(committed)


def test_every_method_is_there_at_every_width_on_every_kind(committed: dict[str, Any]) -> None:
    assert len(committed["seeds"]) >= 64
    assert not set(committed["seeds"]) & set(committed["calibration_seeds"])
    for name in ("plain", *OUTLIER_KINDS):
        kind = kind_of(committed, name)
        assert kind is not None
        assert kind["ladder"], name
        for way in transforms.WAYS:
            for bits in way.bits:
                found = row_of(kind, way.name, bits)
                assert found is not None, (name, way.name, bits)
                assert len(found["psnr_db"]["per_sample"]) == len(committed["seeds"])
