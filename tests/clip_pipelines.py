"""Tiny random pipelines of CogVideoX, Wan and Sana; `tests/pipelines.py` lists them with the others.

It hands in what they are made of: `live`, which gives weights a size, and `t5`, an encoder and its tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import transformers
from torch import nn

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHANNELS = 4  # of a latent
SIDE = 8  # of a latent

# What small transformers of all families are made of, and schedulers of flow matching.
TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
}
FLOW: dict[str, Any] = {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}

Made = tuple[Any, dict[str, Any]]  # a pipeline, and what its card says beside the usual
Live = Callable[[nn.Module], nn.Module]
Encoder = Callable[[int], tuple[Any, Any]]  # of a width


def gemma(width: int) -> tuple[Any, Any]:
    """A Gemma of this width, and its tokenizer."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, "▁", *LETTERS]
    tokenizer = transformers.GemmaTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[])
    config = transformers.Gemma2Config(
        vocab_size=len(pieces),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=2048,
    )
    return transformers.Gemma2Model(config), tokenizer


def _cogvideox(live: Live, t5: Encoder, *, later: bool) -> Made:
    """Version 1.0, whose positions are added; 1.5, with rotary positions and patches in time."""
    encoder, tokenizer = t5(24)
    newer = {"patch_size_t": 2, "use_rotary_positional_embeddings": True, "patch_bias": False}
    transformer = diffusers.CogVideoXTransformer3DModel(
        **TRANSFORMER,
        time_embed_dim=32,
        text_embed_dim=24,
        sample_width=SIDE,
        sample_height=SIDE,
        sample_frames=5,
        temporal_compression_ratio=2,
        max_text_seq_length=12,
        **(newer if later else {}),
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(4, 8),
        latent_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=2,
        scaling_factor=0.7,
    )
    pipe = diffusers.CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=vae,
        transformer=live(transformer),
        scheduler=diffusers.CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        ),
    )
    return pipe, {}


def _wan(live: Live, t5: Encoder) -> Made:
    """Wan 2.1, with its flow-matching UniPC scheduler."""
    tokenizer = t5(24)[1]
    text = transformers.UMT5Config(
        vocab_size=len(tokenizer), d_model=24, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    transformer = diffusers.WanTransformer3DModel(
        **TRANSFORMER,
        text_dim=24,
        freq_dim=16,
        ffn_dim=64,
        rope_max_seq_len=16,
    )
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=CHANNELS,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[-0.3, 0.2, 0.1, -0.1],
        latents_std=[1.5, 0.8, 1.2, 2.0],
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    )
    pipe = diffusers.WanPipeline(
        tokenizer=tokenizer,
        text_encoder=transformers.UMT5EncoderModel(text),
        vae=vae,
        transformer=live(transformer),
        scheduler=diffusers.UniPCMultistepScheduler(**FLOW),
    )
    return pipe, {"size": [2 * SIDE, 2 * SIDE], "frames": 5}


def _sana(live: Live) -> Made:
    """Sana, with its flow-matching DPM solver; 32 pixels are the least that its pipeline draws."""
    encoder, tokenizer = gemma(24)
    transformer = diffusers.SanaTransformer2DModel(
        **TRANSFORMER,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=24,
        sample_size=2 * SIDE,
    )
    vae = diffusers.AutoencoderDC(
        latent_channels=CHANNELS,
        attention_head_dim=4,
        encoder_block_out_channels=(4, 8),
        decoder_block_out_channels=(4, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        scaling_factor=0.4,
    )
    pipe = diffusers.SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=vae,
        transformer=live(transformer),
        scheduler=diffusers.DPMSolverMultistepScheduler(**FLOW),
    )
    return pipe, {}


def others(live: Live, t5: Encoder) -> dict[str, Callable[[], Made]]:
    """By family."""
    return {
        "cogvideox": lambda: _cogvideox(live, t5, later=False),
        "cogvideox-1.5": lambda: _cogvideox(live, t5, later=True),
        "wan": lambda: _wan(live, t5),
        "sana": lambda: _sana(live),
    }
