"""From the command line to the study: hub models, single files, LoRAs, offline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dqviz.candidates import check_loras
from dqviz.cli import main
from dqviz.command_lines import as_command
from dqviz.request import CompareRequest
from dqviz.study import Study
from dqviz.study_folder import default_folder
from quant.errors import BadInput
from quant.schema import Lora
from quant.sizes import SHAPES
from tests.hub import COMMIT, Hub, asked_instead, serving
from tests.pipelines import live, picture_vae

NAME = "facebook/DiT-XL-2-256"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hub with nothing in it, and an empty cache."""
    with serving() as served, asked_instead(served, tmp_path / "cache", monkeypatch):
        yield served


@pytest.fixture(scope="module")
def dit_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as `facebook/DiT-XL-2-256` is laid out, in full width, with one block and random weights."""
    import diffusers

    config = json.loads((SHAPES / "dit-xl-2.json").read_text())
    del config["_class_name"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformer = diffusers.DiTTransformer2DModel(
            **{**config, "num_layers": 1, "sample_size": 32}
        )
        pipe = diffusers.DiTPipeline(
            transformer=live(transformer),
            vae=picture_vae(),
            scheduler=diffusers.DDIMScheduler(clip_sample=False),
        )
    pipe.to(dtype=torch.float16)
    folder = tmp_path_factory.mktemp("hub") / "DiT-XL-2-256"
    pipe.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {"1": "goldfish, Carassius auratus", "388": "giant panda, panda"}
    (folder / "model_index.json").write_text(json.dumps(index))
    # What a repository holds beside, and a download leaves: other formats of the same weights.
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    (folder / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What a command that must succeed prints as JSON."""
    code = main([*words, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out)


def fails(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """The one line of a command that must fail."""
    found = main(list(words))
    printed = capsys.readouterr()
    assert found == code, printed.err
    lines = [line for line in printed.err.splitlines() if line.startswith("dqviz: ")]
    assert len(lines) == 1, printed.err
    return lines[0]


def test_a_repository_of_the_hub_end_to_end(
    hub: Hub, dit_xl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add(NAME, dit_xl)
    hub.breaks["diffusion_pytorch_model.safetensors"] = 1
    compare = ("--method", "rtn", "--bits", "w8a8", "--seeds", "0", "--steps", "2", "--no-ladder")
    out = str(tmp_path / "out")
    made = run(capsys, "compare", NAME, *compare, "--classes", "panda", "--out", out)
    reference, quantized = made["runs"]
    assert quantized["psnr_db"]["mean"] > 20
    assert quantized["size_bytes"] < 0.8 * reference["size_bytes"]
    study = Study.open(tmp_path / "out")
    model = study.manifest["model"]
    assert (model["ref"], model["revision"]) == (NAME, COMMIT)
    assert {part["name"]: part["quantized"] for part in model["components"]} == {
        "transformer": "to be quantized",
        "vae": "not quantized",
        "scheduler": "not quantized",
    }
    recipe = study.recipe(quantized["name"])
    assert recipe["revision"] == COMMIT
    assert not list((tmp_path / "cache").rglob("*.bin"))
    assert not list((tmp_path / "cache").rglob("*.incomplete"))

    hub.asked.clear()
    listed = run(capsys, "layers", NAME, "--offline")
    assert hub.asked == []
    assert (listed["fingerprint"], listed["revision"]) == (model["fingerprint"], COMMIT)


def test_faults_of_the_hub_are_one_line_with_their_exit_code(
    hub: Hub, tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("someone/gated", tiny_dit, gated=True)
    assert "accept its licence" in fails(capsys, 3, "layers", "someone/gated")
    assert "no repository 'someone/else'" in fails(capsys, 2, "layers", "someone/else")
    hub.repositories["someone/gated"].gated = False
    revision = ("layers", "someone/gated", "--revision", "v9")
    assert "no revision 'v9'" in fails(capsys, 2, *revision)
    assert "--offline" in fails(capsys, 3, "layers", "someone/gated", "--offline")
    hub.status = 503
    assert "try again" in fails(capsys, 3, "layers", "someone/gated")
    local = fails(capsys, 2, "layers", str(tiny_dit), "--revision", "main")
    assert "on this machine" in local


def lora_of(folder: Path, file: Path, seed: int = 0) -> Path:
    """A LoRA of one layer of a tiny PixArt."""
    generator = torch.Generator().manual_seed(seed)
    name = "transformer.transformer_blocks.0.attn1.to_q"
    save_file(
        {
            f"{name}.lora_A.weight": torch.randn(2, 96, generator=generator),
            f"{name}.lora_B.weight": torch.randn(96, 2, generator=generator),
        },
        file,
    )
    return file


def test_a_lora_is_in_the_study_the_recipe_and_the_checkpoint(
    pipelines: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(pipelines["pixart-sigma"])
    file = lora_of(pipelines["pixart-sigma"], tmp_path / "style.safetensors")
    asked = ("--method", "rtn", "--bits", "w8a8", "--lora", f"{file}:0.5")
    seeds = ("--seeds", "0", "--no-ladder")
    made = run(capsys, "compare", base, *asked, *seeds, "--out", str(tmp_path / "study"))
    model = Study.open(tmp_path / "study").manifest["model"]
    assert model["title"].endswith("with LoRA style x0.5")
    assert model["loras"][0]["scale"] == 0.5
    recipe = Study.open(tmp_path / "study").recipe(made["runs"][1]["name"])
    assert recipe["loras"] == model["loras"]

    # A study is of one set of weights: not of those without the LoRA, nor with more of it.
    for other in ((), ("--lora", str(file))):
        words = ("compare", base, "--method", "rtn", "--bits", "w8a8", *seeds, *other)
        line = fails(capsys, 2, *words, "--out", str(tmp_path / "study"))
        assert "is of other weights" in line

    checkpoint = tmp_path / "checkpoint"
    run(capsys, "quantize", base, *asked, "--out", str(checkpoint))
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["quantization_config"]["loras"] == model["loras"]
    loras = (Lora(file=str(file), scale=0.5),)
    check_loras(checkpoint, config, loras)
    with pytest.raises(BadInput, match="compare like with like"):
        check_loras(checkpoint, config, ())
    words = ("generate", str(checkpoint), "--base", base, "--seeds", "0")
    run(capsys, *words, "--out", str(tmp_path / "pictures"))
    line = fails(capsys, 2, *words, "--lora", str(file), "--out", str(tmp_path / "none"))
    assert "weights are fixed" in line


def test_a_fine_tune_in_a_file_is_compared_quantized_and_drawn(
    pipelines: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = pipelines["flux"]
    file = tmp_path / "Tune.safetensors"
    save_file({n: 1.1 * t for n, t in load_file(base / WEIGHTS).items()}, file)
    asked = (str(file), "--base", str(base))
    listed = run(capsys, "layers", *asked)
    parts = {part["name"]: part for part in listed["components"]}
    assert parts["transformer"]["bytes"] == file.stat().st_size
    assert parts["text_encoder_2"]["quantized"] == parts["vae"]["quantized"] == "not quantized"
    assert parts["text_encoder"]["parameters"] > 0

    method = ("--method", "rtn", "--bits", "w8a8")
    words = ("compare", *asked, *method, "--seeds", "0", "--no-ladder")
    run(capsys, *words, "--out", str(tmp_path / "study"))
    model = Study.open(tmp_path / "study").manifest["model"]
    assert (model["key"], model["base"], model["licence"]) == ("tune", str(base), "unknown")
    line = fails(capsys, 2, "compare", str(base), *words[4:], "--out", str(tmp_path / "study"))
    assert "is of" in line

    run(capsys, "quantize", *asked, *method, "--out", str(tmp_path / "quantized"))
    config = json.loads((tmp_path / "quantized" / "config.json").read_text())
    assert config["quantization_config"]["base"] == base.name  # no folder of this machine
    run(capsys, "generate", *asked, "--seeds", "0", "--out", str(tmp_path / "pictures"))
    whole = ("generate", str(base), "--base", str(base), "--seeds", "0")
    assert "--base goes with" in fails(capsys, 2, *whole, "--out", str(tmp_path / "none"))
    alone = ("generate", str(file), "--seeds", "0", "--out", str(tmp_path / "none"))
    assert "--base MODEL" in fails(capsys, 2, *alone)


def test_requests_carry_what_was_asked_and_old_ones_read_as_before(tmp_path: Path) -> None:
    request = CompareRequest.parse(
        {
            "model": "tune.safetensors",
            "base": "owner/name@v1",
            "loras": ["a.safetensors:0.5", "b.safetensors"],
            "offline": True,
            "methods": "rtn",
            "bits": "w8a8",
        }
    )
    assert CompareRequest.parse(request.to_json()) == request
    words = as_command(request)
    assert "--base owner/name@v1 --lora a.safetensors:0.5 --lora b.safetensors --offline" in words
    old = CompareRequest.parse({"model": "dit-emoji", "methods": "rtn", "bits": "w8a8"})
    assert not {"base", "loras", "offline"} & set(old.to_json())
    assert old.source.loras == ()


def test_a_lora_has_a_study_of_its_own() -> None:
    names = [
        default_folder("owner/name@v1", None, loras).name
        for loras in (None, (Lora(file="/x/My Style.safetensors"),), (Lora(file="b", scale=0.5),))
    ]
    assert names == ["name", "name-lora-my-style", "name-lora-b-x0.5"]
    assert default_folder("/x/My Tune.safetensors").name == "my-tune"


def test_a_pipeline_checkpoint_of_a_fine_tune_stands_alone(
    pipelines: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--pipeline` writes the base's other parts beside the fine-tune's transformer."""
    base = Path(shutil.copytree(pipelines["pixart-sigma"], tmp_path / "base"))
    file = tmp_path / "tune.safetensors"
    save_file({n: 1.1 * t for n, t in load_file(base / WEIGHTS).items()}, file)
    asked = (str(file), "--base", str(base), "--method", "rtn", "--bits", "w8a8")
    run(capsys, "quantize", *asked, "--pipeline", "--out", str(tmp_path / "whole"))
    shutil.rmtree(base)
    out = str(tmp_path / "pictures")
    drawn = run(capsys, "generate", str(tmp_path / "whole"), "--seeds", "0", "--out", out)
    assert len(drawn["files"]) == 1
