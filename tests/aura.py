"""AuraFlow, whose class no adapter speaks for: a tiny random pipeline without a card, and one call of it."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from torch import Tensor, nn

from .pipelines import live, picture_vae, t5


def transformer() -> nn.Module:
    """Two lists of blocks."""
    return diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pos_embed_max_size=16,
        out_channels=4,
    )


def pipeline(folder: Path) -> Path:
    """Write the whole of it into a folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        encoder, tokenizer = t5(24)
        pipe = diffusers.AuraFlowPipeline(
            tokenizer=tokenizer,
            text_encoder=encoder,
            vae=picture_vae(),
            transformer=live(transformer()),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        )
    pipe.save_pretrained(folder)
    return folder


def call(network: nn.Module) -> Tensor:
    """What one call gives, of two samples [2, 4, 8, 8]."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 5, 24, generator=generator)
    told = {"encoder_hidden_states": text, "timestep": torch.tensor([0.5, 0.5])}
    with torch.no_grad():
        return network(x, **told).sample
