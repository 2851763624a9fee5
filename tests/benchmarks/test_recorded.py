"""The script that makes the recorded study, with a tiny budget; and the study that is committed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import recorded, settling
from dqviz.study import Study
from dqviz.study_folder import RECORDED
from quant.errors import BadInput

COMMITTED = sorted(path.parent for path in RECORDED.glob("*/study.json"))


@pytest.fixture(scope="module")
def made(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recorded study of the tiny model."""
    target = tmp_path_factory.mktemp("assets") / "studies" / "tiny"
    own = {"model": str(tiny_dit), "calibration_seeds": "100-101"}
    comparison = {**own, "methods": "viditq,rtn", "bits": "w8a8,w4a4", "seeds": "0-2"}
    capture = {**own, "method": "viditq", "bits": "w4a8", "steps": 2, "seeds": "100-101"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DQVIZ_HOME", "")
        options = {"alpha": 0.3, "windows": 1}
        sweep = {**own, "bits": "4,8", "windows": 2, "sites": "attn1.to_[qk]|ff", "seeds": "200-201", "probes": 1}  # fmt: skip
        plan = {"budgets": {"avg_bits": 6, "activation_bits": 6}, "calibrate": 12, "verify": 2, "plan_seeds": "300"}  # fmt: skip
        probe = {**own, "method": "trdq", "bits": "w4a8", "only": "similarity,windows", "options": options}  # fmt: skip
        recorded.record(target, recorded.Recipe(comparison, capture, [probe], sweep, plan))
    return target


def test_it_is_a_study_that_only_tells(made: Path) -> None:
    assert {p.name for p in made.iterdir()} == {
        "study.json", "study.sqlite", "images", "drift", "captures", "probes", "sensitivity",
    }  # fmt: skip
    assert [p.name for p in made.parent.iterdir()] == ["tiny"], "nothing half made is left"
    study = Study.open(made, read_only=True)
    assert study.manifest["recorded"]["device"]
    result = study.result()
    assert result["request"]["out"] is None
    for run in result["runs"]:
        assert (run["evidence"], run["seconds_per_sample"]) == ("recorded", None)
        assert run["recorded_as"] in ("measured", "simulated")
        assert study.manifest["recorded"]["date"] in run["backend_why"]
        assert run["device"] == study.manifest["recorded"]["device"]
        assert all(path.is_file() for path in study.images(run["name"]))
    (capture,) = study.captures()
    said = capture["record"]
    assert said["evidence"] == "recorded"
    assert said["bytes"] == (made / capture["file"]).stat().st_size
    assert said["inputs"] == len(study.capture(capture["name"]).inputs)


def test_its_capture_is_small_and_reads_like_any_other(made: Path) -> None:
    study = Study.open(made, read_only=True)
    seen = study.capture(study.captures()[0]["name"])
    assert seen.stages[0] == "input"
    assert len(seen.stages) == 2
    assert seen.summary("incoherence").shape[0] == len(seen.inputs)
    for entry in seen.inputs:
        for stage in entry.stages:
            fields = seen.channels(entry.name, 1, 0, stage)
            assert {values.dtype for values in fields.values()} == {np.dtype(np.float16)}
            counts, edges = seen.histogram(entry.name, 1, 0, stage)
            assert len(edges) == len(counts) + 1
            assert counts.sum() > 0
        assert seen.weights(entry.sites[0])["in_absmax"].size == entry.channels


def test_its_probes_say_what_they_were_and_no_time(made: Path) -> None:
    study = Study.open(made, read_only=True)
    rows = {row["probe"]: row for row in study.probes()}
    assert set(rows) == {"similarity", "windows"}
    for key, was in (("similarity", "measured"), ("windows", "simulated")):
        said = rows[key]["record"]
        assert (said["evidence"], said["recorded_as"], said["seconds"]) == ("recorded", was, None)
        assert said["device"] == study.manifest["recorded"]["device"]
        assert study.probe(rows[key]["name"])["timesteps"]


def test_its_table_has_what_plans_are_made_of_and_its_plan_was_drawn(made: Path) -> None:
    study = Study.open(made, read_only=True)
    (row,) = study.sensitivities()
    said, lines = row["record"], study.sensitivity(row["name"])
    assert (said["evidence"], said["recorded_as"], said["seconds"]) == (
        "recorded",
        "predicted",
        None,
    )
    assert {line["evidence"] for line in lines} == {"recorded"}
    assert said["cells"] == said["rows"] == len(lines)
    assert {(n["operand"], n["window"]) for n in lines} == {
        ("weight", None), ("activation", 0), ("activation", 1),
    }  # fmt: skip
    assert all(float(f"{v:.5g}") == v for line in lines for v in line["per_sample"])
    (plan,) = study.allocations()
    record = plan["record"]
    assert record["command"].startswith("dqviz allocate --study studies/tiny-dit --budget ")
    assert (record["seconds"], record["calibration"]["plans"]) == (None, 12)
    assert (record["verified"]["evidence"], record["verified"]["n"]) == ("recorded", 2)
    assert study.allocated_plan(plan["name"])["sites"]
    assert len(study.calibrations(row["key"], "latent_error")) == 1


def test_a_part_is_made_anew_beside_the_others(made: Path, tiny_dit: Path, tmp_path: Path) -> None:
    target = tmp_path / "studies" / "tiny"
    shutil.copytree(made, target)
    before = Study.open(made, read_only=True)
    sweep = {
        "model": str(tiny_dit),
        "bits": "8",
        "windows": 1,
        "sites": "attn1.to_q",
        "seeds": "200",
        "probes": 1,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DQVIZ_HOME", "")
        recorded.record(target, recorded.Recipe(sweep, sweep=sweep), ["precision"])
        with pytest.raises(BadInput, match="unknown part 'precison'; nearest: precision"):
            recorded.record(target, recorded.Recipe(sweep), ["precison"])
    study = Study.open(target, read_only=True)
    (row,) = study.sensitivities()
    assert row["record"]["bits"] == ["8"]
    assert study.allocations() == []
    assert sorted(f.name for f in (target / "sensitivity").iterdir()) == [
        "gradient-rtn.blueprint.json",
        "gradient-rtn.jsonl",
    ]
    for name in ("captures", "probes"):
        assert getattr(study, name)() == getattr(before, name)()
    assert study.result()["runs"] == before.result()["runs"]
    assert study.manifest["recorded"] == before.manifest["recorded"]
    for folder in ("images", "captures", "drift", "probes"):
        for file in (made / folder).rglob("*.*"):
            assert file.read_bytes() == (target / file.relative_to(made)).read_bytes()


def test_pictures_keep_every_pixel(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.tile(np.arange(0, 240, dtype=np.uint8).reshape(16, 5, 3), (4, 8, 1))
    file = tmp_path / "a.png"
    Image.fromarray(pixels).save(file, compress_level=0)
    before = file.stat().st_size
    settling._packed(file)
    assert file.stat().st_size < before
    assert np.array_equal(np.asarray(Image.open(file)), pixels)


@pytest.mark.parametrize(
    ("field", "values", "kind"),
    [
        ("mean", np.array([1.0], np.float32), np.float16),
        ("maximum", np.array([1e6], np.float32), np.float32),
        ("histogram", np.array([65535], np.int32), np.uint16),
        ("histogram", np.array([65536], np.int32), np.int32),
        ("moments", np.array([1.0]), np.float64),
    ],
)
def test_numbers_become_small_only_where_they_fit(
    field: str, values: np.ndarray, kind: Any
) -> None:
    assert settling.smaller(f"activation/input/x/{field}", values).dtype == kind


def test_a_surface_keeps_its_outliers_with_half_the_tokens_and_channels() -> None:
    values = np.arange(30, dtype=np.float16).reshape(1, 2, 15)[..., ::-1]
    found = settling.smaller("activation/input/x/surface", values)
    assert found.shape == (1, 1, 8)
    assert found.dtype == np.float16
    assert found.max() == values.max()
    assert list(found[0, 0]) == [29, 27, 25, 23, 21, 19, 17, 15]
    factors = settling.smaller("activation/input/x/surface_factors", np.array([3, 2], np.int16))
    assert (list(factors), factors.dtype) == ([6, 4], np.int16)


def test_a_study_that_is_too_large_replaces_nothing(
    made: Path, tiny_dit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (made / "study.json").read_bytes()
    monkeypatch.setattr(recorded, "LARGEST", 10)
    monkeypatch.setenv("DQVIZ_HOME", "")
    request = {
        "model": str(tiny_dit),
        "methods": "rtn",
        "bits": "w4a8",
        "seeds": "0",
        "ladder": False,
    }
    with pytest.raises(BadInput, match="at most 10"):
        recorded.record(made, recorded.Recipe(request))
    assert (made / "study.json").read_bytes() == before
    assert [p.name for p in made.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("folder", COMMITTED, ids=[f.name for f in COMMITTED])
def test_what_is_committed_is_small_recorded_and_of_no_machine(folder: Path) -> None:
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= recorded.LARGEST
    assert not [p for p in files if p.name.endswith(("-wal", "-shm", ".html")) or p.name == "seen"]
    study = Study.open(folder)
    assert study.read_only
    result = study.result()
    assert {run["evidence"] for run in result["runs"]} == {"recorded"}
    assert {run["seconds_per_sample"] for run in result["runs"]} == {None}
    assert len(result["runs"][0]["files"]) >= 16
    result.pop("study")  # where this checkout happens to lie
    of_plans = [study.sensitivities(), study.allocations()]
    text = json.dumps([result, study.manifest, study.captures(), of_plans])
    assert "/tmp" not in text
    assert str(Path.home()) not in text
