"""What a request draws, as the engine takes it: samples and a sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import prompts
from .request import ModelRequest

if TYPE_CHECKING:
    from quant.models import Model
    from quant.schema import Sample, Sampler
    from quant.subjects import Subjects


def samples_of(
    model: Model | Subjects, request: ModelRequest, seeds: Sequence[int]
) -> tuple[Sample, ...]:
    """One sample per seed: of the request's classes or prompts, else of the card's, in turn."""
    texts = [prompts.split(text)[0] for text in request.prompts]
    without = prompts.negatives(request.prompts, request.negative)
    return model.samples(seeds, request.classes or None, texts or None, without)


def sampler_of(model: Model, request: ModelRequest) -> Sampler:
    """The card's sampler with what the request gives put over it."""
    return model.sampler(request.steps, request.guidance, size=request.size, frames=request.frames)
