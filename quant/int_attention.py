"""Attention with int8 scores in a model: queries and keys of spatial self-attention, each row on its own scale.

SageAttention, Zhang et al. 2024, https://arxiv.org/abs/2410.02367; formulas in `kernels/int_attention/reference.py`.

Shapes: x [n, t, i]; Q, K, V [n, h, t, d].

Asked for by `Plan.attention`, beside any quantization of the layers; nothing is stored, because the scales come from
what is at hand. It goes with attention sharing, whose two branches are then one operation, and not with static ranges
inside attentions, which round the same tensors another way. Where it is not computed by a GPU kernel it is simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from kernels.dispatch import Choice
from kernels.int_attention import choose, int_attention

from .adapters import Adapter
from .attention_ranges import RangedAttention, obstacle
from .errors import BadInput
from .schema import AttentionFormat, Value

LEAVE = "leave attention int8 away"


class IntAttention:
    """diffusers' attention processor of a self-attention whose scores are products of int8 rows."""

    def __init__(self, backend: str | None = None) -> None:
        """`backend` as `kernels.dispatch` has them; None: what the environment says."""
        self.backend = backend
        self.taken: str | None = None  # by the last call outside graphs

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """x [n, t, i] -> y [n, t, i]."""
        if attention_mask is not None:
            raise BadInput(
                f"an attention with int8 scores is called with a mask, which it does not know; {LEAVE}"
            )
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (heads(attn, x) for x in (q, k, v))  # [n, h, t, d]
        q = q if attn.norm_q is None else attn.norm_q(q)
        k = k if attn.norm_k is None else attn.norm_k(k)
        return projected(attn, self.attend(q, k, v))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(Q K^T / sqrt(d)) V; two halves of V [2n, h, t, d] take the map of Q and K [n, h, t, d]."""
        if not torch.compiler.is_compiling():
            self.taken = choose(q, self.backend).backend
        if self.taken is None:
            raise RuntimeError(
                "call the transformer once eagerly before it is compiled or exported"
            )
        return int_attention(q, k, v, backend=self.taken)


def heads(attn: Any, x: Tensor) -> Tensor:
    """[n, t, h d] -> [n, h, t, d]."""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def projected(attn: Any, y: Tensor) -> Tensor:
    """Heads [n, h, t, d] joined, through the output projection and its dropout."""
    return attn.to_out[1](attn.to_out[0](y.transpose(1, 2).flatten(2)))


def check(
    transformer: nn.Module, adapter: Adapter, asked: AttentionFormat | None, options: Value
) -> None:
    """Stop where a plan asks for what the attentions, or a method's options, do not allow."""
    if asked is None:
        return
    if getattr(options, "inside", False):
        raise BadInput(
            "the method puts static integers inside attentions, which does not go with attention int8; take "
            f"--option inside=false, or {LEAVE}"
        )
    _allowed(transformer, adapter)


def attach(
    transformer: nn.Module,
    adapter: Adapter,
    asked: AttentionFormat | None,
    backend: str | None = None,
) -> None:
    """Let every spatial self-attention compute its scores in int8; before sharing is attached."""
    if asked is None:
        return
    for attention in _allowed(transformer, adapter):
        attention.set_processor(IntAttention(backend))  # type: ignore[arg-type]


def run_on(transformer: nn.Module, backend: str) -> None:
    """From now on on a backend."""
    for _, processor in _attached(transformer):
        processor.backend, processor.taken = backend, None


def choices(transformer: nn.Module) -> Iterator[Choice]:
    """What computes each of them, and why."""
    for module, processor in _attached(transformer):
        device = next(chain(module.parameters(), module.buffers())).device
        size = module.inner_dim // module.heads
        found = choose(torch.empty(1, module.heads, 1, size, device=device), processor.backend)
        yield Choice(found.backend, f"int8 attention: {found.why}")


def _attached(transformer: nn.Module) -> Iterator[tuple[Attention, IntAttention]]:
    for module in transformer.modules():
        processor = getattr(module, "processor", None)
        processor = getattr(processor, "ordinary", processor)  # of a shared one
        if isinstance(module, Attention) and isinstance(processor, IntAttention):
            yield module, processor


def _allowed(transformer: nn.Module, adapter: Adapter) -> list[Attention]:
    """The spatial self-attentions; BadInput where one of them is not computed in the ordinary way."""
    names = adapter.spatial_attentions(transformer)
    if not names:
        raise BadInput(
            f"{adapter.transformer_class} has no self-attention over picture tokens alone; {LEAVE}"
        )
    found = []
    for name in names:
        module = transformer.get_submodule(name)
        reason = obstacle(module)
        if isinstance(getattr(module, "processor", None), RangedAttention):
            reason = "it has static ranges inside"
        if reason:
            raise BadInput(f"attention {name} cannot take int8 scores: {reason}; {LEAVE}")
        assert isinstance(module, Attention)
        found.append(module)
    return found
