"""Every export keeps the promises of `quant.exports`: complete or absent, exact or in the list of losses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from safetensors.torch import load_file

from quant.atomic import write_tensors
from quant.checkpoint import CONFIG, WEIGHTS, check_checkpoint, save_checkpoint
from quant.errors import BadCheckpoint, BadInput
from quant.exports import Exported, export_checkpoint, list_exports, load_export
from quant.exports.opened import plain_weight
from quant.quantization import quantize

from .exported import CASES, FAMILIES, Saved, read_comfyui, read_torchao, save_all, tensors_of

KEYS = tuple(list_exports())
NAMES = [case.name for case in CASES]
TORCHAO = Path(sys.prefix) / "torchao"  # `make env` puts it there, where no import finds it
SCRIPT = Path(__file__).with_name("reopened.py")
INPUTS = {
    "hidden_states": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
    "timestep": torch.tensor([500, 500]),
    "class_labels": torch.tensor([0, 1]),
}
OfCase = Callable[[str, str], Saved]


@pytest.fixture(scope="module")
def saved(tiny_dit, pipelines, tmp_path_factory) -> OfCase:
    """A checkpoint by family and case, the family's made when it is first asked for."""
    held: dict[str, dict[str, Saved]] = {}

    def of(family: str, case: str) -> Saved:
        if family not in held:
            pipeline = tiny_dit if family == "dit" else pipelines[family]
            held[family] = save_all(pipeline, tmp_path_factory.mktemp(family))
        return held[family][case]

    return of


def export(checkpoint: Path, key: str, folder: Path) -> tuple[Path, Exported]:
    out = folder / f"made{list_exports()[key].suffix}"
    return out, export_checkpoint(checkpoint, key, out)


def test_cards_say_what_is_lost_and_what_was_checked():
    assert {"comfyui", "dqviz", "ggufy", "step-policy", "torchao"} <= set(KEYS)
    for key, card in list_exports().items():
        assert card == load_export(key).CARD
        assert (card.writes == "file") == bool(card.suffix)
        assert all((card.title, card.holds, card.loses, card.source, card.checked))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_format_takes_every_checkpoint(saved, family, case, key, tmp_path):
    checkpoint = saved(family, case)
    out, made = export(checkpoint.folder, key, tmp_path)
    inside = sorted(out.iterdir()) if out.is_dir() else [out]
    assert sorted(made.files) == inside
    assert {path.name for path in tmp_path.iterdir()} == {out.name}, "nothing else is left behind"
    sites = set(checkpoint.layers)
    assert {loss.site for loss in made.lossy} <= sites
    assert all(loss.lost and loss.written for loss in made.lossy)


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_torchao_has_our_weights_to_the_bit_or_says_so(saved, family, case, tmp_path):
    checkpoint = saved(family, case)
    out, made = export(checkpoint.folder, "torchao", tmp_path)
    found, classes = read_torchao(out / WEIGHTS)
    lossy = {loss.site for loss in made.lossy if not loss.lost.startswith("activations")}
    check_weights(checkpoint, found, lossy)
    assert set(classes) == set(checkpoint.layers) - lossy
    config = json.loads((out / CONFIG).read_text())
    by_name = config["quantization_config"]["quant_type"]["default"]["_data"]["fqn_to_config"]
    assert set(by_name) == set(classes)
    assert lossy == checkpoint.ours_alone
    for loss in made.lossy:
        rounded = any(a is not None for a in checkpoint.layers[loss.site].plan.activations)
        assert ("activations" in loss.lost) == rounded, "rounded inputs that are dropped are said"


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_comfyui_has_our_weights_to_the_bit_or_says_so(saved, family, case, tmp_path):
    checkpoint = saved(family, case)
    out, made = export(checkpoint.folder, "comfyui", tmp_path)
    found, quantized = read_comfyui(out)
    lossy = {loss.site for loss in made.lossy if not loss.lost.startswith("activations")}
    check_weights(checkpoint, found, lossy)
    assert quantized == set(checkpoint.layers) - checkpoint.ours_alone


