"""Compare: what its JSON holds, what ends up in the study, and how it stops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dqviz import machine
from dqviz.command_lines import as_command, seeds_text
from dqviz.comparison import compare
from dqviz.events import Event, Preview, Progress, RunFinished, Stage
from dqviz.export import quantize_to
from dqviz.request import BACKENDS, CompareRequest
from dqviz.study import Study
from quant.errors import BadInput, Cancelled, EnvironmentFault

RUN_KEYS = {
    "name",
    "method",
    "bits",
    "psnr_db",
    "latent_rel_error",
    "ssim",
    "class_accuracy",
    "seconds_per_sample",
    "size_bytes",
    "fp16_bytes",
    "bits_per_weight",
    "backend",
    "residency",
    "evidence",
    "scope",
    "files",
}


@pytest.fixture(scope="session")
def result(tiny_study: Path) -> dict[str, Any]:
    return Study.open(tiny_study, read_only=True).result()


def request(model: Path, out: Path, **more: Any) -> CompareRequest:
    fields: dict[str, Any] = {
        "model": str(model),
        "methods": ["rtn"],
        "bits": "w8a8",
        "seeds": "0-1",
        "steps": 2,
        "ladder": False,
        "out": out,
    }
    return CompareRequest.parse(fields | more)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [value] if isinstance(value, float) else []


def test_the_json_holds_what_is_documented(result: dict[str, Any]) -> None:
    assert {"runs", "pairs", "ladder", "study"} <= set(result)
    for run in result["runs"]:
        assert set(run) >= RUN_KEYS
        assert set(run["scope"]) == {"quantized", "kept", "why"}
    for run in result["runs"][1:]:
        assert set(run["psnr_db"]) >= {"mean", "lo", "hi", "min", "of_mean_mse"}
        assert set(run["latent_rel_error"]) >= {"mean", "lo", "hi"}
        assert set(run["ssim"]) >= {"mean", "lo", "hi"}
    (pair,) = result["pairs"]
    assert set(pair) >= {"a", "b", "diff_db", "win_rate"}
    assert set(pair["diff_db"]) >= {"mean", "lo", "hi"}
    assert len(result["ladder"]) == 7
    assert all(math.isfinite(n) for n in numbers(result))
    json.dumps(result, allow_nan=False)


def test_the_first_run_is_full_precision(result: dict[str, Any]) -> None:
    first = result["runs"][0]
    assert first["method"] == "full-precision"
    assert first["psnr_db"] is first["latent_rel_error"] is first["ssim"] is None
    assert first["bits"] is None
    assert first["evidence"] == "measured"
    assert first["seconds_per_sample"] > 0
    assert first["size_bytes"] == first["fp16_bytes"]
    assert [r["name"] for r in result["runs"]] == ["full-precision", "rtn-w4a4", "viditq-w4a4"]


def test_a_simulation_has_no_seconds(result: dict[str, Any]) -> None:
    for run in result["runs"][1:]:
        assert (run["seconds_per_sample"] is None) == (run["evidence"] == "simulated")


def test_scope_covers_every_site_once(result: dict[str, Any]) -> None:
    for run in result["runs"][1:]:
        quantized, kept = run["scope"]["quantized"], run["scope"]["kept"]
        assert len(quantized) == 12
        assert not set(quantized) & set(kept)
        assert all(kept.values())
        assert set(run["scope"]["why"]) == set(quantized)
        assert all(why.partition(":")[0] in BACKENDS for why in run["scope"]["why"].values())


def test_the_pair_is_the_later_run_minus_the_earlier(result: dict[str, Any]) -> None:
    (pair,) = result["pairs"]
    by_name = {run["name"]: run for run in result["runs"]}
    means = [np.mean(by_name[pair[side]]["psnr_db"]["per_sample"]) for side in "ab"]
    assert (pair["a"], pair["b"]) == ("viditq-w4a4", "rtn-w4a4")
    assert pair["diff_db"]["mean"] == pytest.approx(means[0] - means[1])


def test_pictures_are_those_that_were_judged(tiny_study: Path, result: dict[str, Any]) -> None:
    """PSNR of the stored 8-bit pictures agrees with the reported one up to their rounding."""
    pictures = [
        np.stack([np.asarray(Image.open(tiny_study / f), dtype=np.float64) for f in run["files"]])
        for run in result["runs"][:2]
    ]
    mse = ((pictures[0] - pictures[1]) / 255) ** 2
    decibels = -10 * np.log10(mse.mean(axis=(1, 2, 3)))
    assert decibels == pytest.approx(result["runs"][1]["psnr_db"]["per_sample"], abs=0.2)


def test_a_drift_is_kept_for_every_quantized_run(tiny_study: Path) -> None:
    study = Study.open(tiny_study, read_only=True)
    drift = study.drift("rtn-w4a4")
    assert drift is not None
    assert len(drift["teacher_forced"]["guided"]) == 4
    assert len(drift["free_running"]) == 5
    assert drift["seeds"] == [0, 1, 2, 3]
    assert study.drift("full-precision") is None


def test_events_and_further_comparisons(tiny_dit: Path, tmp_path: Path) -> None:
    """One pass: progress rises to its total, every stage speaks, a rerun adds runs."""
    events: list[Event] = []
    out = tmp_path / "study"
    first = compare(request(tiny_dit, out, methods=["rtn", "rtn"], bits="w8a8,w4a8"), events.append)

    progress = [e for e in events if isinstance(e, Progress)]
    assert [e.done for e in progress] == sorted(e.done for e in progress)
    assert len({e.total for e in progress}) == 1
    assert progress[-1].done == progress[-1].total
    assert progress[-1].seconds_left == 0
    assert [e.run["name"] for e in events if isinstance(e, RunFinished)] == [
        "full-precision",
        "rtn-w8a8",
        "rtn-w4a8",
    ]
    stages = {e.name for e in events if isinstance(e, Stage)}
    assert stages == {"load", "preflight", "draw", "quantize", "trace"}
    previews = [e for e in events if isinstance(e, Preview)]
    assert previews
    assert previews[0].images.dtype == np.uint8
    assert previews[0].images.shape == (2, 16, 16, 3)
    assert events[-1].kind == "done"

    again = compare(request(tiny_dit, out))
    assert [r["name"] for r in again["runs"]] == ["full-precision-2", "rtn-w8a8-2"]
    study = Study.open(out)
    assert len(study.runs()) == 5
    assert study.result(first["comparison"]) == first
    assert again["runs"][1]["psnr_db"] == first["runs"][1]["psnr_db"]  # same seeds, same numbers


def test_cancelling_keeps_finished_runs(tiny_dit: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    finished: list[str] = []
    after: list[Event] = []

    def watch(event: Event) -> None:
        if isinstance(event, RunFinished):
            finished.append(event.run["name"])
        elif isinstance(event, Progress) and len(finished) == 2:
            after.append(event)

    asked = request(tiny_dit, out, methods=["rtn", "viditq"], bits="w4a8")
    with pytest.raises(Cancelled, match="2 finished runs stay"):
        compare(asked, watch, lambda: len(finished) == 2)
    assert len(after) <= 1  # within one step

    study = Study.open(out)
    assert [r["name"] for r in study.runs()] == ["full-precision", "rtn-w4a8"]
    assert study.comparisons()[0]["status"] == "cancelled"
    assert (out / "report.html").is_file()


def test_candidates_are_judged_like_methods(tiny_dit: Path, tmp_path: Path) -> None:
    """Our own checkpoint as a candidate draws exactly what its method drew."""
    asked = request(tiny_dit, tmp_path / "study", bits="w4a8")
    made = quantize_to(asked, tmp_path / "mine")
    both = asked.model_copy(update={"candidates": (tmp_path / "mine",)})
    full, ours, candidate = compare(both)["runs"]
    assert candidate["name"] == "mine"
    assert candidate["latent_rel_error"] == ours["latent_rel_error"]
    assert candidate["scope"] == ours["scope"]
    assert candidate["bits"] == "w4a8"
    assert candidate["bits_per_weight"] == pytest.approx(ours["bits_per_weight"])
    file = tmp_path / "mine" / "diffusion_pytorch_model.safetensors"
    assert candidate["size_bytes"] == file.stat().st_size == made["size_bytes"]
    assert ours["size_bytes"] == made["size_bytes"]
    assert full["size_bytes"] > ours["size_bytes"]


@pytest.mark.parametrize(("backend", "residency"), [("simulate", "memory"), ("integer", "speed")])
def test_runs_and_candidates_compute_as_they_were_asked(
    backend: str, residency: str, tiny_dit: Path, tmp_path: Path
) -> None:
    asked = request(tiny_dit, tmp_path / "study", bits="w4a8", backend=backend, residency=residency)
    quantize_to(asked, tmp_path / "mine")
    both = asked.model_copy(update={"candidates": (tmp_path / "mine",)})
    full, *runs = compare(both)["runs"]
    assert full["residency"] is None
    for run in runs:
        assert (run["backend"], run["residency"]) == (backend, residency)
        assert set(run["scope"]["why"].values()) == {f"{backend}: asked for"}
    assert runs[0]["latent_rel_error"] == runs[1]["latent_rel_error"]


def test_an_unquantized_candidate_is_identical(tiny_dit: Path, tmp_path: Path) -> None:
    asked = request(tiny_dit, tmp_path / "study", methods=[], bits=[], candidates=[tiny_dit])
    _, candidate = compare(asked)["runs"]
    assert candidate["psnr_db"]["identical"] is True
    assert candidate["psnr_db"]["mean"] is None
    assert candidate["scope"]["quantized"] == []
    assert candidate["bits_per_weight"] == 16


def test_a_candidate_whose_package_is_missing(tiny_dit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    config = {
        "_class_name": "DiTTransformer2DModel",
        "quantization_config": {"quant_method": "gguf"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(EnvironmentFault, match="pip install gguf"):
        compare(request(tiny_dit, tmp_path / "study", candidates=[folder]))
    assert not (tmp_path / "study").exists()


def test_a_plan_of_windows_for_another_sampler_is_said(tiny_dit: Path, tmp_path: Path) -> None:
    asked = request(tiny_dit, tmp_path / "study", windows=2)
    quantize_to(asked, tmp_path / "c")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(config["quantization_config"]["plan"]))
    planned = {"plan": file, "bits": []}
    same = compare(request(tiny_dit, tmp_path / "study", **planned))
    assert same["warnings"] == []
    assert same["runs"][1]["bits"] == "w8a8"
    other = compare(request(tiny_dit, tmp_path / "study", **planned, steps=3))
    assert "cut for another sampler" in other["warnings"][0]


def test_options_reach_the_methods_that_know_them(tiny_dit: Path, tmp_path: Path) -> None:
    asked = request(
        tiny_dit,
        tmp_path / "study",
        methods=["rtn", "viditq", "viditq"],
        bits="w4a8",
        options={"viditq.alpha": 0.25, "transform": "scale"},
    )
    runs = compare(asked)["runs"]
    assert runs[1]["options"] == {}
    assert runs[2]["options"]["alpha"] == 0.25
    assert runs[3]["name"] == "viditq-w4a8-2"
    assert {note["transform"] for note in runs[2]["choices"].values()} == {"scale"}


def test_too_little_memory_or_disk_is_said_with_numbers(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 10 * machine.MIB)
    with pytest.raises(EnvironmentFault, match=r"\d+ MiB of memory and 10 MiB are free"):
        compare(request(tiny_dit, tmp_path / "study"))
    monkeypatch.undo()
    monkeypatch.setattr(machine, "free_disk", lambda folder: machine.MIB)
    with pytest.raises(EnvironmentFault, match=r"\d+ MiB on disk and 1 MiB are free"):
        compare(request(tiny_dit, tmp_path / "study"))
    assert not (tmp_path / "study").exists()


def test_triton_without_a_gpu_is_an_environment_fault(tiny_dit: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="--backend auto"):
        compare(request(tiny_dit, tmp_path / "study", backend="triton", device="cpu"))


def test_a_request_is_plain_data_both_ways() -> None:
    asked = CompareRequest.parse({"model": "m", "methods": "rtn, viditq", "seeds": "0-2,9"})
    assert asked.methods == ("rtn", "viditq")
    assert asked.seeds == (0, 1, 2, 9)
    assert CompareRequest.parse(asked.to_json()) == asked
    with pytest.raises(BadInput, match="colour"):
        CompareRequest.parse({"model": "m", "colour": "red"})


def test_as_command_makes_the_same_request(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shlex

    from dqviz import cli

    asked = request(
        tiny_dit,
        tmp_path / "a study",
        methods=["rtn", "viditq"],
        bits="w4a4,w8a8",
        classes=["cat", "2"],
        options={"viditq.alpha": 0.5, "transform": "scale"},
        guidance=2.5,
        residency="memory",
        windows=2,
    )
    seen: list[CompareRequest] = []

    def catch(made: CompareRequest, *_: Any, **__: Any) -> None:
        seen.append(made)
        raise Cancelled("enough")

    monkeypatch.setattr("dqviz.comparison.compare", catch)
    assert cli.main(shlex.split(as_command(asked))[1:]) == 130
    assert seen == [asked]


def test_seeds_read_back() -> None:
    assert seeds_text((0, 1, 2, 8, 10, 11)) == "0-2,8,10-11"
