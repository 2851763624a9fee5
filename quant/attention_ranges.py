"""Static integers inside an attention: queries, keys, values and the softmax's output, each on one range.

TaQ-DiT, Liu et al. 2024, https://arxiv.org/abs/2411.14172 (sites of the released code, read there).

Shapes: Q, K, V [n, h, t, d]; P [n, h, t, t']; each with its own step s and zero z for all timesteps.

    P = softmax(Q(Q) Q(K)^T / sqrt(d) + mask)       Q(x) = (clip(round(x / s) + z, 0, 2^b - 1) - z) s
    y = Q(P) Q(V) W_o

Both products are simulated: the integers are expanded for ordinary matmuls. The numbers of the ranges
lie in the checkpoint's configuration, as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from pydantic import Field
from torch import Tensor, nn

from .attention_heads import output_of, split_heads
from .errors import BadCheckpoint, BadInput
from .schema import Value

ORDINARY = (AttnProcessor2_0, AttnProcessor)
PARTS = ("q", "k", "v", "probabilities")

Quantizer = Callable[[Tensor], Tensor]


class Range(Value):
    """One static range of unsigned integers."""

    scale: float = Field(gt=0, allow_inf_nan=False)
    zero: int = Field(ge=0, le=255)
    bits: int = Field(default=8, ge=2, le=8)

    def __call__(self, x: Tensor) -> Tensor:
        """What the codes of x stand for, in x's dtype."""
        codes = (x.float() / self.scale).round() + self.zero
        rounded = codes.clamp(0, 2**self.bits - 1) - self.zero
        return (rounded * self.scale).to(x.dtype)


class AttentionRange(Value):
    """The ranges of one attention."""

    q: Range
    k: Range
    v: Range
    probabilities: Range

    @property
    def quantizers(self) -> dict[str, Quantizer]:
        """By the names of `PARTS`."""
        return {part: getattr(self, part) for part in PARTS}


class RangedAttention:
    """diffusers' attention processor that quantizes what it multiplies."""

    def __init__(self, quantizers: Mapping[str, Quantizer], ordinary: Any) -> None:
        """`quantizers` by the names of `PARTS`; `ordinary` is what the attention had."""
        self.quantizers, self.ordinary = dict(quantizers), ordinary

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """x [n, t, i] -> y [n, t, i]."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            split_heads(attn, linear(x))
            for linear, x in (
                (attn.to_q, hidden_states),
                (attn.to_k, context),
                (attn.to_v, context),
            )
        )  # [n, h, t, d]
        q = q if attn.norm_q is None else attn.norm_q(q)
        k = k if attn.norm_k is None else attn.norm_k(k)
        use = self.quantizers
        scores = use["q"](q).float() @ use["k"](k).float().transpose(-1, -2) / q.shape[-1] ** 0.5
        if attention_mask is not None:
            mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(context))
            scores = scores + mask.view(len(context), attn.heads, -1, mask.shape[-1])
        p = use["probabilities"](scores.softmax(-1))  # [n, h, t, t']
        y = (p @ use["v"](v).float()).to(v.dtype)
        return output_of(attn, y)


def obstacle(attention: nn.Module) -> str:
    """Why an attention cannot be quantized inside; nothing where it can."""
    if not isinstance(attention, Attention):
        return "it is no attention of diffusers' own"
    more = [
        part
        for part in ("spatial_norm", "group_norm", "norm_cross", "add_k_proj", "to_qkv", "to_kv")
        if getattr(attention, part, None)
    ]
    if attention.residual_connection or attention.rescale_output_factor != 1:
        more.append("a residual of its own")
    if type(attention.processor) not in (*ORDINARY, RangedAttention):
        more.append(f"the processor {type(attention.processor).__name__}")
    return f"it has {', '.join(more)}" if more else ""


def put_in(attention: nn.Module, quantizers: Mapping[str, Quantizer]) -> None:
    """Make one attention quantize inside; BadInput where it cannot."""
    reason = obstacle(attention)
    if reason:
        raise BadInput(f"an attention cannot be quantized inside: {reason}")
    held = attention.processor
    ordinary = held.ordinary if isinstance(held, RangedAttention) else held
    attention.set_processor(RangedAttention(quantizers, ordinary))  # type: ignore[operator]


def attach(transformer: nn.Module, ranges: Mapping[str, AttentionRange]) -> None:
    """Put the ranges into the attentions that they name."""
    names = {name for name, module in transformer.named_modules() if isinstance(module, Attention)}
    for name, own in ranges.items():
        if name not in names:
            raise BadCheckpoint(
                f"ranges are given for attention '{name}', which this transformer does not have"
            )
        put_in(transformer.get_submodule(name), own.quantizers)


@torch.no_grad()
def inside(attention: nn.Module, run: Callable[[], object]) -> dict[str, list[Tensor]]:
    """What an attention multiplies while `run` runs, by the names of `PARTS`."""
    seen: dict[str, list[Tensor]] = {part: [] for part in PARTS}

    def recorder(part: str) -> Quantizer:
        def record(x: Tensor) -> Tensor:
            seen[part].append(x.detach())
            return x

        return record

    held = attention.processor
    put_in(attention, {part: recorder(part) for part in PARTS})
    try:
        run()
    finally:
        attention.set_processor(held)  # type: ignore[operator]
    return seen
