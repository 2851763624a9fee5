"""A capture: from a request to a study, once; stopped, killed and resumed; said before the start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from dqviz import capturing, machine
from dqviz.capturing import CaptureRequest, as_command, capture
from dqviz.cli import main
from dqviz.events import Done, Progress, Stage
from dqviz.pages import activations as page
from dqviz.study import Study
from quant.errors import BadInput, Cancelled, EnvironmentFault
from quant.seen_layout import CalibrationOptions

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20


def asked(model: Path, folder: Path, **more: Any) -> CaptureRequest:
    """A small capture."""
    return CaptureRequest.parse({"model": str(model), "out": folder, "seeds": "100-103", **more})


def arrays(file: Path) -> dict[str, np.ndarray]:
    with safe_open(file, framework="np") as stored:
        return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def plain(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A capture without a method, with the events it sent; read only."""
    events: list[Any] = []
    folder = tmp_path_factory.mktemp("captured") / "study"
    made = capture(asked(tiny_dit, folder), events.append)
    return {"made": made, "events": events, "folder": folder}


def test_a_capture_says_what_it_made(plain: dict[str, Any]) -> None:
    made, study = plain["made"], Study.open(plain["folder"])
    expected = {"study", "sites", "steps", "bytes", "peak_bytes", "seconds", "overhead_ratio"}
    assert expected <= set(made)
    assert (made["sites"], made["inputs"], made["steps"], made["samples"]) == (12, 8, 4, 4)
    assert made["capture"] == "full-precision"
    assert made["stages"] == ["input"]
    assert made["bytes"] == (plain["folder"] / made["file"]).stat().st_size
    assert made["bytes"] <= made["predicted"]["bytes"]
    assert made["peak_bytes"] > made["predicted"]["memory_bytes"], "the whole process"
    assert made["overhead_ratio"] > 1
    assert made["evidence"] == "measured"
    assert not made["reused"]
    seen = study.capture("full-precision")
    assert seen.summary("incoherence").shape == (8, 4, 2)
    assert seen.weights(seen.inputs[0].sites[0])["in_absmax"].shape == (seen.inputs[0].channels,)
    assert study.captures()[0]["method"] is None
    leftovers = [p.name for p in (plain["folder"] / "captures").iterdir()]
    assert leftovers == ["full-precision.safetensors"]


def test_progress_comes_with_the_bounds_first(plain: dict[str, Any]) -> None:
    events = plain["events"]
    stages = [e for e in events if isinstance(e, Stage)]
    assert [s.name for s in stages] == ["load", "preflight", "capture"]
    assert "8 inputs over 4 steps of 4 samples" in stages[2].text
    for stage in stages[1:]:
        assert "MiB on disk" in stage.text
        assert "of memory" in stage.text
    progress = [e for e in events if isinstance(e, Progress)]
    assert (progress[-1].done, progress[-1].total) == (16, 16)
    assert [p.done for p in progress] == sorted(p.done for p in progress)
    assert isinstance(events[-1], Done)


