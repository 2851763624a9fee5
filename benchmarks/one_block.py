"""A model without files: a DiT of one block at DiT-XL/2's width, random, which memory is measured on."""

from __future__ import annotations

import torch
from diffusers import DiTTransformer2DModel

from dqviz.benching.subject import alone
from quant.models import Model


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
