"""The page of a run on a GPU: from its rows alone, correctness first, with what failed and what was not reached; never of a dry run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import gpu_page, gpu_tables
from benchmarks.gpu.rows import Rows
from docs import generate
from kernels.int_linear import tiles

CALL = {
    "key": "call 1",
    "date": "2026-01-02",
    "device": "NVIDIA H200",
    "architecture": "sm_90",
    "memory_bytes": 1,
    "multiprocessors": 132,
    "cuda": "13.0",
    "versions": {"python": "3.12.3", "torch": "2.13.0", "triton": "3.7.1"},
    "clocks": {"clocks.sm": "1980 MHz"},
}


def time(median: float) -> dict[str, Any]:
    return {"median_us": median, "low_us": median - 1, "high_us": median + 1, "runs": 60}


STEP = {
    "key": "step/256 px, 32 samples, w8a8",
    "scene": {"pixels": 256, "samples": 32},
    "times": {name: time(20e3) for name in ("w8a8", "w8a8, CUDA graph")},
    "ratios": {
        "w8a8": {"bf16 compiled, CUDA graph": 1.2, "bf16 compiled": 1.25, "bf16": 2.0},
        "w8a8, CUDA graph": {"bf16 compiled, CUDA graph": 1.3, "bf16 compiled": 1.4, "bf16": None},
    },
    "memory": {"weights": 2**30, "weights_bf16": 2**31, "peak": 2**20, "peak_bf16": 2**21},
    "difference": 0.01,
    "share_of_peak": {"w8a8": 0.5},
    "errors": {},
    "backend": "triton",
}
PRODUCT = {
    "key": "ops/int_linear, dit-xl-2 fc1, m=16384",
    "shape": {"m": 16384, "k": 1152, "n": 4608, "after": "gelu"},
    "times": {
        "w8a8": time(100),
        "w4a16": time(160),
        "cuBLAS bf16": time(150),
        "_int_mm, compiled": {"error": "no |"},
    },
    "ratios": {
        "w8a8": {"cuBLAS bf16": 1.5, "compiled bf16": 1.45, "w4a16": 1.6},
        "w4a16": {"cuBLAS bf16": 0.94, "compiled bf16": 0.9},
    },
    "share_of_peak": {"w8a8": 0.6},
    "left_out": {"w4a8": "its numbers are wrong here"},
}
PASS = {
    "key": "ops/adaln_quantize, 64x256x1152",
    "times": {"ours": time(15), "copy": time(13)},
    "ratios": {"ours": {"copy": 0.867, "compiled": 1.3}},
    "bytes_per_second": {"copy": 4_300_000_000_000},
    "left_out": {},
}
ATTENTION = {
    "key": "attention/heads of 72, 16x1024",
    "shape": {"b": 16, "h": 16, "t": 1024, "d": 72},
    "times": {"ours": time(150), "ours, one map": time(120), "SDPA": time(180)},
    "ratios": {"ours": {"SDPA": 1.2, "ours, one map": 0.8}, "ours, one map": {"SDPA": 1.5}},
    "operations_per_second": {"ours": 515_000_000_000_000},
    "left_out": {},
}
TILE = {
    "key": "tuning/w8a8, dit-xl-2 fc1, m=16384, 128x64, 4 warps, 4 stages",
    "shape": {"m": 16384, "k": 1152, "n": 4608, "after": "gelu"},
    "op": "int_linear",
    "kind": {"packed": False, "group": 0},
    "tile": {"BM": 128, "BN": 64, "num_warps": 4, "num_stages": 4},
    "ratio": 1.2,
}
CHECKS = (
    {"key": "correctness/int_linear, w8a8, gelu", "right": True, "relative_error": 0.0016, "compiled": "equal", "graph": "equal"},
    {"key": "correctness/int_linear, w4a8, gelu", "right": False, "relative_error": 0.5, "compiled": "equal", "graph": "other bits"},
    {"key": "correctness/quantize_rows", "error": "the process ended in this row: signal SIGSEGV"},
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Rows:
    rows = Rows(tmp_path / "run")
    rows.open()
    for row in (CALL, *CHECKS, STEP, PRODUCT, PASS, ATTENTION, TILE):
        rows.append(row)
    return rows


def test_the_page_says_what_the_rows_say(run: Rows) -> None:
    found = gpu_page.result(run.folder)
    page = gpu_tables.markdown(found)
    assert "NVIDIA H200 (sm_90); python 3.12.3, torch 2.13.0, triton 3.7.1, CUDA 13.0; 2026-01-02" in page  # fmt: skip
    assert page.index("## Correctness") < page.index("## Whole step") < page.index("## int_linear")
    assert "1 of 3 checks are right" in page
    assert "| int_linear, w4a8, gelu | **wrong** | error 0.5 | equal | other bits |" in page
    assert "| quantize_rows | **wrong** | the process ended in this row: signal SIGSEGV |" in page
    step = "| 256 px, 32 samples | w8a8, CUDA graph | 20.00 (20.00 to 20.00) | 1.30 |  |"
    assert step in page  # over the faster of both compiled ways
    assert "| w8a8 | 100.0 (99.0 to 101.0) | 1.50 | 1.45 | 60% |" in page
    assert "| w4a16 | 160.0 (159.0 to 161.0) | 0.94 | 0.90 |  |" in page
    assert "8-bit floats" not in page
    lacking = gpu_tables.markdown({**found, "lacks_floats": "a GPU of compute capability 8.0"})
    assert "8-bit floats are left out: a GPU of compute capability 8.0.\n" in lacking
    assert "| adaln_quantize, 64x256x1152 | 15.0 (14.0 to 16.0) |  | 1.30 |  | 0.87 | 4.30 |" in page  # fmt: skip
    assert "| heads of 72, 16x1024 | ours | 150.0 (149.0 to 151.0) | 1.20 | 515 |" in page
    assert "| heads of 72, 16x1024 | ours, one map | 120.0 (119.0 to 121.0) | 1.50 |  |" in page
    assert "w4a8 left out, its numbers are wrong here" in page
    assert "_int_mm, compiled: no |" in page
    assert "## Not reached" in page
    assert "256 px, 8 samples, w8a8" in page


def test_what_was_not_reached_is_counted_by_stage(run: Rows) -> None:
    left = gpu_page.result(run.folder)["not_reached"]
    assert STEP["key"] not in left["step"]
    assert "step/256 px, 8 samples, w8a8" in left["step"]
    assert CHECKS[0]["key"] not in left["correctness"]


def test_a_dry_run_makes_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Rows(tmp_path / "run")
    rows.open()
    rows.append({**CALL, "dry_run": True})
    monkeypatch.setattr(sys, "argv", ["gpu_page", str(rows.folder), "--out", str(tmp_path / "out")])
    assert gpu_page.main() == 2
    assert "is a dry run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_rows_makes_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_page", str(tmp_path), "--out", str(tmp_path / "out")])
    assert gpu_page.main() == 2
    assert "holds no rows" in capsys.readouterr().err


def test_results_and_tiles_are_written_where_they_are_read(
    run: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, configs = tmp_path / "out", tmp_path / "configs"
    asked = ["gpu_page", str(run.folder), "--out", str(out), "--configs", str(configs)]
    monkeypatch.setattr(sys, "argv", asked)
    assert gpu_page.main() == 0
    found = json.loads((out / "gpu.json").read_text(encoding="utf-8"))
    assert found["evidence"] == "measured"
    assert (out / "gpu.md").read_text(encoding="utf-8") == gpu_tables.markdown(found)
    drawn = ElementTree.fromstring((out / "gpu.svg").read_text(encoding="utf-8"))
    said = list(drawn.itertext())
    assert {"1.20", "1.30", "1.45"} < set(said)  # a graph's is over the faster compiled way
    assert "Step, 256 px, 32 samples" in said
    assert "![Bars of the ratios below](gpu.svg)" in (out / "gpu.md").read_text(encoding="utf-8")
    path = configs / "sm_90" / "int_linear_tiles.json"
    read = tiles.nearest(path, 16000, 1152, 4608, packed=False, group=0, after="gelu")
    assert read == TILE["tile"]


def test_documents_say_that_nothing_was_measured_until_something_is(
    run: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "results", lambda name: None)
    assert "not yet measured on a GPU" in generate.BLOCKS["gpu"]()
    found = gpu_page.result(run.folder)
    monkeypatch.setattr(generate, "results", lambda name: found)
    said = generate.BLOCKS["gpu"]()
    assert "not yet measured" not in said
    assert "NVIDIA H200, 2026-01-02" in said
    assert "| 256 px, 32 samples, w8a8 | 20.00 (20.00 to 20.00) | 1.20 | 2.00 |" in said
