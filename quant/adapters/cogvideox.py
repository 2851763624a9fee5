"""CogVideoX: text and video tokens in one sequence, with the same weights (arXiv 2408.06072).

Attention is full: every token of a clip attends to every other, in space and time, and to the text. So
no site is spatial or temporal alone. Each norm is modulated twice by one linear, by other rows for text
tokens than for video tokens.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ..errors import BadInput
from ..schema import Sampler
from .base import ADALN_KEPT, EMBED_KEPT, HEAD_KEPT, RolePattern, check_size
from .producers import Attended, Modulated
from .prompted import Prompted, Rows
from .video import check_from_text, clips, latent_frames

STOCHASTIC = "CogVideoXDPMScheduler"
SIZE_LATER = (768, 1360)  # of CogVideoX 1.5, whose configuration only says the most


class CogVideoX(Prompted):
    """`CogVideoXTransformer3DModel` and `CogVideoXPipeline`, from text.

    `CogVideoXDPMScheduler` adds noise in every step and has arguments of its own, so clips are drawn
    with `CogVideoXDDIMScheduler`, whatever the folder's is.
    """

    family = "cogvideox"
    transformer_class = "CogVideoXTransformer3DModel"
    draws = "video"
    vae_scale = 4, 8
    defaults = {"guidance": 6.0, "steps": 50, "scheduler": "CogVideoXDDIMScheduler"}
    block_lists = ("transformer_blocks",)
    roles = (
        RolePattern(r"attn1\.to_q", "joint_q", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_k", "joint_k", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_v", "joint_v", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_out\.0", "joint_out"),
        RolePattern(r"ff\.net\.0\.proj", "fc1"),
        RolePattern(r"ff\.net\.2", "fc2"),
        RolePattern(r"norm[12]\.linear", "adaln", kept=ADALN_KEPT),
    )
    outside = (
        RolePattern(r"patch_embed\.(proj|text_proj)", "embed", kept=EMBED_KEPT),
        RolePattern(r"(time|ofs)_embedding\..*", "embed", kept=EMBED_KEPT),
        RolePattern(r"norm_out\.linear", "adaln", kept=ADALN_KEPT),
        RolePattern(r"proj_out", "head", kept=HEAD_KEPT),
    )
    produced = (
        Modulated(r"attn1\.to_[qkv]", "norm1.linear", (6,), 0, 1, also=((3, 4),)),
        Modulated(r"ff\.net\.0\.proj", "norm2.linear", (6,), 0, 1, also=((3, 4),)),
        Attended(r"attn1\.to_out\.0", ("attn1.to_v",)),
    )
    unshared = (
        "its attention joins video and text tokens, so the branches attend to different texts"
    )

    def resolved(self, pipe: Any, sampler: Sampler) -> Sampler:
        """The same; BadInput for a scheduler that our loop cannot step."""
        if sampler.scheduler == STOCHASTIC:
            raise BadInput(
                f"scheduler {STOCHASTIC} adds noise in every step, so a clip would not depend on its "
                "seed alone; take CogVideoXDDIMScheduler"
            )
        return sampler

    def latent_shape(self, pipe: Any, sampler: Sampler) -> tuple[int, ...]:
        """[c, f, h, w]; the frames of CogVideoX 1.5, which patches in time, are padded in front."""
        config, scale = pipe.transformer.config, pipe.vae_scale_factor_spatial
        check_from_text(config)
        most = (config.sample_height * scale, config.sample_width * scale)
        size = sampler.size or self._size(config, scale)
        check_size(size, scale * config.patch_size)
        if config.patch_size_t is not None and (size[0] > most[0] or size[1] > most[1]):
            raise BadInput(
                f"size {size[0]}x{size[1]}: this model draws {most[0]}x{most[1]} at most"
            )
        # The VAE doubles the first frame of an even number, and patches in time have to fit.
        each = math.lcm(2, config.patch_size_t or 1)
        frames = latent_frames(sampler.frames or config.sample_frames, pipe, each)
        return config.in_channels, frames + _padding(config), size[0] // scale, size[1] // scale

    def _size(self, config: Any, scale: int) -> tuple[int, int]:
        """Height and width of the default clip."""
        most = (config.sample_height * scale, config.sample_width * scale)
        if config.patch_size_t is None:
            return most
        return min(SIZE_LATER[0], most[0]), min(SIZE_LATER[1], most[1])

    def tokens(
        self, config: Any, size: tuple[int, int] | None = None, frames: int | None = None
    ) -> tuple[int, int] | None:
        """Video and text, which attend all to all."""
        patch, scale = config.patch_size, self.vae_scale[1]
        height, width = size or self._size(config, scale)
        latent = ((frames or config.sample_frames) - 1) // config.temporal_compression_ratio + 1
        grid = (height // scale // patch) * (width // scale // patch)
        return -(-latent // (config.patch_size_t or 1)) * grid + config.max_text_seq_length, 1

    def encode(self, pipe: Any, prompt: str) -> Rows:
        """Through T5: features [1, t, c] of t = 226 tokens, padding included."""
        features, _ = pipe.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            max_sequence_length=pipe.transformer.config.max_text_seq_length,
            device=pipe.text_encoder.device,
        )
        return {"features": features}

    def evaluate(
        self, transformer: nn.Module, x: Tensor, timestep: Tensor, rows: Rows, guidance: float
    ) -> Tensor:
        """Frames before channels, as the transformer has them."""
        return transformer(
            x.transpose(1, 2),
            encoder_hidden_states=rows["features"],
            timestep=timestep,
            image_rotary_emb=_rotary(transformer.config, x),
        ).sample.transpose(1, 2)

    def decode(self, pipe: Any, latents: Tensor) -> Tensor:
        """Through the causal VAE, without the frames that pad."""
        kept = latents[:, :, _padding(pipe.transformer.config) :]
        return clips(pipe.vae, kept.to(pipe.vae.dtype) / pipe.vae_scaling_factor_image)


def _padding(config: Any) -> int:
    """Latent frames that `CogVideoXPipeline` puts in front of an odd number of them."""
    return (config.patch_size_t or 1) - 1


def _rotary(config: Any, x: Tensor) -> Any:
    """Cosines and sines [tokens, head width] of x [b, c, f, h, w], as `CogVideoXPipeline` has them."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    if not config.use_rotary_positional_embeddings:
        return None
    patch, frames = config.patch_size, x.shape[2]
    grid = (x.shape[3] // patch, x.shape[4] // patch)
    base = (config.sample_height // patch, config.sample_width // patch)
    if config.patch_size_t is None:
        crop = get_resize_crop_region_for_grid(grid, base[1], base[0])
        return get_3d_rotary_pos_embed(
            config.attention_head_dim, crop, grid, frames, device=x.device
        )
    return get_3d_rotary_pos_embed(
        config.attention_head_dim,
        None,
        grid,
        -(-frames // config.patch_size_t),
        grid_type="slice",
        max_size=base,
        device=x.device,
    )
