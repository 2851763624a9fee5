"""Sana: linear self-attention, text by cross-attention, a convolutional feed-forward (arXiv 2410.10629).

The feed-forward is three convolutions (1x1, depthwise 3x3, 1x1), of which none is a linear layer: they
are no sites and stay in 16 bit. They hold 755 of the 1604 million weights of Sana-1.6B.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor, nn

from ..errors import BadInput
from ..schema import Sample, Sampler
from .base import ADALN_KEPT, EMBED_KEPT, HEAD_KEPT, Encoded, RolePattern
from .producers import Attended, Modulated
from .prompted import Prompted, Rows, Texts


class Sana(Prompted):
    """`SanaTransformer2DModel` and `SanaPipeline`.

    As in the pipeline, an instruction to its language model stands before a prompt, and none before a
    negative prompt. A size is drawn as it is asked for, without `use_resolution_binning`.
    """

    family = "sana"
    transformer_class = "SanaTransformer2DModel"
    defaults = {"guidance": 4.5, "steps": 20}
    vae_scale = 1, 32
    linear_attention = True
    block_lists = ("transformer_blocks",)
    roles = (
        RolePattern(r"attn1\.to_q", "self_q", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_k", "self_k", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_v", "self_v", shares_input_with="attn1"),
        RolePattern(r"attn1\.to_out\.0", "self_out"),
        RolePattern(r"attn2\.to_q", "cross_q"),
        RolePattern(r"attn2\.to_k", "cross_k", shares_input_with="text"),
        RolePattern(r"attn2\.to_v", "cross_v", shares_input_with="text"),
        RolePattern(r"attn2\.to_out\.0", "cross_out"),
    )
    outside = (
        RolePattern(r"time_embed\.linear", "adaln", kept=ADALN_KEPT),
        RolePattern(r"time_embed\..*", "embed", kept=EMBED_KEPT),
        RolePattern(r"caption_projection\..*", "embed", kept=EMBED_KEPT),
        RolePattern(r"proj_out", "head", kept=HEAD_KEPT),
    )
    # Linear attention is linear in its values, channel by channel, as softmax attention is.
    produced = (
        Modulated(r"attn1\.to_[qkv]", "/time_embed.linear", (6,), 0, 1, "scale_shift_table"),
        Attended(r"attn1\.to_out\.0", ("attn1.to_v",)),
        Attended(r"attn2\.to_out\.0", ("attn2.to_v",)),
    )
    unshared = "its self-attention is linear and makes no attention map that branches could share"

    def latent_shape(self, pipe: Any, sampler: Sampler) -> tuple[int, ...]:
        """[c, h, w]; BadInput for Sana-Sprint."""
        if pipe.transformer.config.guidance_embeds:
            raise BadInput(
                "Sana-Sprint has guidance as an input and a sampler of its own, which are not "
                "supported; take a Sana model without guidance_embeds"
            )
        return super().latent_shape(pipe, sampler)

    def conditions(
        self, pipe: Any, samples: Sequence[Sample], sampler: Sampler, encoded: Encoded
    ) -> Texts:
        """With the pipeline's instruction before every prompt."""
        asked = [
            sample
            if sample.prompt is None
            else sample.model_copy(update={"prompt": _instruction() + sample.prompt})
            for sample in samples
        ]
        return super().conditions(pipe, asked, sampler, encoded)

    def encode(self, pipe: Any, prompt: str) -> Rows:
        """Through Gemma: features [1, t, c] and the mask of real tokens [1, t], t = 300."""
        own = prompt.removeprefix(_instruction())
        features, mask, _, _ = pipe.encode_prompt(
            own,
            do_classifier_free_guidance=False,
            device=pipe.text_encoder.device,
            complex_human_instruction=None if own == prompt else [_instruction()],
        )
        return {"features": features, "mask": mask}

    def evaluate(
        self, transformer: nn.Module, x: Tensor, timestep: Tensor, rows: Rows, guidance: float
    ) -> Tensor:
        """Text by cross-attention, padding masked."""
        config: Any = transformer.config
        return transformer(
            x,
            encoder_hidden_states=rows["features"],
            encoder_attention_mask=rows["mask"],
            timestep=timestep * config.timestep_scale,
        ).sample


@cache
def _instruction() -> str:
    """What `SanaPipeline` puts before a prompt unless it is told otherwise."""
    from diffusers import SanaPipeline

    asked = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"]
    return "\n".join(asked.default)