def test_the_same_request_again_is_not_made_again(
    tiny_dit: Path, plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("recorded again")

    monkeypatch.setattr("quant.calibration.calibrate", never)
    again = capture(asked(tiny_dit, plain["folder"], batch_size=2))
    assert again == {**plain["made"], "reused": True}


def test_another_request_is_another_capture(tiny_dit: Path, tmp_path: Path) -> None:
    names = [
        capture(asked(tiny_dit, tmp_path / "s", **more))["capture"]
        for more in ({}, {"seeds": "7"}, {"steps": 2}, {"record": {"reservoir": 8}})
    ]
    assert names == ["full-precision", *(f"full-precision-{i}" for i in (2, 3, 4))]


def test_a_methods_transforms_are_recorded_in_the_same_pass(tiny_dit: Path, tmp_path: Path) -> None:
    method = {"method": "viditq", "bits": "w4a8", "options": {"transform": "both"}}
    made = capture(asked(tiny_dit, tmp_path / "s", **method, calibration_seeds="200-201"))
    assert made["capture"] == "viditq-w4a8"
    assert made["stages"] == ["input", "scaled", "rotated"]
    study = Study.open(tmp_path / "s")
    (row,) = study.captures()
    assert (row["method"], row["bits"]) == ("viditq", "w4a8")
    assert row["manifest"]["method_options"]["transform"] == "both"
    seen = study.capture(made["capture"])
    assert all(entry.stages == seen.stages for entry in seen.inputs)
    before, after = (seen.summary("channel_imbalance", stage) for stage in ("input", "rotated"))
    assert np.median(after) < np.median(before), "a rotation spreads what stands out"
    site = seen.inputs[0].sites[0]
    assert seen.weights(site, "rotated")["histogram"].sum() == seen.inputs[0].channels ** 2


def test_transforms_of_windows_are_shown_by_the_activations_page(
    tiny_dit: Path, tmp_path: Path
) -> None:
    options = {"alpha": 0.3, "windows": [1, 3]}
    method = {"method": "trdq", "bits": "w4a8", "options": options}
    made = capture(asked(tiny_dit, tmp_path / "s", **method, calibration_seeds="200-201"))
    assert made["stages"] == ["input", "scaled", "rotated"]
    seen = Study.open(tmp_path / "s").capture(made["capture"])
    opened = page.Opened(seen, "s", made["capture"], "A model", "key")
    assert [seen.window(step) for step in range(4)] == [0, 1, 1, 2]
    for step, window in ((0, 1), (3, 3)):
        chosen, _ = page.select({"step": str(step), "stage": "rotated"}, seen)
        (shown,) = [s for s in page.panels(opened, chosen) if s["key"] == "weights"]
        assert f"of window {window} of 3" in shown["lede"]
    chosen, _ = page.select({"map": "weights"}, seen)
    assert "the highest of them" in page.overview(opened, chosen)["map"]["lede"]


def test_a_method_that_transforms_nothing_has_one_stage(tiny_dit: Path, tmp_path: Path) -> None:
    made = capture(asked(tiny_dit, tmp_path / "s", method="rtn", bits="w8a8", seeds="3"))
    assert made["stages"] == ["input"]
    assert made["capture"] == "rtn-w8a8"


def test_a_capture_serves_as_calibration_of_the_same_samples(
    tiny_dit: Path, plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dqviz.planning import load, statistics

    model = load(str(tiny_dit))

    def calibrated(seeds: range) -> Any:
        samples = model.samples(seeds)
        return statistics(model, samples, model.sampler(), 8, plain["folder"])

    class Recorded(Exception):
        pass

    def never(*_: Any, **__: Any) -> None:
        raise Recorded

    monkeypatch.setattr("quant.calibration.calibrate", never)
    seen = calibrated(range(100, 104))
    assert len(seen.inputs) == 8
    with pytest.raises(Recorded):
        calibrated(range(100, 103))


# -- stopped and killed


def test_a_cancelled_capture_goes_on(tiny_dit: Path, plain: dict[str, Any], tmp_path: Path) -> None:
    calls = 0

    def cancelled() -> bool:
        nonlocal calls
        calls += 1
        return calls > 12

    request = asked(tiny_dit, tmp_path / "s", batch_size=1)
    with pytest.raises(Cancelled, match="goes on from there"):
        capture(request, cancelled=cancelled)
    assert Study.open(tmp_path / "s").captures() == []
    events: list[Any] = []
    made = capture(request, events.append)
    assert 1 <= made["resumed_samples"] <= 2
    progress = [e for e in events if isinstance(e, Progress)]
    assert progress[0].done >= made["resumed_samples"] * 4, "what was done counts as done"
    one = arrays(tmp_path / "s" / made["file"])
    whole = arrays(plain["folder"] / plain["made"]["file"])
    assert one.keys() == whole.keys()


def test_killed_at_random_moments_it_ends_with_the_same_statistics(
    tiny_dit: Path, tmp_path: Path
) -> None:
    """Twenty SIGKILLs: integers and extremes bit-equal to a capture that ran through, sums to 1e-6."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork; the kills need one")
    script = Path(__file__).with_name("killed_captures.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_dit), str(tmp_path), str(KILLS), "0"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["failures"] == 0, done.stderr
    assert report["killed"] == KILLS
    taken = [json.loads(line)["resumed"] for line in done.stderr.splitlines() if "resumed" in line]
    assert max(taken) > 0, "at least one attempt went on from a checkpoint"
    whole = arrays(tmp_path / "whole" / "captures" / "full-precision.safetensors")
    for number in range(report["studies"]):
        folder = tmp_path / str(number) / "captures"
        assert [p.name for p in folder.iterdir()] == ["full-precision.safetensors"], "no leftovers"
        resumed = arrays(folder / "full-precision.safetensors")
        assert resumed.keys() == whole.keys()
        for key, value in whole.items():
            exact = value.dtype.kind in "iu" or key.endswith(("/minimum", "/maximum", "_absmax"))
            if exact:
                assert np.array_equal(value, resumed[key]), key
            else:
                np.testing.assert_allclose(resumed[key], value, rtol=1e-6, atol=1e-9, err_msg=key)


# -- before the start


def test_too_little_memory_or_disk_is_said_with_numbers(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(tiny_dit, tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr(machine, "free_disk", lambda folder: 1000)
        with pytest.raises(
            EnvironmentFault, match=r"needs about \d+ MiB on disk and 0 MiB are free"
        ):
            capture(request)
    free = machine.available_memory
    monkeypatch.setattr(capturing, "load", load_then(monkeypatch, lambda: 1000))
    with pytest.raises(
        EnvironmentFault, match=r"8 inputs over 4 steps needs about \d+ MiB of memory"
    ):
        capture(request)
    monkeypatch.setattr(machine, "available_memory", free)
    assert Study.open(tmp_path / "s").captures() == []


def load_then(monkeypatch: pytest.MonkeyPatch, available: Any) -> Any:
    """Loading as it is; afterwards the machine says that so much memory is free."""
    from dqviz.planning import load

    def loaded(*arguments: Any, **more: Any) -> Any:
        model = load(*arguments, **more)
        monkeypatch.setattr(machine, "available_memory", available)
        return model

    return loaded


def test_an_input_that_is_not_finite_names_site_and_step(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Overflow as it happens in 16 bit: a layer in front says infinity at one step."""
    import torch

    from dqviz.planning import load

    def spoiled(*arguments: Any, **more: Any) -> Any:
        model = load(*arguments, **more)
        calls = iter(range(1000))

        def spoil(_module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
            return torch.full_like(out, torch.inf) if next(calls) == 2 else out

        model.transformer.get_submodule("transformer_blocks.1.ff.net.0").register_forward_hook(
            spoil
        )
        return model

    monkeypatch.setattr(capturing, "load", spoiled)
    assert main(["capture", str(tiny_dit), "--study", str(tmp_path / "s"), "--samples", "1"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "transformer_blocks.1.ff.net.2" in line
    assert "at step 1 (timestep" in line
    assert Study.open(tmp_path / "s").captures() == []


# -- the command


def test_the_command_prints_one_json_object_and_the_bounds(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "capture",
        str(tiny_dit),
        "--samples",
        "2",
        "--steps",
        "2",
        "--study",
        str(tmp_path / "s"),
    ]
    assert main([*argv, "--json"]) == 0
    printed = capsys.readouterr()
    made = json.loads(printed.out)
    assert (made["samples"], made["steps"]) == (2, 2)
    assert "predicted at most" in printed.err
    assert len(printed.err.splitlines()) == 2  # of all that it takes, and of the recording
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert "which was there already" in printed.out
    assert printed.err.startswith("predicted, at most")


def test_as_command_makes_the_same_request(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    request = asked(
        tiny_dit,
        tmp_path / "a study",
        method="viditq",
        bits="w4a8",
        options={"alpha": 0.5, "transform": "scale"},
        classes=["cat"],
        steps=3,
        guidance=2.5,
        record={"reservoir": 100, "seed": 3, "rows": 20},
        batch_size=2,
    )
    seen: list[CaptureRequest] = []

    def catch(made: CaptureRequest, *_: Any) -> None:
        seen.append(made)
        raise Cancelled("enough")

    monkeypatch.setattr(capturing, "capture", catch)
    assert main(shlex.split(as_command(request))[1:]) == 130
    assert seen == [request]
    assert CaptureRequest.parse(request.to_json()) == request
    short = CaptureRequest(model="dit-emoji")
    assert as_command(short) == "dqviz capture dit-emoji"
    assert main(shlex.split(as_command(short))[1:]) == 130
    assert seen[1] == short


def test_a_job_knows_its_title_and_folder(tiny_dit: Path, tmp_path: Path) -> None:
    title, folder = capturing.title(asked(tiny_dit, tmp_path / "s", method="viditq", bits="w4a8"))
    assert title.endswith("capture of inputs, viditq w4a8, 4 samples")
    assert folder == tmp_path / "s"
    with pytest.raises(BadInput, match="unknown method 'vidit'"):
        capturing.title(asked(tiny_dit, tmp_path / "s", method="vidit", bits="w4a8"))


def test_the_options_of_a_capture_are_those_of_a_calibration() -> None:
    """Otherwise no capture could calibrate a comparison."""
    assert CaptureRequest(model="m").record == CalibrationOptions()