def check_weights(checkpoint: Saved, found: dict[str, torch.Tensor], lossy: set[str]) -> None:
    """Every tensor of the ordinary transformer is there; weights are ours, near ours where they are lossy."""
    ordinary = checkpoint.model.transformer.state_dict()
    assert set(found) == set(ordinary)
    assert all(found[name].shape == tensor.shape for name, tensor in ordinary.items())
    for name, layer in checkpoint.layers.items():
        weight = found[f"{name}.weight"].float()
        if name in lossy:
            ours = plain_weight(layer)
            assert torch.linalg.norm(weight - ours) < 0.03 * torch.linalg.norm(ours), name
        else:
            assert torch.equal(weight, layer.dequantized_weight()), name
        if "bias" in layer._buffers:
            assert torch.equal(found[f"{name}.bias"].float(), layer.bias.float())
    stored, _ = tensors_of(checkpoint.folder / WEIGHTS)
    for name in set(ordinary) & set(stored):
        assert name.rpartition(".")[0] in checkpoint.layers or torch.equal(
            found[name], stored[name]
        )


def test_symmetric_int8_and_fp8_lose_nothing_where_they_fit(saved, tmp_path):
    for name, key in (
        ("rtn-w8a8-symmetric", "torchao"),
        ("rtn-w8a8-symmetric", "comfyui"),
        ("rtn-fp8", "torchao"),
    ):
        folder = tmp_path / f"{name}-{key}"
        folder.mkdir()
        assert export(saved("dit", name).folder, key, folder)[1].lossy == ()


def test_ours_is_copied_byte_by_byte(saved, tmp_path):
    checkpoint = saved("dit", "viditq-w4a8")
    out, made = export(checkpoint.folder, "dqviz", tmp_path)
    assert made.lossy == ()
    for name in (CONFIG, WEIGHTS):
        assert (out / name).read_bytes() == (checkpoint.folder / name).read_bytes()
    check_checkpoint(out)


@pytest.mark.parametrize("family", FAMILIES)
def test_ggufy_scores_every_matrix_and_orders_them_by_bits(saved, family, tmp_path):
    checkpoint = saved(family, "rtn-w4a4")
    out, made = export(checkpoint.folder, "ggufy", tmp_path)
    scores = json.loads(out.read_text())
    ordinary = checkpoint.model.transformer.state_dict()
    matrices = {n for n, t in ordinary.items() if t.dim() == 2 and n.endswith(".weight")}
    assert set(scores) == matrices
    narrow = {f"{name}.weight" for name in checkpoint.layers}
    assert all(5 <= scores[name] <= 30 for name in narrow)
    assert all(scores[name] >= 95 for name in matrices - narrow)
    assert {loss.site for loss in made.lossy} == set(checkpoint.layers)
    score = load_export("ggufy").score
    for narrowest in range(2, 9):
        found = [score(bits, narrowest) for bits in [*range(narrowest, 9), None]]
        assert found == sorted(found)
        assert 0 <= found[0] < found[-1] <= 100


@pytest.fixture(scope="module")
def joint(pipelines, tmp_path_factory) -> dict[str, Saved]:
    """Checkpoints of Stable Diffusion 3, one of them with a key projection that is kept."""
    root = tmp_path_factory.mktemp("sd3")
    cases = [case for case in CASES if case.name in ("rtn-w4a4", "rtn-fp8", "viditq-w4a8")]
    found = save_all(pipelines["sd3"], root, tuple(cases))
    one = found["rtn-w4a4"]
    sites = {n: s for n, s in one.made.plan.sites.items() if n != KEPT}
    plan = one.made.plan.model_copy(update={"sites": sites})
    made = quantize(one.model, "rtn", plan)
    save_checkpoint(made, one.model, root / "mixed")
    return found | {"mixed": Saved(one.case, root / "mixed", one.model, made)}


KEPT = "transformer_blocks.0.attn.to_k"


@pytest.mark.parametrize("name", ["rtn-w4a4", "rtn-fp8", "viditq-w4a8", "mixed"])
def test_comfyui_has_fused_weights_under_the_names_of_the_release(joint, name, tmp_path):
    """Read by the layout, then taken apart by diffusers' own conversion: our weights come out."""
    checkpoint = joint[name]
    out, made = export(checkpoint.folder, "comfyui", tmp_path)
    found, quantized = read_comfyui(out)
    assert "joint_blocks.0.x_block.attn.qkv.weight" in found
    known = SINGLE_FILE_LOADABLE_CLASSES["SD3Transformer2DModel"]
    lossy = {loss.site for loss in made.lossy if not loss.lost.startswith("activations")}
    check_weights(checkpoint, known["checkpoint_mapping_fn"](checkpoint=found, config={}), lossy)
    fused = "joint_blocks.0.x_block.attn.qkv"
    assert (fused in quantized) == (name in ("rtn-w4a4", "rtn-fp8"))
    if name == "mixed":
        beside = {f"transformer_blocks.0.attn.to_{x}" for x in "qv"}
        assert lossy == beside
        assert all(KEPT in loss.lost for loss in made.lossy if loss.site in beside)


