"""Whole tiny random pipelines of every family that draws, as folders, made within a second.

Weights are alive, as in `tests/quant/families.py`: adaLN, tables, biases and gates as well. Text
encoders read fast tokenizers that are built on the spot, one token per letter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL
from torch import nn

from quant.adapters.flux import packed
from quant.generation import starting_noise
from quant.models import Model
from quant.schema import Sample, Sampler

from .clip_pipelines import others

LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHANNELS = 4  # of a latent
SIDE = 8  # of a latent; a picture's is 16


def tiny_pipeline(family: str, folder: Path) -> Path:
    """Write a tiny random pipeline of `family`, one of `PIPELINES`, with a card of 2 steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20240)
        pipe, card = PIPELINES[family]()
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval()
    pipe.save_pretrained(folder)
    said = {"key": f"tiny-{family}", "title": f"Tiny random {family}", "steps": 2, **card}
    said["prompts"] = ["a red fox", "two boats"]
    (folder / "dqviz.json").write_text(json.dumps(said, indent=2))
    return folder


class Folders(dict[str, Path]):
    """Folders of tiny pipelines by family, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, family: str) -> Path:
        self[family] = tiny_pipeline(family, self.root / family)
        return self[family]

    def __iter__(self) -> Iterator[str]:
        return iter(PIPELINES)


def live(transformer: nn.Module) -> nn.Module:
    """Give every weight of a transformer a size that matters."""
    for name, parameter in transformer.named_parameters():
        if parameter.dim() >= 2 and "table" not in name:
            nn.init.normal_(parameter, std=0.8 / parameter[0].numel() ** 0.5)
        elif "norm_" not in name:
            nn.init.normal_(parameter, std=0.2)
    return transformer


def picture_vae(channels: int = CHANNELS, **more: Any) -> AutoencoderKL:
    """A VAE whose pictures are twice as high and wide as its latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=2 * SIDE,
        mid_block_add_attention=False,
        **more,
    )


def t5(width: int) -> tuple[Any, Any]:
    """A T5 encoder of this width, and its tokenizer."""
    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    tokenizer = transformers.T5Tokenizer(
        vocab=scores + [(letter, -3.0) for letter in LETTERS], extra_ids=0
    )
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    return transformers.T5EncoderModel(config), tokenizer


def clip(width: int, *, projected: bool) -> tuple[Any, Any]:
    """A CLIP text encoder of this width (with its projection, or without), and its tokenizer."""
    special = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    vocab = special | {piece: 2 + i for i, piece in enumerate(pieces)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=12)
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config), tokenizer


Made = tuple[Any, dict[str, Any]]  # a pipeline, and what its card says beside the usual
SINGLE = {
    "num_attention_heads": 3,
    "attention_head_dim": 32,
    "num_layers": 1,
    "in_channels": CHANNELS,
    "out_channels": 2 * CHANNELS,  # with a learned variance
    "cross_attention_dim": 96,
    "caption_channels": 24,
    "norm_type": "ada_norm_single",
    "patch_size": 2,
}


def _pixart(*, sigma: bool) -> Made:
    """Alpha at 1024, which is told the picture's size; Sigma, which is not."""
    encoder, tokenizer = t5(24)
    transformer = diffusers.PixArtTransformer2DModel(
        **SINGLE, sample_size=SIDE if sigma else 128, interpolation_scale=1
    )
    kind = diffusers.PixArtSigmaPipeline if sigma else diffusers.PixArtAlphaPipeline
    pipe = kind(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=picture_vae(scaling_factor=0.9),
        transformer=live(transformer),
        scheduler=diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction"),
    )
    return pipe, {} if sigma else {"size": [2 * SIDE, 2 * SIDE]}


def _latte() -> Made:
    encoder, tokenizer = t5(24)
    transformer = diffusers.LatteTransformer3DModel(
        **SINGLE,
        sample_size=SIDE,
        video_length=3,
        attention_bias=True,
        norm_elementwise_affine=False,
    )
    pipe = diffusers.LattePipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=picture_vae(scaling_factor=0.9),
        transformer=live(transformer),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
    )
    return pipe, {}


def _sd3(*, later: bool) -> Made:
    """SD 3; and 3.5, whose first block has two attentions, here with a shift that goes by size."""
    encoder, tokenizer = clip(8, projected=True)
    encoder_2, tokenizer_2 = clip(12, projected=True)
    encoder_3, tokenizer_3 = t5(24)
    more = {"dual_attention_layers": (0,), "qk_norm": "rms_norm"} if later else {}
    transformer = diffusers.SD3Transformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        patch_size=2,
        sample_size=SIDE,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pooled_projection_dim=20,
        pos_embed_max_size=8,
        **more,
    )
    scheduler = (
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=4.0)
        if later
        else diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    )
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=live(transformer),
        scheduler=scheduler,
        vae=picture_vae(scaling_factor=0.9, shift_factor=0.1),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=encoder_3,
        tokenizer_3=tokenizer_3,
    )
    return pipe, {}


def _flux(*, schnell: bool) -> Made:
    """Told how strong guidance is, and shifted by size; or neither of both."""
    encoder, tokenizer = clip(20, projected=False)
    encoder_2, tokenizer_2 = t5(24)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=not schnell,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=not schnell, shift=1.0 if schnell else 3.0
    )
    pipe = diffusers.FluxPipeline(
        transformer=live(transformer),
        scheduler=scheduler,
        vae=picture_vae(scaling_factor=0.9, shift_factor=0.1),
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=encoder_2,
        tokenizer_2=tokenizer_2,
    )
    return pipe, {"size": [2 * SIDE, 2 * SIDE]}


PIPELINES: dict[str, Callable[[], Made]] = {
    "pixart-alpha": lambda: _pixart(sigma=False),
    "pixart-sigma": lambda: _pixart(sigma=True),
    "latte": _latte,
    "sd3": lambda: _sd3(later=False),
    "sd3.5": lambda: _sd3(later=True),
    "flux": lambda: _flux(schnell=False),
    "flux-schnell": lambda: _flux(schnell=True),
    **others(live, t5),
}

_PIXART = {"use_resolution_binning": False}
OF_FAMILY: dict[str, dict[str, Any]] = {  # arguments of a pipeline's call that no sampler holds
    "pixart-alpha": _PIXART,
    "pixart-sigma": _PIXART,
    "latte": {"video_length": 3},
    "sd3": {},
    "sd3.5": {},
    "flux": {},
    "flux-schnell": {},
}


def by_diffusers(
    family: str, model: Model, samples: Iterable[Sample], sampler: Sampler
) -> torch.Tensor:
    """What the pipeline itself draws: one call per sample, from the same starting latents."""
    found = []
    for sample in samples:
        latents = starting_noise(model.latent_shape(sampler), (sample,))
        height, width = (2 * side for side in latents.shape[-2:])
        negative = {} if model.adapter.distilled else {"negative_prompt": sample.negative or ""}
        out = model.pipe(
            prompt=sample.prompt,
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            height=height,
            width=width,
            latents=packed(latents) if family.startswith("flux") else latents,
            output_type="np",
            **negative,
            **OF_FAMILY[family],
        )
        found.append(torch.as_tensor(out.frames if model.adapter.draws == "video" else out.images))
    return torch.cat(found)
