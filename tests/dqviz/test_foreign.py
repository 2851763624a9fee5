"""`dqviz export`: the JSON of every format, and windows that are counted in steps of the model's sampler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dqviz
from dqviz.cli import main
from quant.exports import list_exports
from quant.loading import load_model
from quant.plans import uniform_plan
from quant.schema import parse_bits


@pytest.fixture(scope="module")
def folders(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints: a plain one, and one whose first of four windows takes its input in 16 bit."""
    root = tmp_path_factory.mktemp("checkpoints")
    plan = uniform_plan(load_model(str(tiny_dit), device="cpu"), parse_bits("w8a8"), windows=4)
    sites = {
        name: site.model_copy(update={"activations": (None, *site.activations[1:])})
        for name, site in plan.sites.items()
    }
    file = root / "plan.json"
    file.write_text(json.dumps(plan.model_copy(update={"sites": sites}).to_json()))
    quantize = ["quantize", str(tiny_dit), "--method", "rtn"]
    assert main([*quantize, "--bits", "w4a8", "--out", str(root / "plain")]) == 0
    assert main([*quantize, "--plan", str(file), "--out", str(root / "windows")]) == 0
    return {"plain": root / "plain", "windows": root / "windows"}


def exported(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    code = main(["export", *argv, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out), printed.err


@pytest.mark.parametrize("key", list_exports())
def test_the_json_names_files_bytes_and_losses(key, folders, tmp_path, capsys):
    out = tmp_path / f"made{list_exports()[key].suffix}"
    found, _ = exported(capsys, str(folders["plain"]), "--to", key, "--out", str(out))
    assert (found["out"], found["format"]) == (str(out), key)
    assert found["size_bytes"] == sum(Path(file).stat().st_size for file in found["files"])
    keys = {"site", "lost", "written", "dequantized"}
    assert all(set(loss) == keys for loss in found["lossy"])
    again = dqviz.export_to(folders["plain"], key, tmp_path / f"again{out.suffix}")
    assert again["lossy"] == found["lossy"]


def test_people_read_what_is_lost(folders, tmp_path, capsys):
    argv = ["export", str(folders["plain"]), "--to", "torchao", "--out", str(tmp_path / "a")]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "12 sites not as in the checkpoint" in printed
    assert "dequantized" not in printed
    assert "and 7 more" in printed
    argv = ["export", str(folders["plain"]), "--to", "dqviz", "--out", str(tmp_path / "b")]
    assert main(argv) == 0
    assert "nothing is lost" in capsys.readouterr().out


def test_sites_that_were_dequantized_are_told_in_sum_first(tiny_dit, tmp_path, capsys):
    made = [
        "quantize",
        str(tiny_dit),
        "--method",
        "quarot",
        "--bits",
        "w4a8",
        "--out",
        str(tmp_path / "q"),
    ]
    assert main(made) == 0
    for key in ("torchao", "comfyui"):
        out = tmp_path / f"{key}{list_exports()[key].suffix}"
        capsys.readouterr()
        assert main(["export", str(tmp_path / "q"), "--to", key, "--out", str(out)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert (
            lines[1].strip()
            == "12 sites were dequantized: ordinary layers in full size, without the savings"
        )
        assert "->" in lines[2]


@pytest.mark.parametrize(
    ("dequantized", "said"),
    [
        (1, "1 site was dequantized: an ordinary layer in full size, without the savings"),
        (2, "2 sites were dequantized: ordinary layers in full size, without the savings"),
    ],
)
def test_a_loss_says_itself_whether_it_is_dequantized(dequantized, said, monkeypatch, capsys):
    """And not by how a sentence about it begins."""
    lossy = [
        {"site": f"s{n}", "lost": "w4", "written": "dequantized, or so", "dequantized": n < dequantized}
        for n in range(3)
    ]  # fmt: skip
    made = {"out": "o", "format": "f", "size_bytes": 1, "lossy": lossy, "warnings": []}
    monkeypatch.setattr("dqviz.foreign.export_to", lambda *_, **__: made)
    assert main(["export", "checkpoint", "--to", "f", "--out", "o"]) == 0
    assert capsys.readouterr().out.splitlines()[1].strip() == said


def test_a_step_policy_says_what_it_does_not_carry(folders, tiny_dit, tmp_path, capfd):
    """And is as quiet on stderr as others, though it loads a pipeline."""
    out = tmp_path / "policy.json"
    line = [str(folders["windows"]), "--to", "step-policy", "--base", str(tiny_dit), "--out"]
    capfd.readouterr()
    assert main(["export", *line, str(out)]) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    assert "12 sites not as in the checkpoint" in printed.out
    assert "no weights and no formats" in printed.out
    found = dqviz.export_to(
        folders["windows"], "step-policy", tmp_path / "b.json", base=str(tiny_dit)
    )
    assert len(found["lossy"]) == 12
    assert all("int8" in loss["lost"] for loss in found["lossy"])


def test_an_unknown_format_is_told_the_formats(folders, tmp_path, capsys):
    argv = ["export", str(folders["plain"]), "--to", "zzz", "--out", str(tmp_path / "c")]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(key in said for key in list_exports())


def steps_of(file: Path) -> tuple[int, int]:
    policy = json.loads(file.read_text())["quantization_config"]["runtime"]["diffusion_step_policy"]
    return policy["first_steps"]["count"], policy["last_steps"]["count"]


def test_windows_are_counted_in_steps_of_the_models_sampler(folders, tiny_dit, tmp_path, capsys):
    argv = [str(folders["windows"]), "--to", "step-policy", "--base", str(tiny_dit), "--out"]
    _, said = exported(capsys, *argv, str(tmp_path / "four.json"))
    assert steps_of(tmp_path / "four.json") == (1, 0)
    assert said == ""
    _, said = exported(capsys, *argv, str(tmp_path / "eight.json"), "--steps", "8")
    assert steps_of(tmp_path / "eight.json") == (2, 0)
    assert "cut for another sampler" in said


def test_a_pipeline_that_is_not_known_is_said(folders, tmp_path, capsys):
    argv = ["export", str(folders["windows"]), "--to", "step-policy"]
    argv += ["--out", str(tmp_path / "x.json")]
    for base, wanted in (([], "give --base"), (["--base", "dit-emojy"], "nearest: dit-emoji")):
        assert main([*argv, *base]) == 2
        assert wanted in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_sampler_for_a_format_that_counts_nothing_is_bad_input(folders, tmp_path, capsys):
    argv = ["export", str(folders["plain"]), "--to", "torchao", "--out", str(tmp_path / "x")]
    assert main([*argv, "--steps", "8"]) == 2
    assert "step-policy" in capsys.readouterr().err