def test_ggufy_names_what_lies_in_one_tensor_once(joint, tmp_path):
    scores = json.loads(export(joint["mixed"].folder, "ggufy", tmp_path)[0].read_text())
    assert scores["joint_blocks.0.x_block.attn.qkv.weight"] == 100  # its keys are kept
    assert scores["joint_blocks.1.x_block.attn.qkv.weight"] < 30


# -- what is in the way, and what is damaged


@pytest.mark.parametrize("key", KEYS)
def test_nobody_is_written_over(saved, key, tmp_path):
    card = list_exports()[key]
    folder = saved("dit", "rtn-w8a8").folder
    out = tmp_path / f"theirs{card.suffix}"
    theirs = out / "notes.txt" if card.writes == "folder" else out
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("mine")
    with pytest.raises(BadInput, match="theirs"):
        export_checkpoint(folder, key, out)
    assert theirs.read_text() == "mine"
    wrong = tmp_path / "a-file"
    wrong.write_text("mine")
    with pytest.raises(BadInput, match="a-file"):
        export_checkpoint(folder, key, wrong)
    if card.writes == "file":
        with pytest.raises(BadInput, match=rf"\{card.suffix}"):
            export_checkpoint(folder, key, tmp_path / "no-suffix")
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "a-file"}


def truncated(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def changed(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))


def unlisted(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    del config["quantization_config"]["transforms"]["transformer_blocks.0.attn1.to_q"]
    (folder / CONFIG).write_text(json.dumps(config))


def renamed(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["_class_name"] = "NoSuchTransformer"
    (folder / CONFIG).write_text(json.dumps(config))


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def of_somebody_else(folder: Path) -> None:
    (folder / CONFIG).write_text('{"_class_name": "DiTTransformer2DModel"}')


DAMAGES = (truncated, changed, unlisted, renamed, without_weights, of_somebody_else)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_checkpoint_is_one_error_and_leaves_nothing(saved, damage, key, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved("dit", "rtn-w8a8").folder, folder)
    damage(folder)
    with pytest.raises(BadCheckpoint) as error:
        export(folder, key, tmp_path)
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint"}


def test_an_unknown_format_names_those_there_are(saved, tmp_path):
    with pytest.raises(BadInput, match="nearest: torchao"):
        export_checkpoint(saved("dit", "rtn-w8a8").folder, "torchoa", tmp_path / "x")


# -- the other side


def test_the_cases_have_sites_of_both_kinds(saved):
    kinds = {name: saved("dit", name).ours_alone for name in NAMES}
    assert kinds["viditq-folded"] < kinds["viditq-w4a8"]
    assert kinds["vq4dit-w2a16"]
    assert not kinds["rtn-w4a4"]


@pytest.fixture(scope="module")
def reopened(saved, tmp_path_factory) -> dict[str, torch.Tensor]:
    """What diffusers and torchao find in every export, in a process that imports nothing of ours."""
    if not TORCHAO.is_dir():
        pytest.skip(f"torchao is not in {TORCHAO}; make env puts it there")
    root = tmp_path_factory.mktemp("reopened")
    for case in NAMES:
        export_checkpoint(saved("dit", case).folder, "torchao", root / "made" / case)
    write_tensors(root / "inputs.safetensors", INPUTS, {})
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPT),
            *(str(root / n) for n in ("made", "inputs.safetensors", "out")),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TORCHAO)},
    )
    assert done.returncode == 0, done.stderr
    return load_file(root / "out")


@pytest.mark.parametrize("case", NAMES)
def test_diffusers_and_torchao_open_what_was_written(saved, reopened, case):
    checkpoint = saved("dit", case)
    whole = set(checkpoint.layers) - checkpoint.ours_alone
    found = {n.partition("/")[2]: t for n, t in reopened.items() if n.startswith(f"{case}/")}
    theirs = found.pop("output")
    assert set(found) == whole, "torchao has a tensor of its own for every site that it can hold"
    for name in whole:
        assert torch.equal(found[name], checkpoint.layers[name].dequantized_weight())
    with torch.no_grad():
        ours = checkpoint.made.transformer(**INPUTS).sample
    assert torch.linalg.norm(theirs - ours) < 0.05 * torch.linalg.norm(ours)
