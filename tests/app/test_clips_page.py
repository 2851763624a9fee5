"""The Compare page of clips: sheets instead of pictures, numbers over time; pictures stay as they are."""

from __future__ import annotations

import base64
import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dqviz.pages import compare as page
from dqviz.report import report_view
from dqviz.studies import with_samples
from dqviz.study import Study
from dqviz.ui.form import Form
from dqviz.ui.library import Library
from dqviz.ui.tour import toured
from tests.clips import PROMPTS, write_clip_study

Result = dict[str, Any]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_clip_study(tmp_path_factory.mktemp("clips") / "clips", seeds=(0, 1, 2, 3, 4))


def test_a_comparison_of_clips_says_how_its_sheets_lie_and_shows_few_at_first(study: Study) -> None:
    view = Library(pinned=study.folder).view(study)
    pictures = view.section("pictures")
    assert pictures["title"] == "Clips"
    assert pictures["clip"] == {
        "frames": 6,
        "width": 36,
        "height": 24,
        "columns": 3,
        "shrunk": 1,
        "fps": 8,
    }
    assert pictures["page"] == 4
    assert [len(images) for images in pictures["images"]] == [4, 4, 4]
    assert "6 frames of 36 × 24 pixels" in view.section("headline")["facts"]


def test_prompts_are_labels_and_negative_prompts_stand_with_them(study: Study) -> None:
    result = with_samples(study.result(), study)
    asked = {"status": "running", "model": {}, "request": study.result()["request"], "runs": []}
    for shown in (page.render(result), page.render(asked)):  # with and before the first run
        samples = shown.section("pictures")["samples"]
        assert samples[0] == {"seed": 0, "label": PROMPTS[0][0], "negative": "blurry"}
        assert samples[1] == {"seed": 1, "label": PROMPTS[1][0]}


def test_frames_and_motion_have_sections_of_their_own(study: Study) -> None:
    view = page.render(study.result())
    figure = view.section("plot", "Frame by frame")
    assert [len(line["x"]) for line in figure["figure"]["data"]] == [6, 6]
    assert figure["csv"].count("\n") >= 12
    rtn, viditq = view.section("table", "Over time")["rows"]
    assert rtn["cells"][0]["text"] == "RTN"
    better = [float(cells["cells"][1]["text"]) for cells in (rtn, viditq)]
    flicker = [float(cells["cells"][3]["text"]) for cells in (rtn, viditq)]
    assert better[0] < better[1]
    assert flicker[0] > flicker[1] > 0
    note = view.section("table", "Quality, size, time")["note"]
    assert "pictures" not in note


def test_a_comparison_of_pictures_has_none_of_it(result: Result) -> None:
    view = page.render(result)
    assert "clip" not in view.section("pictures")
    assert view.section("pictures")["page"] == 8
    assert "Frame by frame" not in str(view.sections)
    assert "Over time" not in str(view.sections)


def test_clips_without_numbers_have_no_curve(study: Study) -> None:
    result = copy.deepcopy(study.result())
    for run in result["runs"]:
        for key in ("frame_psnr_db", "flicker", "frame_drift", "worst_frame_ssim"):
            run[key] = None
    view = page.render(result)
    assert "Frame by frame" not in str(view.sections)
    cells = view.section("table", "Over time")["rows"][0]["cells"]
    assert [c["sub"] for c in cells[1:]] == ["not available"] * 4


def test_a_report_carries_the_first_clips_and_says_so(study: Study) -> None:
    pictures = report_view(study).section("pictures")
    assert len(pictures["samples"]) == 4
    assert "The first 4 of 5 samples" in pictures["lede"]
    assert all(len(images) == 4 for images in pictures["images"])


def test_a_large_clip_is_shown_smaller_and_the_page_says_so(study: Study) -> None:
    result = copy.deepcopy(study.result())
    for run in result["runs"]:
        run["clip"] = {"frames": 16, "height": 512, "width": 512, "fps": 8}
    pictures = page.render(result).section("pictures")
    assert pictures["clip"]["width"] == 256
    assert "1/2 of their size" in pictures["lede"]


def test_more_clips_come_as_sheets(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(pinned=Path(study.folder))
    query = {"study": "clips", "comparison": 1, "first": 4, "count": 4}
    more = library.pictures(query)["images"]
    assert [len(urls) for urls in more] == [1, 1, 1]
    assert more[0][0].startswith("data:image/png;base64,")


def test_the_form_asks_for_negatives_size_and_frames_and_reads_them_back() -> None:
    form = Form(
        model="tiny",
        runs=[{"method": "rtn", "bits": "w4a8"}],
        seeds="0-1",
        classes=(),
        prompts="a fox ||| blurry\n\n two boats ",
        steps=None,
        guidance=None,
        negative=" grey ",
        size="48x64",
        frames=" 9 ",
    )
    request = form.request()
    assert request.prompts == ("a fox ||| blurry", "two boats")
    assert (request.negative, request.size, request.frames) == ("grey", (48, 64), 9)
    assert "--negative grey --size 48x64 --frames 9" in form.command()
    again = Form.of_request(request)
    assert (again.negative, again.size, again.frames) == ("grey", "48x64", "9")
    wrong = replace(form, size="big").command()
    assert wrong.startswith("# size 'big'")
    empty = replace(form, negative=" ", size="", frames="").request()
    assert (empty.negative, empty.size, empty.frames) == (None, None, None)


@pytest.mark.parametrize(("text", "frames"), [("", None), ("0", None), (" 16 ", 16)])
def test_no_frames_or_none_is_the_models_own(text: str, frames: int | None) -> None:
    runs = [{"method": "rtn", "bits": "w4a8"}]
    form = Form("tiny", runs, "0-1", (), "", None, None, frames=text)
    assert form.request().frames == frames
    assert ("--frames" in form.command()) is (frames is not None)
    for wrong in ("7.5", "-3", "many"):
        assert (
            replace(form, frames=wrong).command()
            == f"# frames '{wrong}' is not a whole number; leave the box blank for the model's own"
        )


def test_clips_are_called_clips(study: Study) -> None:
    view = page.render(study.result())
    assert "s/clip" in str(view.section("table", "Quality, size, time")["columns"])
    assert "move its clips" in str(view.sections)
    shown = str([{**s, "csv": "", "latex": ""} for s in view.sections if s["kind"] != "pictures"])
    assert "picture" not in shown.replace("pictures'", "")
    while_drawing = {"request": {"seeds": [0], "frames": 6}, "planned": []}
    assert page.render(while_drawing).section("pictures")["title"] == "Clips"
    known = {"model": {"draws": "video"}, "request": {"seeds": [0]}, "planned": []}
    assert page.render(known).section("pictures")["title"] == "Clips"


def test_without_a_classifier_there_is_no_column_of_it(study: Study, result: Result) -> None:
    judged = {**result, "runs": [{**run, "class_accuracy": 0.5} for run in result["runs"]]}
    columns = [c["label"] for c in page.render(judged).section("table")["columns"]]
    assert "Right class" in columns
    table = page.render(study.result()).section("table", "Quality, size, time")
    assert "Right class" not in [c["label"] for c in table["columns"]]
    assert all(len(row["cells"]) == len(table["columns"]) for row in table["rows"])


def test_the_tour_of_clips_shows_pictures_that_stand_still(study: Study) -> None:
    url = toured(study, None).section("tour")["stops"][0]["images"][0]
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        assert image.size == (36, 24)
        assert getattr(image, "n_frames", 1) == 1
