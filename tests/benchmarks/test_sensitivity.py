"""The benchmark of sensitivity: any model, and it goes on where it was stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import sensitivity
from quant.errors import Cancelled

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "sensitivity.json"


def asked(model: Path, out: Path) -> list[str]:
    return (
        f"sensitivity --model {model} --kinds plain --bits 3,8 --windows 2 --seeds 0-1 --sites 3 "
        f"--probes 2 --out {out}"
    ).split()


def test_it_goes_on_where_it_was_stopped(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "CACHE", tmp_path / "kept")
    monkeypatch.setattr(sys, "argv", asked(tiny_dit, tmp_path))
    add, left = sensitivity.Kept.add, [20]

    def stop(self: sensitivity.Kept, line: dict[str, object]) -> None:
        left[0] -= 1
        if not left[0]:
            raise Cancelled("killed")
        add(self, line)

    monkeypatch.setattr(sensitivity.Kept, "add", stop)
    assert sensitivity.main() == Cancelled.exit_code
    assert not (tmp_path / "sensitivity.json").exists()
    last = max((tmp_path / "kept").iterdir(), key=lambda f: f.stat().st_mtime_ns)
    with last.open("a") as stream:
        stream.write('{"rows": [{"cel')  # cut off in the middle
    monkeypatch.setattr(sensitivity.Kept, "add", add)
    assert sensitivity.main() == 0
    found = json.loads((tmp_path / "sensitivity.json").read_text(encoding="utf-8"))
    (kind,) = found["kinds"]
    cells = {t["tier"]: t["cells"] for t in kind["tiers"]}
    assert cells == {"weight": 18, "layer": 36, "gradient": 36, "exact": 36}
    exact = kind["tiers"][-1]
    assert exact["agreement"]["window"]["latent_error"]["spearman"] == pytest.approx(1.0)
    assert exact["evaluations"] > 0
    assert exact["seconds"] > 0
    page = (tmp_path / "sensitivity.md").read_text(encoding="utf-8")
    assert page == sensitivity.markdown(found)
    assert page.count("| gradient |") == 5  # costs, and two metrics over windows and over all steps


@pytest.mark.skipif(not RESULTS.is_file(), reason="the full run is not committed yet")
def test_the_page_is_made_from_the_numbers() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert RESULTS.with_suffix(".md").read_text(encoding="utf-8") == sensitivity.markdown(found)


@pytest.mark.skipif(not RESULTS.is_file(), reason="the full run is not committed yet")
def test_gradients_rank_as_exact_flips_do_at_a_small_part_of_their_time() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = sensitivity.targets(found)[2:]
    assert len(lines) == 3 * len(found["kinds"])
    assert all(line.endswith("| yes |") for line in lines), lines
