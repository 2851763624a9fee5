"""A model that draws clips, from the command line to the study: every stage takes the frames along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dqviz import clips
from dqviz.cli import main
from dqviz.comparison import compare
from dqviz.events import Preview
from dqviz.pages.activations.selection import kept_rows, row_filters
from dqviz.request import CompareRequest
from dqviz.study import Study
from dqviz.worker import frame
from quant.errors import Cancelled

FAMILY = "latte"


def request(model: Path, out: Path) -> CompareRequest:
    return CompareRequest.parse(
        {
            "model": str(model),
            "methods": "rtn",
            "bits": "w4a8",
            "seeds": "0-1",
            "negative": "blurry",
            "calibration_seeds": "100",
            "ladder": False,
            "out": out,
        }
    )


@pytest.fixture(scope="module")
def compared(
    pipelines: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Study, list[Preview]]:
    out, previews = tmp_path_factory.mktemp("clips") / "study", []

    def watch(event: object) -> None:
        if isinstance(event, Preview):
            previews.append(event)

    result = compare(request(pipelines[FAMILY], out), watch, key="job")
    return result, Study.open(out), previews


def test_runs_hold_clips_with_numbers_over_time(compared: Any) -> None:
    result, study, _ = compared
    reference, run = result["runs"]
    count = run["clip"]["frames"]
    assert reference["clip"] == run["clip"]
    assert count > 1
    assert reference["flicker"] is None
    for key in ("psnr_db", "ssim", "frame_psnr_db", "flicker", "frame_drift", "latent_rel_error"):
        assert run[key]["mean"] is not None, key
    assert len(run["frame_psnr_db"]["per_frame"]) == count
    for name in ("full-precision", run["name"]):
        for file in study.images(name):
            frames = clips.frames_of(file.read_bytes())
            assert frames.shape == (count, run["clip"]["height"], run["clip"]["width"], 3)
            assert (frames[0] != frames[1]).any()
    assert study.drift(run["name"])["free_running"][-1] > 0  # pyright: ignore
    assert (study.folder / "report.html").is_file()


def test_previews_are_clips_and_a_page_gets_their_middle_frames(compared: Any) -> None:
    previews = compared[2]
    assert previews
    assert previews[0].images.ndim == 5
    told = json.loads(frame(previews[0]))
    assert len(told["images"]) == len(previews[0].samples)


def test_a_stopped_comparison_of_clips_ends_with_the_same_numbers(
    compared: Any, pipelines: dict[str, Path], tmp_path: Path
) -> None:
    asked = request(pipelines[FAMILY], tmp_path / "study")
    stop: list[bool] = []

    def watch(event: Any) -> None:
        if event.kind == "run":
            stop.append(True)

    with pytest.raises(Cancelled):
        compare(asked, watch, lambda: bool(stop), key="job")
    ended = compare(asked, key="job")
    whole = compared[0]["runs"][1]
    assert ended["runs"][1]["flicker"] == whole["flicker"]
    assert ended["runs"][1]["psnr_db"] == whole["psnr_db"]


def test_generate_writes_clips(
    pipelines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "drawn"
    code = main(["generate", str(pipelines[FAMILY]), "--seeds", "3", "--out", str(out), "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert printed.err.count("\n") <= 1, "no bars of other libraries"
    made = json.loads(printed.out)
    (file,) = out.iterdir()
    with Image.open(file) as image:
        assert getattr(image, "n_frames", 1) == made["clip"]["frames"]
    assert np.ptp(clips.frames_of(file.read_bytes())) > 0


def test_attention_over_space_time_and_text_are_groups_of_a_capture(
    pipelines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    code = main(["capture", str(pipelines[FAMILY]), "--samples", "1", "--study", str(out)])
    assert code == 0, capsys.readouterr().err
    study = Study.open(out)
    seen = study.capture(study.captures()[0]["name"])
    filters = {key: label for key, label, _ in row_filters(seen)}
    assert filters["part:self"] == "spatial attention"
    assert filters["part:temporal"] == "temporal attention"
    assert filters["part:cross"] == "cross-attention"
    roles = {
        key: {seen.inputs[i].roles[0].partition("_")[0] for i in kept_rows(seen, key)}
        for key in filters
    }
    assert roles["part:temporal"] == roles["group:temporal"] == {"temporal"}
    assert roles["part:self"] == {"self"}
