"""`dqviz gate`: which end of the interval decides, what is missed, what is bad input."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dqviz.cli import main
from dqviz.comparison import compare
from dqviz.gate import judge
from dqviz.request import CompareRequest
from dqviz.study import Study
from quant.errors import BadInput
from quant.metrics import list_metrics

RUN = "viditq-w4a4"
PAIRED = ("latent_rel_error", "psnr_db", "ssim")


def summary(study: Path, metric: str, run: str = RUN) -> dict[str, Any]:
    return Study.open(study).run(run)[metric]


def passes(study: Path, **bounds: float) -> bool:
    return judge(study, bounds, run=RUN)["passed"]


@pytest.mark.parametrize("metric", PAIRED)
def test_the_whole_interval_must_meet_the_bound(tiny_study, metric):
    found = summary(tiny_study, metric)
    lo, mean, hi = found["lo"], found["mean"], found["hi"]
    assert lo < mean < hi
    if list_metrics()[metric].better == "higher":
        assert passes(tiny_study, **{metric: lo})
        assert not passes(tiny_study, **{metric: (lo + mean) / 2})
    else:
        assert passes(tiny_study, **{metric: hi})
        assert not passes(tiny_study, **{metric: (mean + hi) / 2})


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_a_stricter_bound_is_never_easier(tiny_study, bound, more):
    for metric in PAIRED:
        stricter = bound + more if list_metrics()[metric].better == "higher" else bound - more
        if passes(tiny_study, **{metric: stricter}):
            assert passes(tiny_study, **{metric: bound})


def test_size_is_exact_and_in_millions_of_bytes(tiny_study):
    size = summary(tiny_study, "size_bytes") / 1e6
    assert passes(tiny_study, size_mb=size)
    assert not passes(tiny_study, size_mb=size - 1e-6)


def test_every_quantized_run_is_judged_and_full_precision_is_not(tiny_study):
    found = judge(tiny_study, {"psnr_db": -1000.0, "size_mb": 0.0})
    assert [(b["run"], b["name"], b["passed"]) for b in found["bounds"]] == [
        ("rtn-w4a4", "psnr_db", True),
        ("rtn-w4a4", "size_mb", False),
        (RUN, "psnr_db", True),
        (RUN, "size_mb", False),
    ]


def test_the_exit_code_is_4_with_a_line_for_each_missed_bound(tiny_study, capsys):
    argv = ["gate", str(tiny_study), "--run", RUN, "--min-psnr", "200", "--max-size-mb", "0.001"]
    assert main([*argv, "--max-latent-error", "1000"]) == 4
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 2
    assert all("misses the bound" in line and RUN in line for line in lines)
    assert "latent_rel_error" in printed.out
    psnr = summary(tiny_study, "psnr_db")
    assert f"{psnr['mean']:.4g} [{psnr['lo']:.4g}, {psnr['hi']:.4g}]" in lines[0]


def test_json_is_one_object_either_way(tiny_study, capsys):
    for bound, code in (("-1000", 0), ("200", 4)):
        assert main(["gate", str(tiny_study), "--min-psnr", bound, "--json"]) == code
        found = json.loads(capsys.readouterr().out)
        assert set(found) == {"passed", "bounds", "skipped"}
        assert found["passed"] == (code == 0)
        for one in found["bounds"]:
            assert {"name", "bound", "value", "lo", "hi", "passed", "run"} <= set(one)


def altered(study: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a study in which the record of `RUN` is another."""
    shutil.copytree(study, out)
    with sqlite3.connect(out / "study.sqlite") as db:
        (text,) = db.execute("SELECT record FROM runs WHERE name = ?", (RUN,)).fetchone()
        record = json.loads(text)
        change(record)
        db.execute("UPDATE runs SET record = ? WHERE name = ?", (json.dumps(record), RUN))
    db.close()
    return out


def test_identical_pictures_meet_every_quality_bound_and_it_says_so(tiny_study, tmp_path, capsys):
    none = {"mean": None, "lo": None, "hi": None, "identical": True}
    study = altered(tiny_study, tmp_path / "s", lambda r: r["psnr_db"].update(none))
    assert main(["gate", str(study), "--run", RUN, "--min-psnr", "99"]) == 0
    assert "psnr_db identical meets the bound 99" in capsys.readouterr().out


