"""Fixtures that several suites share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

# Tiny models gain nothing from a second thread and lose much where cores are shared; sums are cut alike on
# every machine. Before torch is imported; worker processes inherit it.
os.environ["OMP_NUM_THREADS"] = "1"


def build_tiny_dit(folder: Path) -> Path:
    """Write a seeded, untrained two-block `DiTPipeline` (hidden 64, 8x8 latents, 16x16 pictures) with its card.

    The weights are drawn so that adaLN, attention and the output layer all matter: diffusers alone
    would leave gates and head near zero, and quantization would then change nothing.
    """
    import torch
    from diffusers import (
        AutoencoderKL,
        DiTPipeline,
        DiTTransformer2DModel,
        DPMSolverMultistepScheduler,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20240)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=32,
            num_layers=2,
            in_channels=4,
            out_channels=4,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=1000,
        )
        for name, parameter in transformer.named_parameters():
            if "class_embedder" in name:
                torch.nn.init.normal_(parameter, std=0.3)
            elif parameter.dim() >= 2:
                torch.nn.init.normal_(parameter, std=0.8 / parameter[0].numel() ** 0.5)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
            scaling_factor=1.0,
            mid_block_add_attention=False,
        )
    scheduler = DPMSolverMultistepScheduler(prediction_type="v_prediction")
    labels = {0: "apple", 1: "cat", 2: "car"}
    pipe = DiTPipeline(transformer=transformer.eval(), vae=vae.eval(), scheduler=scheduler)
    pipe.to(dtype=torch.float16)
    pipe.save_pretrained(folder)

    index = folder / "model_index.json"
    described = json.loads(index.read_text())
    described["id2label"] = {str(key): name for key, name in labels.items()}
    index.write_text(json.dumps(described, indent=2))
    card = {
        "key": "tiny-dit",
        "title": "Tiny random DiT",
        "family": "dit",
        "task": "class-to-image",
        "guidance": 3.0,
        "steps": 4,
        "classes": {str(key): name for key, name in labels.items()},
        "licence": "Apache-2.0",
        "training": "none: random weights, for tests",
    }
    (folder / "dqviz.json").write_text(json.dumps(card, indent=2))
    return folder


@pytest.fixture(scope="session")
def tiny_dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random DiT pipeline; read only: copy it before changing a file."""
    return build_tiny_dit(tmp_path_factory.mktemp("models") / "tiny-dit")


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory: pytest.TempPathFactory):
    """Folders of tiny random pipelines by family, each made when it is first asked for; read only."""
    from tests.pipelines import Folders

    return Folders(tmp_path_factory.mktemp("pipelines"))


@pytest.fixture(autouse=True)
def studies_in_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes studies into the checkout, or reads tables that were measured by whoever runs it."""
    monkeypatch.setenv("DQVIZ_HOME", str(tmp_path / "dqviz-home"))
    monkeypatch.delenv("DQVIZ_CONFIGS", raising=False)


@pytest.fixture(scope="session")
def tiny_study(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the tiny model: full precision, rtn w4a4, viditq w4a4, 4 samples; read only."""
    from dqviz.comparison import compare
    from dqviz.request import CompareRequest

    out = tmp_path_factory.mktemp("studies") / "tiny"
    request = {
        "model": str(tiny_dit),
        "methods": ["rtn", "viditq"],
        "bits": "w4a4",
        "seeds": "0-3",
        "calibration_seeds": "100-101",
        "out": out,
    }
    compare(CompareRequest.parse(request))
    return out
