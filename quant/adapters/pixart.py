"""PixArt-alpha and PixArt-Sigma: text by cross-attention, one shared adaLN (arXiv 2310.00426, 2403.04692)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..schema import Sample, Sampler
from .base import ADALN_KEPT, EMBED_KEPT, HEAD_KEPT, RolePattern
from .producers import Attended, Modulated
from .prompted import Prompted, Rows
from .residuals import Residual, cross_attended, single_modulation


class PixArt(Prompted):
    """`PixArtTransformer2DModel`, with `PixArtAlphaPipeline` or `PixArtSigmaPipeline`.

    A size is drawn as it is asked for: the pipelines' own snapping to trained aspect ratios
    (`use_resolution_binning`) is left out.
    """

    family = "pixart"
    transformer_class = "PixArtTransformer2DModel"
    defaults = {"guidance": 4.5, "steps": 20}
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
        RolePattern(r"ff\.net\.0\.proj", "fc1"),
        RolePattern(r"ff\.net\.2", "fc2"),
    )
    outside = (
        RolePattern(r"adaln_single\.linear", "adaln", kept=ADALN_KEPT),
        RolePattern(r"adaln_single\.emb\..*", "embed", kept=EMBED_KEPT),
        RolePattern(r"caption_projection\..*", "embed", kept=EMBED_KEPT),
        RolePattern(r"proj_out", "head", kept=HEAD_KEPT),
    )
    # One linear for all blocks, and a table of its own in each. Cross-attention's query reads the
    # residual stream, its key and value the text: nothing makes those channel by channel.
    produced = (
        Modulated(r"attn1\.to_[qkv]", "/adaln_single.linear", (6,), 0, 1, "scale_shift_table"),
        Modulated(r"ff\.net\.0\.proj", "/adaln_single.linear", (6,), 3, 4, "scale_shift_table"),
        Attended(r"attn1\.to_out\.0", ("attn1.to_v",)),
        Attended(r"attn2\.to_out\.0", ("attn2.to_v",)),
    )
    residuals = (Residual("norm1", "attn1", 0, 1, 2), Residual("norm2", "ff", 3, 4, 5))

    def modulation(self, block: nn.Module, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """Six rows that all blocks share, and the block's own table."""
        return single_modulation(block, x, call)

    def between(self, block: nn.Module, x: Tensor, call: Mapping[str, Any]) -> Tensor:
        """Cross-attention to the text."""
        return cross_attended(block, x, call)

    def encode(self, pipe: Any, prompt: str) -> Rows:
        """Through T5: features [1, t, c] and the mask of real tokens [1, t], t 120 or (Sigma) 300."""
        features, mask, _, _ = pipe.encode_prompt(prompt, False, device=pipe.text_encoder.device)
        return {"features": features, "mask": mask}

    def shared_rows(self, pipe: Any, samples: Sequence[Sample], sampler: Sampler) -> Rows:
        """PixArt-alpha at 1024 is told the picture's height and width, and their ratio."""
        if not pipe.transformer.use_additional_conditions:
            return {}
        height, width = (side * pipe.vae_scale_factor for side in self.latent_size(pipe, sampler))
        rows = torch.tensor([[height, width]]), torch.tensor([[height / width]])
        device = pipe.text_encoder.device
        return {
            name: row.repeat(len(samples), 1).float().to(device)
            for name, row in zip(("resolution", "aspect_ratio"), rows)
        }

    def evaluate(
        self, transformer: nn.Module, x: Tensor, timestep: Tensor, rows: Rows, guidance: float
    ) -> Tensor:
        """Text by cross-attention, padding masked."""
        sizes = {name: rows.get(name) for name in ("resolution", "aspect_ratio")}
        return transformer(
            x,
            encoder_hidden_states=rows["features"],
            encoder_attention_mask=rows["mask"],
            timestep=timestep,
            added_cond_kwargs=sizes,
        ).sample
