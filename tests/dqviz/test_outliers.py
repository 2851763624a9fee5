"""Synthetic outliers from the command line to the study: every record says so, nothing is mixed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from dqviz.capturing import CaptureRequest, capture
from dqviz.capturing import as_command as capture_command
from dqviz.cli import main
from dqviz.command_lines import as_command
from dqviz.comparison import compare
from dqviz.pages.compare.claims import headline
from dqviz.pages.compare.names import source_of
from dqviz.pages.exports import to_csv
from dqviz.request import CompareRequest
from dqviz.study import Study
from dqviz.study_folder import default_folder
from dqviz.work import KINDS
from quant.errors import BadInput
from quant.schema import Outliers

BADGE = "synthetic outliers (static x32)"


def request_of(tiny_dit: Path, out: Path | None, **changes: object) -> CompareRequest:
    return CompareRequest.parse(
        {
            "model": str(tiny_dit),
            "methods": ["rtn", "viditq"],
            "bits": "w8a8",
            "seeds": "0-1",
            "calibration_seeds": "100-101",
            "out": out,
            "ladder": False,
            "outliers": {"factor": 32},
            **changes,
        }
    )


@pytest.fixture(scope="module")
def compared(tiny_dit, tmp_path_factory):
    out = tmp_path_factory.mktemp("outliers") / "study"
    return compare(request_of(tiny_dit, out)), Study.open(out)


def test_every_run_says_so(compared):
    result, study = compared
    for run in result["runs"]:
        assert run["title"].endswith(BADGE)
        assert run["outliers"]["kind"] == "static"
        assert run["outliers"]["factor"] == 32
        assert run["outliers"]["seed"] == 0
        assert run["outliers"]["channels"] == 6
    assert study.manifest["model"]["title"] == f"Tiny random DiT, {BADGE}"
    assert study.manifest["model"]["outliers"] == result["runs"][0]["outliers"]
    assert "--outliers 32" in study.manifest["recipe"]["command"]


def test_the_report_says_so(compared):
    _, study = compared
    assert BADGE in (study.folder / "report.html").read_text(encoding="utf-8")


def test_pages_and_exported_tables_say_so(compared):
    result, _ = compared
    runs = result["runs"]
    assert "synthetic outliers" in [b["text"] for b in headline(result, runs)["badges"]]
    source = source_of(result, runs)
    assert BADGE in source.sentence()
    assert BADGE in to_csv([{"psnr": 1.0}], source)


def test_the_size_of_full_precision_is_that_of_the_file_it_came_from(compared, tiny_study):
    plain = Study.open(tiny_study).result()
    assert plain is not None
    assert compared[0]["runs"][0]["size_bytes"] == plain["runs"][0]["size_bytes"]


def test_plain_runs_say_that_they_have_none(tiny_study):
    study = Study.open(tiny_study)
    assert study.manifest["model"]["outliers"] is None
    result = study.result()
    assert result is not None
    assert all(run["outliers"] is None for run in result["runs"])
    assert not any("synthetic" in run["title"] for run in result["runs"])
    assert not any("synthetic" in b["text"] for b in headline(result, result["runs"])["badges"])
    assert "synthetic" not in source_of(result, result["runs"]).sentence()


def test_recipes_differ(compared, tiny_dit, tmp_path):
    plain = compare(request_of(tiny_dit, tmp_path / "plain", outliers=None, methods=["rtn"]))
    assert plain["runs"][1]["recipe"] != compared[0]["runs"][1]["recipe"]


@pytest.mark.parametrize(
    "other",
    [None, {"factor": 16}, {"factor": 32, "kind": "token"}, {"factor": 32, "seed": 1}],
    ids=str,
)
def test_a_study_never_mixes_them(compared, tiny_dit, other):
    _, study = compared
    request = request_of(tiny_dit, study.folder, outliers=other, methods=["rtn"])
    with pytest.raises(BadInput, match=r"is of Tiny random DiT, synthetic outliers \(static x32\)"):
        compare(request)
    with pytest.raises(BadInput, match="name another folder"):
        capture(
            CaptureRequest.parse(
                {"model": str(tiny_dit), "out": study.folder, "seeds": "7", "outliers": other}
            )
        )


def test_studies_have_folders_of_their_own():
    folders = {
        default_folder("dit-emoji", o)
        for o in (
            None,
            Outliers(factor=32),
            Outliers(factor=8),
            Outliers(factor=32, kind="token"),
            Outliers(factor=32, seed=1),
        )
    }
    assert len(folders) == 5
    assert default_folder("dit-emoji", Outliers(factor=32)).name == "dit-emoji-static-outliers-x32"


@pytest.mark.parametrize(
    "outliers",
    [None, {"factor": 32}, {"factor": 7.25, "kind": "drifting"}, {"factor": 2, "seed": 9}],
    ids=str,
)
def test_a_request_and_its_command_line_are_the_same(outliers, tmp_path, monkeypatch):
    """The printed command, parsed again, asks for the same thing."""
    asked: list[object] = []
    monkeypatch.setattr(
        "dqviz.comparison.compare", lambda request, *_, **__: asked.append(request) or exit_now()
    )
    monkeypatch.setattr(
        "dqviz.capturing.capture", lambda request, *_, **__: asked.append(request) or exit_now()
    )
    first = request_of(tmp_path, None, outliers=outliers)
    second = CaptureRequest.parse({"model": str(tmp_path), "outliers": outliers})
    for command in (as_command(first), capture_command(second)):
        with pytest.raises(SystemExit):
            main(shlex.split(command)[1:])
    assert [getattr(r, "outliers", "?") for r in asked] == [first.outliers, second.outliers]


def exit_now() -> None:
    raise SystemExit(0)


def test_jobs_say_so(tiny_dit):
    for kind, request in (
        ("compare", request_of(tiny_dit, None)),
        ("capture", CaptureRequest.parse({"model": str(tiny_dit), "outliers": {"factor": 32}})),
    ):
        title, folder = KINDS[kind].describe(request.to_json())
        assert BADGE in title
        assert folder.name == "tiny-dit-static-outliers-x32"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--outliers", "1"], "greater than 1"),
        (["--outliers", "4000"], "less than or equal to 1024"),
        (["--outliers", "32", "--outliers-kind", "statik"], "nearest: static"),
        (["--outliers-kind", "token"], "go with --outliers F"),
        (["--outliers", "32", "--outliers-kind", "token"], "only --outliers-kind static"),
    ],
)
def test_bad_input_is_one_line(tiny_dit, tmp_path, capsys, words, message):
    out = tmp_path / "out"
    command = ["quantize", str(tiny_dit), "--method", "rtn", "--bits", "w8a8", "--out", str(out)]
    assert main([*command, *words]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not out.exists()


def test_static_checkpoints_are_compared_with_their_own_model(tiny_dit, tmp_path, capsys):
    """Written by quantize, read by plain diffusers as a candidate; refused beside the plain model."""
    out = tmp_path / "checkpoint"
    words = ["--method", "rtn", "--bits", "w8a8", "--out", str(out), "--outliers", "32", "--json"]
    assert main(["quantize", str(tiny_dit), *words]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["outliers"]["factor"] == 32
    changes = {"methods": ["rtn"], "candidates": [out]}
    result = compare(request_of(tiny_dit, tmp_path / "study", **changes))
    ours, theirs = result["runs"][1:]
    assert theirs["psnr_db"]["per_sample"] == ours["psnr_db"]["per_sample"]
    assert theirs["size_bytes"] == ours["size_bytes"]
    with pytest.raises(
        BadInput, match="with static x32 outliers, this comparison is of one with no"
    ):
        compare(request_of(tiny_dit, tmp_path / "plain", outliers=None, **changes))
    assert main(["generate", str(out), "--out", str(tmp_path / "p"), "--outliers", "32"]) == 2
    assert "whose weights are fixed" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["drifting", "token"])
def test_wrapped_kinds_are_compared_and_captured(tiny_dit, tmp_path, kind):
    outliers = {"factor": 32, "kind": kind}
    changes = {"outliers": outliers, "methods": ["rtn"]}
    result = compare(request_of(tiny_dit, tmp_path / "study", **changes))
    assert result["runs"][1]["outliers"]["kind"] == kind
    made = capture(
        CaptureRequest.parse(
            {
                "model": str(tiny_dit),
                "out": tmp_path / "study",
                "seeds": "7-8",
                "outliers": outliers,
                "method": "viditq",
                "bits": "w8a8",
                "calibration_seeds": "100-101",
            }
        )
    )
    assert made["outliers"]["kind"] == kind
