"""Clips on disk and on a page: no pixel and no frame is lost, and pictures stay what they were."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dqviz import clips
from dqviz.pages.pictures import data_urls, still_urls
from dqviz.study import NewRun, Study

MODEL = {"key": "tiny", "fingerprint": "0123", "weights": "abcd"}


def frames(count: int = 6, height: int = 10, width: int = 14) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def decoded(url: str) -> np.ndarray:
    png = base64.b64decode(url.partition(",")[2])
    with Image.open(io.BytesIO(png)) as image:
        assert getattr(image, "n_frames", 1) == 1
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("equal", ["none", "some", "all"])
def test_every_frame_comes_back_as_it_was_equal_ones_too(tmp_path: Path, equal: str) -> None:
    clip = frames()
    if equal == "some":
        clip[2] = clip[1]
        clip[5] = clip[4]
    if equal == "all":
        clip[:] = 0
    clips.write(tmp_path / "clip.png", clip, {"seed": 3})
    png = (tmp_path / "clip.png").read_bytes()
    assert clips.is_clip(png)
    assert (clips.frames_of(png) == clip).all()
    with Image.open(tmp_path / "clip.png") as image:
        assert image.info["dqviz"] == '{"seed":3}'
        assert image.info["duration"] == 125  # 8 frames per second


def test_a_picture_stays_a_plain_picture(tmp_path: Path) -> None:
    clips.write(tmp_path / "picture.png", frames(1)[0])
    clips.write(tmp_path / "one-frame.png", frames(1))
    for name in ("picture.png", "one-frame.png"):
        png = (tmp_path / name).read_bytes()
        assert not clips.is_clip(png)
        assert (clips.frames_of(png) == frames(1)).all()
    (url,) = data_urls([tmp_path / "picture.png"])
    assert base64.b64decode(url.partition(",")[2]) == (tmp_path / "picture.png").read_bytes()


def test_a_sheet_holds_the_frames_row_by_row(tmp_path: Path) -> None:
    clip = frames(6)
    clips.write(tmp_path / "clip.png", clip)
    (url,) = data_urls([tmp_path / "clip.png"])
    whole, lay = decoded(url), clips.Sheet.of(6, 10, 14)
    assert (lay.columns, lay.shrunk) == (3, 1)
    assert whole.shape == (2 * 10, 3 * 14, 3)
    for index, frame in enumerate(clip):
        row, column = divmod(index, 3)
        part = whole[row * 10 : row * 10 + 10, column * 14 : column * 14 + 14]
        assert (part == frame).all()
    (poster,) = still_urls([tmp_path / "clip.png"])
    assert (decoded(poster) == clip[3]).all()
    assert data_urls([tmp_path / "gone.png"]) == still_urls([tmp_path / "gone.png"]) == [""]


@pytest.mark.parametrize("shape", [(16, 512, 512), (49, 480, 720), (81, 480, 832), (2, 8, 8)])
def test_sheets_are_bounded_and_shapes_agree(shape: tuple[int, int, int]) -> None:
    count, height, width = shape
    lay = clips.Sheet.of(*shape)
    assert count * lay.width * lay.height <= 1.1 * clips.SHEET_PIXELS
    assert (lay.shrunk == 1) == (count * height * width <= clips.SHEET_PIXELS)
    if count * height * width < 2**22:
        made = decoded(
            "," + base64.b64encode(clips.sheet(np.zeros((*shape, 3), np.uint8))).decode()
        )
        assert made.shape[1] == lay.columns * lay.width


def test_a_study_holds_clips_and_says_so(tmp_path: Path) -> None:
    study = Study.create(tmp_path / "study", MODEL, {"dqviz": "0"})
    number = study.begin({"model": "tiny"}, {})
    record = {"name": "rtn", "method": "rtn", "bits": "w4a4"}
    pixels = np.stack([frames(), frames()[::-1]])
    study.add_run(number, NewRun("rtn", record, {}, [3, 5], pixels))
    study.add_run(
        number, NewRun("pictures", {**record, "name": "pictures"}, {}, [3], pixels[:1, 0])
    )

    run = Study.open(study.folder).run("rtn")
    assert run["clip"] == {"frames": 6, "height": 10, "width": 14, "fps": 8}
    assert run["files"] == ["images/rtn/3.png", "images/rtn/5.png"]
    held = [clips.frames_of(file.read_bytes()) for file in study.images("rtn")]
    assert (np.stack(held) == pixels).all()
    assert clips.sheet_of(run) == clips.Sheet.of(6, 10, 14)
    assert "clip" not in study.run("pictures")
    assert clips.sheet_of(study.run("pictures")) is None


def test_the_still_of_a_clip_is_its_middle_frame() -> None:
    clip = frames(5)
    assert (clips.still(clip) == clip[2]).all()
    assert (clips.still(clip[0]) == clip[0]).all()
