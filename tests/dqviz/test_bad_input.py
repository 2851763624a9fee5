"""Everything that people get wrong: exit code 2, one line that helps, and nothing written over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from dqviz.cli import main

WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Place:
    """What a case may name: a model, a good checkpoint, an empty corner of the disk."""

    model: Path
    checkpoint: Path
    tmp: Path

    @property
    def out(self) -> Path:
        return self.tmp / "out"

    def compare(self, *more: str) -> list[str]:
        """A comparison that would work, with `more` to spoil it."""
        given = [] if "--method" in more else ["--method", "rtn"]
        given += [] if {"--bits", "--plan"} & set(more) else ["--bits", "w4a8"]
        return ["compare", str(self.model), *given, "--out", str(self.out), *more]

    def capture(self, *more: str) -> list[str]:
        """A capture that would work, with `more` to spoil it."""
        return ["capture", str(self.model), "--study", str(self.out), *more]

    def draw(self, checkpoint: Path) -> list[str]:
        """Drawing with a checkpoint."""
        command = ["generate", str(checkpoint), "--base", str(self.model)]
        return [*command, "--out", str(self.out), "--seeds", "0"]

    def copied(self, folder: Path) -> Path:
        """A copy of a folder, to be damaged."""
        return Path(shutil.copytree(folder, self.tmp / "damaged"))

    def plan(self, change: Callable[[dict[str, Any]], None]) -> str:
        """A valid plan of the model with one thing changed."""
        config = json.loads((self.checkpoint / "config.json").read_text())
        plan = config["quantization_config"]["plan"]
        change(plan)
        file = self.tmp / "plan.json"
        file.write_text(json.dumps(plan))
        return str(file)


def flipped_byte(place: Place) -> list[str]:
    folder = place.copied(place.checkpoint)
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-100] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    return place.draw(folder)


def truncated(place: Place) -> list[str]:
    folder = place.copied(place.checkpoint)
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1000])
    return place.draw(folder)


def retensored(place: Place, change: Callable[[dict[str, Any]], None]) -> list[str]:
    folder = place.copied(place.checkpoint)
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return place.draw(folder)


def extra_tensor(place: Place) -> list[str]:
    def add(tensors: dict[str, Any]) -> None:
        tensors["visitor"] = next(iter(tensors.values())).clone()

    return retensored(place, add)


def missing_tensor(place: Place) -> list[str]:
    return retensored(place, lambda tensors: tensors.pop("proj_out_2.weight"))


def nan_in_weights(place: Place) -> list[str]:
    folder = place.copied(place.model)
    file = folder / "transformer" / WEIGHTS
    tensors = load_file(file)
    tensors["proj_out_2.weight"][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    return ["compare", str(folder), *place.compare()[2:]]


def not_safetensors(place: Place) -> list[str]:
    folder = place.copied(place.model)
    (folder / "transformer" / WEIGHTS).write_text("these are not the weights you look for" * 9)
    return ["compare", str(folder), *place.compare()[2:]]


def somebodys_files(place: Place) -> list[str]:
    place.out.mkdir()
    (place.out / "thesis.txt").write_text("six years of work")
    return place.compare()


def somebodys_file(place: Place) -> list[str]:
    file = place.tmp / "thesis.json"
    file.write_text("{}")
    return ["export", str(place.checkpoint), "--to", "ggufy", "--out", str(file)]


def somebodys_checkpoint_folder(place: Place) -> list[str]:
    place.out.mkdir()
    (place.out / "thesis.txt").write_text("six years of work")
    command = ["quantize", str(place.model), "--method", "rtn", "--bits", "w8a8"]
    return [*command, "--out", str(place.out)]


def a_file_as_folder(place: Place) -> list[str]:
    place.out.write_text("a file")
    return place.compare()


def unknown_site(place: Place) -> list[str]:
    def rename(plan: dict[str, Any]) -> None:
        sites = plan["sites"]
        sites["transformer_blocks.0.attn1.to_queue"] = sites.pop("transformer_blocks.0.attn1.to_q")

    return place.compare("--plan", place.plan(rename))


def other_models_plan(place: Place) -> list[str]:
    return place.compare("--plan", place.plan(lambda plan: plan.update(model="0123456789abcdef")))


def plan_is_not_json(place: Place) -> list[str]:
    file = place.tmp / "plan.json"
    file.write_text("w4a8 everywhere, please")
    return place.compare("--plan", str(file))


def shape_of_a_group(place: Place) -> list[str]:
    def regroup(plan: dict[str, Any]) -> None:
        weight = plan["sites"]["transformer_blocks.0.attn1.to_q"]["weight"]
        weight.update(granularity="group", group_size=48)

    return place.compare("--plan", place.plan(regroup))


def plan_and_bits(place: Place) -> list[str]:
    return place.compare("--plan", place.plan(lambda plan: None), "--bits", "w4a8")


def plan_and_windows(place: Place) -> list[str]:
    return place.compare("--plan", place.plan(lambda plan: None), "--windows", "2")


def plan_and_groups_of_inputs(place: Place) -> list[str]:
    return place.compare("--plan", place.plan(lambda plan: None), "--group-size", "32")


def pickled_candidate(place: Place) -> list[str]:
    folder = place.tmp / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "DiTTransformer2DModel"}))
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    return place.compare("--candidate", str(folder))


def capture_into_somebodys_files(place: Place) -> list[str]:
    somebodys_files(place)
    return place.capture()


# name -> (command line, what the message must hold: the value, and what would work)
CASES: dict[str, tuple[Callable[[Place], list[str]], tuple[str, ...]]] = {
    "unknown model": (
        lambda p: ["compare", "dit-emojy", *p.compare()[2:]],
        ("unknown model 'dit-emojy'", "dqviz models"),
    ),
    "model folder absent": (
        lambda p: ["compare", "/nowhere/at/all", *p.compare()[2:]],
        ("/nowhere/at/all", "embedded key"),
    ),
    "unknown method": (
        lambda p: p.compare("--method", "vidit"),
        ("unknown method 'vidit'", "viditq"),
    ),
    "no method": (
        lambda p: ["compare", str(p.model), "--bits", "w4a8", "--out", str(p.out)],
        ("nothing to compare", "--method"),
    ),
    "unknown option name": (
        lambda p: p.compare("--method", "viditq", "--option", "alhpa=0.5"),
        ("'alhpa'", "alpha"),
    ),
    "option of another method": (
        lambda p: p.compare("--option", "viditq.alpha=0.5"),
        ("'viditq'", "rtn"),
    ),
    "bad option value": (
        lambda p: p.compare("--method", "viditq", "--option", "alpha=2"),
        ("alpha", "between 0 and 1"),
    ),
    "option without a value": (
        lambda p: p.compare("--option", "alpha"),
        ("'alpha'", "name=value"),
    ),
    "unknown site in a plan": (
        unknown_site,
        ("transformer_blocks.0.attn1.to_queue", "transformer_blocks.0.attn1.to_q"),
    ),
    "plan of another model": (other_models_plan, ("0123456789abcdef", "make one")),
    "plan that is not JSON": (plan_is_not_json, ("plan.json", "JSON")),
    "plan file absent": (
        lambda p: p.compare("--plan", "/nowhere/plan.json"),
        ("/nowhere/plan.json", "no such file"),
    ),
    "plan and bits": (plan_and_bits, ("--plan", "leave --bits out")),
    "plan and windows": (plan_and_windows, ("--plan", "leave --windows out")),
    "plan and group size": (plan_and_groups_of_inputs, ("--plan", "leave --group-size out")),
    "sweep in no steps": (
        lambda p: ["sensitivity", str(p.model), "--bits", "4", "--steps", "-1"],
        ("steps -1 is out of range", "--steps 20"),
    ),
    "bits a method cannot do": (  # not w8a9, which would be refused as well
        lambda p: p.compare("--bits", "w9a9"),
        ("'w9a9'", "try w8a8"),
    ),
    "bits syntax": (lambda p: p.compare("--bits", "4/8"), ("'4/8'", "write w8a8")),
    "no bits": (
        lambda p: ["compare", str(p.model), "--method", "rtn", "--out", str(p.out)],
        ("no bits", "--bits w4a8"),
    ),
    "more bits than methods": (
        lambda p: p.compare("--method", "rtn", "--bits", "w4a8,w8a8,w4a4"),
        ("w4a8,w8a8,w4a4", "one per method"),
    ),
    "shape a group cannot hold": (shape_of_a_group, ("48", "transformer_blocks.0.attn1.to_q")),
    "group size from the command line": (
        lambda p: p.compare("--group-size", "48"),
        ("48", "64"),
    ),
    "untrained class id": (lambda p: p.compare("--classes", "7"), ("class 7", "apple")),
    "unknown class name": (lambda p: p.compare("--classes", "catt"), ("'catt'", "cat")),
    "prompt for a class model": (
        lambda p: p.compare("--prompt", "a red apple"),
        ("prompts", "--classes"),
    ),
    "negative prompt for a class model": (
        lambda p: p.compare("--negative", "blurry"),
        ("draws classes", "negative prompt"),
    ),
    "frames of a model that draws pictures": (
        lambda p: p.compare("--frames", "4"),
        ("frames 4", "--frames"),
    ),
    "size syntax": (lambda p: p.compare("--size", "16by16"), ("'16by16'", "480x720")),
    "prompts file absent": (
        lambda p: p.compare("--prompts-file", "/nowhere/prompts.txt"),
        ("/nowhere/prompts.txt", "one prompt per line"),
    ),
    "seed syntax": (lambda p: p.compare("--seeds", "0..7"), ("'0..7'", "write 0-7")),
    "seeds backwards": (lambda p: p.compare("--seeds", "7-0"), ("7-0", "0-7")),
    "duplicate seeds": (lambda p: p.compare("--seeds", "1,2,1"), ("seed 1", "once")),
    "steps out of range": (lambda p: p.compare("--steps", "0"), ("steps 0", "1 to 1000")),
    "steps not a number": (lambda p: p.compare("--steps", "many"), ("many", "integer")),
    "guidance out of range": (
        lambda p: p.compare("--guidance", "-2"),
        ("guidance -2", "0 to 100"),
    ),
    "windows out of range": (
        lambda p: p.compare("--windows", "5", "--steps", "4"),
        ("windows 5", "1 to 4"),
    ),
    "windows beyond the card's steps": (
        lambda p: p.compare("--windows", "9"),
        ("windows 9", "1 to 4"),
    ),
    "calibrating on what is reported": (
        lambda p: p.compare("--seeds", "0-7", "--calibration-seeds", "7-9"),
        ("seed 7", "disjoint"),
    ),
    "unknown backend": (lambda p: p.compare("--backend", "intger"), ("'intger'", "integer")),
    "unknown device": (lambda p: p.compare("--device", "gpu"), ("'gpu'", "cuda")),
    "unknown dtype": (lambda p: p.compare("--dtype", "bf16"), ("'bf16'", "bfloat16")),
    "corrupt checkpoint": (flipped_byte, ("was changed after saving", "save")),
    "truncated checkpoint": (truncated, ("truncated", WEIGHTS)),
    "extra tensor": (extra_tensor, ("'visitor'", "save")),
    "missing tensor": (missing_tensor, ("'proj_out_2.weight'", "save")),
    "NaN in the weights": (nan_in_weights, ("'proj_out_2.weight'", "NaN")),
    "weights that are not safetensors": (not_safetensors, (WEIGHTS, "not a safetensors file")),
    "pickled candidate": (pickled_candidate, ("pickled", "safe_serialization=True")),
    "candidate absent": (
        lambda p: p.compare("--candidate", "/nowhere/candidate"),
        ("/nowhere/candidate", "transformer folder"),
    ),
    "folder with somebody's files": (somebodys_files, ("thesis.txt", "new or empty")),
    "quantize into somebody's files": (somebodys_checkpoint_folder, ("thesis.txt", "new folder")),
    "a file where a folder should be": (a_file_as_folder, ("is a file", "new or empty folder")),
    "capture into somebody's files": (
        capture_into_somebodys_files,
        ("thesis.txt", "new or empty"),
    ),
    "capture of no samples": (lambda p: p.capture("--samples", "0"), ("samples 0", "--samples 8")),
    "capture of samples and seeds": (
        lambda p: p.capture("--samples", "4", "--seeds", "0-3"),
        ("--samples 4", "--seeds 0-3", "one of them"),
    ),
    "capture with a seed named twice": (lambda p: p.capture("--seeds", "3,3"), ("seed 3", "once")),
    "capture with bits alone": (
        lambda p: p.capture("--bits", "w4a8"),
        ("--bits goes with a method", "--method viditq"),
    ),
    "capture with a method alone": (
        lambda p: p.capture("--method", "viditq"),
        ("no bits", "viditq", "--bits w4a8"),
    ),
    "capture of an unknown method": (
        lambda p: p.capture("--method", "vidit", "--bits", "w4a8"),
        ("unknown method 'vidit'", "viditq"),
    ),
    "capture with an unknown option": (
        lambda p: p.capture("--method", "viditq", "--bits", "w4a8", "--option", "alhpa=1"),
        ("'alhpa'", "alpha"),
    ),
    "capture with too few rows": (lambda p: p.capture("--rows", "3"), ("record.rows", "16")),
    "capture without a reservoir": (
        lambda p: p.capture("--reservoir", "0"),
        ("record.reservoir", "greater than or equal to 1"),
    ),
    "capture of an untrained class": (
        lambda p: p.capture("--classes", "7"),
        ("class 7", "apple"),
    ),
    "capture with steps out of range": (
        lambda p: p.capture("--steps", "0"),
        ("steps 0", "1 to 1000"),
    ),
    "unknown shape": (
        lambda p: ["size", "dit-xxl-2", "--bits", "w4a8"],
        ("dit-xxl-2", "dit-xl-2"),
    ),
    "unknown export format": (
        lambda p: ["export", str(p.checkpoint), "--to", "torchoa", "--out", str(p.out)],
        ("'torchoa'", "torchao"),
    ),
    "export over somebody's file": (somebodys_file, ("thesis.json", "not there")),
    "export into another kind of file": (
        lambda p: ["export", str(p.checkpoint), "--to", "comfyui", "--out", str(p.out)],
        (".safetensors", "out"),
    ),
    "export of a model": (
        lambda p: ["export", str(p.model), "--to", "dqviz", "--out", str(p.out)],
        ("not a checkpoint of dqviz",),
    ),
    "export of a damaged checkpoint": (
        lambda p: ["export", flipped_byte(p)[1], "--to", "torchao", "--out", str(p.out)],
        ("was changed after saving", "save"),
    ),
    "gate without a bound": (lambda p: ["gate", str(p.tmp)], ("--min-psnr", "--against")),
    "gate on an unknown metric": (
        lambda p: ["gate", str(p.tmp), "--bound", "psnr=30"],
        ("'psnr'", "psnr_db"),
    ),
    "gate with a bound that is no number": (
        lambda p: ["gate", str(p.tmp), "--bound", "ssim=high"],
        ("ssim=high", "ssim=0.1"),
    ),
    "gate with two bounds on one metric": (
        lambda p: ["gate", str(p.tmp), "--min-ssim", "0.9", "--bound", "ssim=0.8"],
        ("ssim", "two bounds"),
    ),
    "gate on no study": (
        lambda p: ["gate", str(p.tmp), "--min-psnr", "30"],
        ("not a study", "dqviz compare"),
    ),
    "app password without a name": (lambda p: ["app", "--auth", "secret"], ("--auth", "ada:")),
    "port out of range": (lambda p: ["app", "--port", "99999"], ("99999", "7860")),
    "unknown command": (lambda p: ["compaer"], ("'compaer'", "compare")),
    "unknown flag": (lambda p: p.compare("--sede", "3"), ("--sede", "--seeds")),
    "missing argument": (lambda p: ["compare"], ("MODEL", "--help")),
}


@pytest.fixture(scope="module")
def checkpoint(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good checkpoint of the tiny model."""
    out = tmp_path_factory.mktemp("checkpoints") / "rtn"
    code = main(["quantize", str(tiny_dit), "--method", "rtn", "--bits", "w4a8", "--out", str(out)])
    assert code == 0
    return out


def snapshot(folder: Path) -> dict[str, bytes]:
    files = folder.rglob("*") if folder.is_dir() else [folder]
    return {str(f): f.read_bytes() for f in files if f.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(
    name: str,
    tiny_dit: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command_line, wanted = CASES[name]
    argv = command_line(Place(tiny_dit, checkpoint, tmp_path))
    before = snapshot(tmp_path)
    capsys.readouterr()

    code = main(argv)

    printed = capsys.readouterr()
    assert code == 2, printed.err
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1, printed.err
    assert printed.err.startswith("dqviz: ")
    for part in wanted:
        assert part in printed.err
    assert snapshot(tmp_path) == before


def test_there_are_twenty_kinds_and_more() -> None:
    assert len(CASES) >= 20
