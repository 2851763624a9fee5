"""Prompts, negative prompts, sizes and frames: what is asked for is what is drawn, and it is written down."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from dqviz.capturing import CaptureRequest
from dqviz.capturing import as_command as capture_command
from dqviz.cli import main
from dqviz.command_lines import as_command
from dqviz.drawing import samples_of
from dqviz.prompts import negatives, read_prompts, split
from dqviz.request import CompareRequest, ModelRequest, check_drawing
from dqviz.study import Study
from quant.errors import BadInput
from quant.schema import Sample

FOX, BOATS = "a red fox ||| blurry, text", "two boats"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a fox", ("a fox", None)),
        ("a fox ||| blurry", ("a fox", "blurry")),
        ("a fox |||", ("a fox", "")),
        ("a | b || c", ("a | b || c", None)),
    ],
)
def test_three_bars_part_a_prompt_from_what_it_leaves_out(text: str, wanted: object) -> None:
    assert split(text) == wanted


def test_a_prompts_own_negative_goes_before_the_common_one() -> None:
    assert negatives([FOX, BOATS], None) == ["blurry, text", None]
    assert negatives([FOX, BOATS, "c |||"], "grey") == ["blurry, text", "grey", ""]
    assert negatives([BOATS], "grey") == "grey"
    assert negatives([BOATS], None) is None


def test_a_file_has_one_prompt_per_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(f"\ufeff{FOX}\n\n  {BOATS}  \nein Fuchs im Schnee, schön\n", encoding="utf-8")
    assert read_prompts(file) == (FOX, BOATS, "ein Fuchs im Schnee, schön")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no file of prompts"),
        (b"\n  \n", "is empty"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a fox\n||| blurry\n", "line 2"),
        (b"a ||| b ||| c\n", "more than one"),
        (b"a" * 3000, "3000 characters"),
    ],
)
def test_a_file_that_is_no_list_of_prompts_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadInput, match=words) as refused:
        read_prompts(file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": "big"}, "height x width"),
        ({"size": "4x512"}, "4x512"),
        ({"frames": 0}, "frames 0"),
        ({"frames": 9999}, "1 to 1024"),
        ({"prompts": ["||| blurry"]}, "is empty"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_a_model_is_loaded(fields: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        check_drawing(ModelRequest.parse({"model": "m", **fields}))


def test_a_command_makes_the_request_again_and_old_requests_are_what_they_were() -> None:
    request = CompareRequest.parse(
        {
            "model": "m",
            "methods": "rtn",
            "bits": "w4a8",
            "prompts": [FOX, BOATS],
            "negative": "it's grey",
            "size": "480x720",
            "frames": 16,
        }
    )
    words = shlex.split(as_command(request))
    for pair in (["--prompt", FOX], ["--negative", "it's grey"], ["--size", "480x720"]):
        at = words.index(pair[0])
        assert words[at : at + 2] == pair
    assert words[words.index("--frames") + 1] == "16"
    capture = CaptureRequest.parse({"model": "m", "negative": "grey", "size": "512", "frames": 4})
    assert "--negative grey --size 512x512 --frames 4" in capture_command(capture)
    assert CompareRequest.parse(json.loads(json.dumps(request.to_json()))) == request

    old = CompareRequest(model="m", prompts=("a",)).to_json()
    assert {"negative", "size", "frames"}.isdisjoint(old)


class Recorder:
    """Stands for a model: keeps what it is asked for."""

    def samples(self, *given: Any) -> tuple[Sample, ...]:
        self.given = given
        return ()


def test_samples_take_prompts_and_negatives_in_turn() -> None:
    model = Recorder()
    request = ModelRequest(model="m", prompts=(FOX, BOATS), negative="grey")
    samples_of(model, request, (1, 2))  # pyright: ignore
    assert model.given == ((1, 2), None, ["a red fox", "two boats"], ["blurry, text", "grey"])
    samples_of(model, ModelRequest(model="m", classes=("cat",)), (1,))  # pyright: ignore
    assert model.given == ((1,), ("cat",), None, None)


def test_a_comparison_of_prompts_from_a_file_holds_them(
    pipelines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "prompts.txt", tmp_path / "study"
    file.write_text(f"{FOX}\n{BOATS}\n", encoding="utf-8")
    drawn = ["--seeds", "0-2", "--calibration-seeds", "100", "--no-ladder", "--size", "16x16"]
    texts = ["--prompts-file", str(file), "--negative", "grey"]
    model = str(pipelines["pixart-sigma"])
    code = main(
        ["compare", model, "-m", "rtn", "-b", "w4a8", *drawn, *texts, "--out", str(out), "--json"]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    result = json.loads(printed.out)
    assert result["runs"][1]["psnr_db"]["mean"] > 0
    assert result["request"]["prompts"] == [FOX, BOATS]
    recipe = Study.open(out).recipe("rtn-w4a8")
    assert [(s["prompt"], s.get("negative")) for s in recipe["samples"]] == [
        ("a red fox", "blurry, text"),
        ("two boats", "grey"),
        ("a red fox", "blurry, text"),
    ]
    assert recipe["sampler"]["size"] == [16, 16]


def test_generated_pictures_are_named_by_seed_and_prompt(
    pipelines: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = str(pipelines["pixart-sigma"]), tmp_path / "drawn"
    code = main(
        ["generate", model, "--seeds", "3", "--prompt", "A fox/../; <b>", "--out", str(out)]
    )
    assert code == 0, capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["3-a-fox-..-b.png"]