def test_a_metric_that_was_not_measured_is_bad_input(tiny_study, tmp_path):
    def forget(record: dict[str, Any]) -> None:
        record["ssim"] = None
        record["unavailable"]["ssim"] = "too small for it"

    study = altered(tiny_study, tmp_path / "s", forget)
    with pytest.raises(BadInput, match=f"{RUN} has no ssim: too small for it"):
        judge(study, {"ssim": 0.1})
    with pytest.raises(BadInput, match="has no flicker"):
        judge(tiny_study, {"flicker": 1.0})


def test_a_single_sample_is_judged_by_its_value(tiny_study, tmp_path):
    one = {"mean": 30.0, "lo": None, "hi": None}
    study = altered(tiny_study, tmp_path / "s", lambda r: r["psnr_db"].update(one))
    assert passes(study, psnr_db=30.0)
    assert not passes(study, psnr_db=30.001)


def test_against_another_run_only_a_loss_that_is_shown_is_missed(tiny_study):
    (better,) = judge(tiny_study, {}, run=RUN, against="rtn-w4a4")["bounds"]
    (worse,) = judge(tiny_study, {}, run="rtn-w4a4", against=RUN)["bounds"]
    assert better["name"] == "latent_rel_error against rtn-w4a4"
    assert better["value"] == pytest.approx(-worse["value"])
    for found in (better, worse):
        assert found["passed"] == (found["lo"] <= 0)
    assert [b["run"] for b in judge(tiny_study, {}, against="rtn-w4a4")["bounds"]] == [RUN]


def test_a_single_sample_is_held_against_another_run_by_its_difference(tiny_dit, tmp_path):
    request = {"model": str(tiny_dit), "methods": "rtn,rtn", "bits": "w8a8,w4a4", "seeds": "0"}
    more = {"calibration_seeds": "100-101", "ladder": False, "out": tmp_path / "one"}
    compare(CompareRequest.parse({**request, **more}))
    (worse,) = judge(tmp_path / "one", {}, run="rtn-w4a4", against="rtn-w8a8")["bounds"]
    (better,) = judge(tmp_path / "one", {}, run="rtn-w8a8", against="rtn-w4a4")["bounds"]
    assert worse["lo"] is None
    assert worse["value"] > 0
    assert (worse["passed"], better["passed"]) == (False, True)


def test_runs_and_comparisons_that_cannot_be_judged_are_named(tiny_study, tmp_path):
    with pytest.raises(BadInput, match="nearest: viditq-w4a4"):
        judge(tiny_study, {"psnr_db": 1.0}, run="viditq-w4a5")
    with pytest.raises(BadInput, match="nearest: rtn-w4a4"):
        judge(tiny_study, {"psnr_db": 1.0}, against="rtn-w4a5")
    with pytest.raises(BadInput, match="no run to judge"):
        judge(tiny_study, {"psnr_db": 1.0}, run="full-precision")
    shutil.copytree(tiny_study, tmp_path / "s")
    Study.open(tmp_path / "s").finish(1, "cancelled")
    with pytest.raises(BadInput, match="is cancelled, not done"):
        judge(tmp_path / "s", {"psnr_db": 1.0})
    for bound in (float("nan"), float("inf")):
        with pytest.raises(BadInput, match="not a number"):
            judge(tiny_study, {"psnr_db": bound})


def test_a_folder_of_studies_is_judged_as_a_whole(tiny_study, tmp_path):
    for name in ("one", "two"):
        shutil.copytree(tiny_study, tmp_path / name)
    found = judge(tmp_path, {"psnr_db": -1000.0}, run=RUN)
    assert [Path(b["study"]).name for b in found["bounds"]] == ["one", "two"]


def test_a_study_with_a_sweep_alone_has_nothing_to_gate(tiny_study, tmp_path, capsys):
    shutil.copytree(tiny_study, tmp_path / "one")
    manifest = Study.open(tiny_study).manifest
    Study.open_or_create(tmp_path / "swept", manifest["model"], manifest["versions"])
    found = judge(tmp_path, {"psnr_db": -1000.0}, run=RUN)
    assert [Path(b["study"]).name for b in found["bounds"]] == ["one"]
    assert found["skipped"] == [str(tmp_path / "swept")]
    assert main(["gate", str(tmp_path), "--min-psnr", "-1000", "--run", RUN]) == 0
    assert "swept has nothing to gate" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(BadInput, match=r"none of the studies in .* holds a comparison to judge"):
        judge(tmp_path, {"psnr_db": 1.0})
