"""What has to be known of a model to decide formats for it, as plain values: shapes, rows, bytes. No torch in here.

A sweep leaves one beside its table, so that plans can be made, priced and checked where the model is not.
`quant.drafting` makes it and tells what a plan's file takes.
"""

from __future__ import annotations

from typing import Any

from .schema import Sampler, Value, Window


class SiteFacts(Value):
    """One linear layer."""

    name: str
    block: int | None
    role: str
    group: str  # metric group of the role
    in_features: int
    out_features: int
    input_of: str  # sites with the same value read the same tensor
    kept_reason: str | None
    rows: int  # of one sample in one guidance branch

    @property
    def weights(self) -> int:
        """How many numbers its weight has."""
        return self.in_features * self.out_features


class AttentionFacts(Value):
    """As `quant.roofline.Attention`."""

    name: str
    queries: int
    keys: int
    seen: int
    channels: int


class Blueprint(Value):
    """Of one model, as one method stores it, in windows of one sampler's steps."""

    model: str  # fingerprint of the site list
    method: str
    options: dict[str, Any]
    sampler: Sampler
    windows: tuple[Window, ...]
    shares: tuple[float, ...]  # of the steps, that each window holds
    branches: int  # of guidance
    sites: tuple[SiteFacts, ...]  # all, those that are kept too
    attentions: tuple[AttentionFacts, ...]
    bytes: dict[str, dict[str, int]]  # of a site's tensors, by bits of its weight ("16": as it is)
    rest_bytes: int  # of everything else, header included, at most
    fp16_bytes: int  # of the transformer's file with 16-bit weights
    dtype: str  # of kept weights and biases, as safetensors names it
    tensors: dict[
        str, tuple[tuple[int, ...], str]
    ]  # shape and dtype of all that full precision has
