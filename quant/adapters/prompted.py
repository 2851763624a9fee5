"""What families with prompts share: texts as rows, both guidance branches in one batch, the formula.

    guided = uncond + g (cond - uncond)        the negative prompt's half first, as diffusers has it

A family says how its pipeline encodes one text and how its transformer is called. Texts have one
length, so that rows of different prompts stack and a picture does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import BadInput
from ..schema import Sample, Sampler
from .base import Adapter, Encoded, Prediction, dtype_of, pictures

Rows = dict[str, Tensor]  # by name, one row per sample


@dataclass(frozen=True)
class Texts:
    """Rows of the samples' prompts and negative prompts; what both branches share is in both."""

    cond: Rows
    uncond: Rows | None  # None without guidance

    def batch(self, guided: bool) -> Rows:
        """The rows of one batch: both branches, the negative prompts' first, or the prompts alone."""
        if not guided:
            return self.cond
        if self.uncond is None:
            raise BadInput("these conditions were made without guidance, and it is asked for now")
        return {name: torch.cat([self.uncond[name], self.cond[name]]) for name in self.cond}


class Prompted(Adapter):
    """Base of families that draw from prompts: they add `encode` and `evaluate`."""

    conditioned_on = "prompt"
    sample_prompts: ClassVar[tuple[str, ...]] = (
        "a red bicycle leaning against a brick wall",
        "an old lighthouse on a rocky coast at dusk",
        "a bowl of ramen with a soft-boiled egg, steam rising",
        "portrait of an elderly fisherman with a grey beard",
        "a fox sitting in tall grass, morning light",
        "a narrow street in the rain, neon signs reflected in puddles",
        "a wooden cabin by a mountain lake, autumn trees",
        "two parrots on a branch, detailed feathers",
    )

    def card_defaults(self, pipe: Any) -> dict[str, Any]:
        """With prompts for a model whose folder has none."""
        return {"prompts": self.sample_prompts, **super().card_defaults(pipe)}

    def shared_rows(self, pipe: Any, samples: Sequence[Sample], sampler: Sampler) -> Rows:
        """Rows that do not come from a text, one per sample: sizes, for instance."""
        return {}

    def evaluate(
        self, transformer: nn.Module, x: Tensor, timestep: Tensor, rows: Rows, guidance: float
    ) -> Tensor:
        """Call the transformer on a batch x [b, *latent_shape] at timesteps [b]; its output, as x is laid out.

        Further channels than those of x, a learned variance, are dropped afterwards.
        """
        raise self._cannot_draw()

    def conditions(
        self, pipe: Any, samples: Sequence[Sample], sampler: Sampler, encoded: Encoded
    ) -> Texts:
        """Every different text is encoded once."""
        prompts = [sample.prompt for sample in samples]
        if None in prompts:
            raise BadInput("this model draws prompts, not classes; give --prompt")
        if getattr(pipe, "text_encoder", None) is None:
            raise BadInput("this pipeline comes without its text encoder, so it draws no prompts")
        shared = self.shared_rows(pipe, samples, sampler)
        cond = {**_stacked([encoded(text) for text in prompts if text is not None]), **shared}
        if self.branches(sampler.guidance) == 1:
            return Texts(cond, None)
        return Texts(cond, {**_stacked([encoded(s.negative or "") for s in samples]), **shared})

    def predict(
        self,
        transformer: nn.Module,
        latents: Tensor,
        timestep: Tensor,
        conditions: Texts,
        guidance: float,
    ) -> Prediction:
        """Both branches in one batch."""
        guided, channels = self.branches(guidance) == 2, latents.shape[1]
        x = torch.cat([latents, latents]) if guided else latents
        dtype = dtype_of(transformer)
        rows = {n: _as(row, dtype) for n, row in conditions.batch(guided).items()}
        out = self.evaluate(transformer, x.to(dtype), timestep.expand(len(x)), rows, guidance)
        out = out[:, :channels].float()
        if not guided:
            return Prediction(out, None, out)
        uncond, cond = out.chunk(2)
        return Prediction(cond, uncond, uncond + guidance * (cond - uncond))

    def decode(self, pipe: Any, latents: Tensor) -> Tensor:
        """Through the pipeline's VAE."""
        return pictures(pipe.vae, latents)


def _stacked(texts: Sequence[Rows]) -> Rows:
    return {name: torch.cat([text[name] for text in texts]) for name in texts[0]}


def _as(row: Tensor, dtype: torch.dtype) -> Tensor:
    """Masks and other whole numbers stay what they are."""
    return row.to(dtype) if row.is_floating_point() else row
