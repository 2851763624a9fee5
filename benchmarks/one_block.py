"""Models without files: a DiT of one block at DiT-XL/2's width, random, which memory is measured on; and any transformer alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import nn

from quant.adapters import adapter_for
from quant.models import Model, ModelCard


def one_block(heads: int = 16) -> Model:
    """Never on disk, without a VAE: it can walk, not draw pictures."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=72,
        num_layers=1,
        in_channels=4,
        out_channels=8,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=1000,
    ).eval()
    return alone(transformer, "one-block", "One block")


def alone(transformer: nn.Module, key: str, title: str) -> Model:
    """A DiT as a model that was never on disk and has no VAE, on the device and in the dtype of its weights."""
    adapter = adapter_for(transformer)
    some = next(transformer.parameters())
    card = ModelCard(
        key=key,
        title=title,
        family="dit",
        task="class-to-image",
        guidance=1.5,
        steps=3,
        scheduler="DDIMScheduler",
    )
    return Model(
        ref=key,
        path=Path(),
        from_hub=False,
        pipe=SimpleNamespace(transformer=transformer, scheduler=DDIMScheduler()),
        adapter=adapter,
        card=card,
        sites=adapter.sites(transformer),
        source_dtype=some.dtype,
        device=some.device,
        dtype=some.dtype,
        classes={i: str(i) for i in range(1000)},
    )
