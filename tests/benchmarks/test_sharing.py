"""The benchmark of attention sharing, run small: its rows, its page, and that it goes on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sharing

FEW = (sharing.OFF, "map, released set", "output, released set", "map, everywhere")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny_dit: Path, tmp_path: Path) -> argparse.Namespace:
    monkeypatch.setattr(sharing, "BASES", ("full-precision", "w4a8"))
    monkeypatch.setattr(sharing, "OPTIONS", {"windows": 1, "alpha": 0.3})
    monkeypatch.setattr(sharing, "VARIANTS", {v: sharing.VARIANTS[v] for v in FEW})
    monkeypatch.setattr(sharing, "TIMED", FEW[:3])
    monkeypatch.setattr(sharing, "SHAPES", ((32, 2, 16),))
    monkeypatch.setattr(sharing, "CALIBRATION", range(1000, 1002))
    monkeypatch.setattr(sharing, "rungs", lambda bench: [])
    return argparse.Namespace(model=str(tiny_dit), seeds="0-2", rounds=1, go_on=False, out=tmp_path)


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sharing.json").read_text(encoding="utf-8"))


def test_rows_page_and_going_on(small: argparse.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    sharing.measure(small)
    found = read(small.out)
    assert [(r["base"], r["variant"]) for r in found["rows"]] == [
        (base, variant) for base in sharing.BASES for variant in FEW
    ]
    rows = {(r["base"], r["variant"]): r for r in found["rows"]}
    assert rows["full-precision", sharing.OFF]["psnr_db"]["identical"]
    errors = [
        rows["full-precision", v]["latent_rel_error"]["mean"] for v in (FEW[0], FEW[1], FEW[3])
    ]
    assert errors[0] < errors[1] < errors[2]
    for base in sharing.BASES:
        assert rows[base, FEW[3]]["saving"]["qk_rows"] == 0.5
    for row in found["timing"]:
        assert (row["seconds_per_sample"] is None) == (row["evidence"] != "measured")
    page = (small.out / "sharing.md").read_text(encoding="utf-8")
    assert page == sharing.markdown(found)
    assert "| full-precision | off | identical" in page

    found["rows"] = [r for r in found["rows"] if r["variant"] != FEW[2]]
    (small.out / "sharing.json").write_text(json.dumps(found), encoding="utf-8")
    made: list[str] = []
    quality = sharing.quality

    def once(bench: Any, transformer: Any, base: str, variant: str) -> dict[str, Any]:
        made.append(variant)
        return quality(bench, transformer, base, variant)

    monkeypatch.setattr(sharing, "quality", once)
    small.go_on = True
    sharing.measure(small)
    assert made == [FEW[2]] * 2
    assert len(read(small.out)["rows"]) == len(FEW) * 2
