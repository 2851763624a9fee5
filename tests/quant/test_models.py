"""Models by every name that people use, through one path; damage and absence are one clear error."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from quant.errors import BadCheckpoint, BadInput
from quant.loading import load_model
from quant.sources import resolve


@pytest.fixture
def copy_of_tiny(tiny_dit, tmp_path):
    """A tiny model that a test may damage."""
    return shutil.copytree(tiny_dit, tmp_path / "model")


def weights(folder):
    return folder / "transformer" / "diffusion_pytorch_model.safetensors"


def test_a_folder_loads_with_its_card(model):
    assert model.key == "tiny-dit"
    assert model.classes == {0: "apple", 1: "cat", 2: "car"}
    assert (model.card.guidance, model.card.steps) == (3.0, 4)
    assert model.source_dtype == torch.float16
    assert len([s for s in model.sites if s.kept_reason is None]) == 12


def test_a_folder_without_a_card_gets_its_family_defaults(copy_of_tiny):
    (copy_of_tiny / "dqviz.json").unlink()
    model = load_model(str(copy_of_tiny), device="cpu")
    assert (model.key, model.card.family, model.card.guidance) == ("model", "dit", 4.0)
    assert model.classes == {0: "apple", 1: "cat", 2: "car"}


def test_samples_cycle_through_the_classes(model):
    assert [s.class_id for s in model.samples(range(4))] == [0, 1, 2, 0]
    assert [s.class_id for s in model.samples(range(3), ["car", "0"])] == [2, 0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["7"]}, "class 7 was never trained"),
        ({"classes": ["catt"]}, "nearest: cat"),
        ({"prompts": ["a cat"]}, "draws classes, not prompts"),
    ],
)
def test_conditions_that_cannot_be_drawn(model, arguments, message):
    with pytest.raises(BadInput, match=message):
        model.samples([0], **arguments)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("dit-emojii", "unknown model"),
        ("./nowhere", "no such folder"),
        ("/tmp/nowhere/at/all", "no such folder"),
        ("lost.safetensors", "no such file"),
    ],
)
def test_names_that_lead_nowhere(ref, message):
    with pytest.raises(BadInput, match=message):
        resolve(ref)


def test_damaged_weights(copy_of_tiny):
    data = weights(copy_of_tiny).read_bytes()
    weights(copy_of_tiny).write_bytes(data[:-1])
    with pytest.raises(BadCheckpoint, match="truncated"):
        load_model(str(copy_of_tiny))
    weights(copy_of_tiny).write_bytes(b"PK\x03\x04 a zip file, perhaps a pickle")
    with pytest.raises(BadCheckpoint, match="not a safetensors file"):
        load_model(str(copy_of_tiny))


def test_nan_in_a_weight_is_named(copy_of_tiny):
    tensors = load_file(weights(copy_of_tiny))
    tensors["transformer_blocks.1.ff.net.2.weight"][3, 5] = float("nan")
    save_file(tensors, weights(copy_of_tiny), metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"transformer_blocks\.1\.ff\.net\.2\.weight.*NaN"):
        load_model(str(copy_of_tiny))


def test_pickled_weights_are_refused(copy_of_tiny):
    weights(copy_of_tiny).rename(weights(copy_of_tiny).with_suffix(".bin"))
    with pytest.raises(BadInput, match="pickled"):
        load_model(str(copy_of_tiny))


def test_a_folder_that_is_no_pipeline(copy_of_tiny, tmp_path):
    with pytest.raises(BadInput, match="looks like a transformer alone"):
        load_model(str(copy_of_tiny / "transformer"))
    with pytest.raises(BadInput, match="not a diffusers pipeline"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("change", [{"dtype": "float8"}, {"device": "tpu"}])
def test_unknown_dtype_and_device(tiny_dit, change):
    with pytest.raises(BadInput, match=r"nearest: |known: "):
        load_model(str(tiny_dit), **change)


def test_a_card_with_an_unknown_field_is_refused(copy_of_tiny):
    card = json.loads((copy_of_tiny / "dqviz.json").read_text())
    (copy_of_tiny / "dqviz.json").write_text(json.dumps({**card, "gudance": 2}))
    with pytest.raises(BadInput, match="gudance"):
        load_model(str(copy_of_tiny))
