"""Damaged checkpoints, files of others that are in the way, and what is no model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from safetensors.torch import load_file, save_file

from tests.dqviz.spoiled import Case, Place

WEIGHTS = "diffusion_pytorch_model.safetensors"


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


def pickled_candidate(place: Place) -> list[str]:
    folder = place.tmp / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "DiTTransformer2DModel"}))
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    return place.compare("--candidate", str(folder))


def capture_into_somebodys_files(place: Place) -> list[str]:
    somebodys_files(place)
    return place.capture()


CASES: dict[str, Case] = {
    "prompts file absent": (
        lambda p: p.compare("--prompts-file", "/nowhere/prompts.txt"),
        ("/nowhere/prompts.txt", "one prompt per line"),
    ),
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
}
