"""Adapters of PEFT beside quantized layers: what they add, that they can be switched off, and where they would be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from quant.atomic import write_tensors
from quant.checkpoint import save_checkpoint
from quant.errors import BadInput
from quant.peft_adapters import taking_quantized
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits

PEFT = Path(sys.prefix) / "peft"  # `make env` puts it there, where no import finds it
SCRIPT = Path(__file__).with_name("adapted.py")


def test_an_adapter_adds_to_what_quantized_layers_give(model, tmp_path):
    if not PEFT.is_dir():
        pytest.skip(f"peft is not in {PEFT}; make env puts it there")
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a8")))
    save_checkpoint(made, model, tmp_path / "made")
    inputs = {
        "hidden_states": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)),
        "timestep": torch.tensor([5, 5]),
        "class_labels": torch.tensor([1, 1000]),
    }
    write_tensors(tmp_path / "inputs.safetensors", inputs, {})
    asked = [sys.executable, SCRIPT, tmp_path / "made", tmp_path / "inputs.safetensors"]
    path = os.pathsep.join([str(PEFT), *sys.path])
    done = subprocess.run(
        [str(part) for part in asked],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "fuse the LoRA before quantizing" in found.pop("merged")
    assert found.pop("adds scale B A x") <= 1e-6
    assert found.pop("compiled") <= 1e-5
    assert set(found.values()) == {True}, found


@pytest.mark.parametrize("asked", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_adapters_that_are_made_of_the_weight_are_refused(asked, model):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w8a8"))).transformer
    config = SimpleNamespace(**({"use_dora": False, "init_lora_weights": True} | asked))
    with pytest.raises(BadInput, match="integers have none to read"):
        taking_quantized(config, made)


def test_what_wraps_a_layer_is_taken_off_before_a_checkpoint_is_saved(model, tmp_path):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w8a8")))
    made.transformer.transformer_blocks[0].ff.net[2] = nn.Sequential(
        made.transformer.transformer_blocks[0].ff.net[2]
    )
    with pytest.raises(BadInput, match=r"Sequential stands at transformer_blocks\.0\.ff\.net\.2"):
        save_checkpoint(made, model, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_beside_folded_scales_an_adapter_would_add_to_something_else(model, seen):
    plan = uniform_plan(model, parse_bits("w8a8"))
    made = quantize(model, "viditq", plan, {"transform": "scale", "fold": "all"}, seen).transformer
    with pytest.raises(BadInput, match="reads an input that other layers divide"):
        taking_quantized(None, made)
